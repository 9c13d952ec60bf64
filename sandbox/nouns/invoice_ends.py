"""How an invoice ends without money, and what the clock does with one."""

from sandbox import agenda
from sandbox.errors import invalid
from sandbox.nouns import invoicing, paying
from sandbox.shapes import Obj
from sandbox.world import World


def void(world: World, invoice: Obj) -> Obj:
    """Take an invoice back. Raises StripeError 400 if it is not open."""
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid("You can only pass in open or uncollectible invoices to void.")
    _close_payment(world, invoice)
    transitions = {**invoice["status_transitions"], "voided_at": world.now}
    return world.move(invoice, "void", next_payment_attempt=None, status_transitions=transitions)


def mark_uncollectible(world: World, invoice: Obj, reason: str = "user_forgiven") -> Obj:
    """Give an invoice up. It can still be paid."""
    if invoice["status"] != "open":
        raise invalid("You can only mark open invoices as uncollectible.")
    transitions = {**invoice["status_transitions"], "marked_uncollectible_at": world.now}
    return world.move(
        invoice,
        "uncollectible",
        next_payment_attempt=None,
        status_details={"uncollectible": {"reason": reason}},
        status_transitions=transitions,
    )


def _close_payment(world: World, invoice: Obj) -> None:
    intent = invoicing.intent_of(world, invoice)
    if intent is None:
        return
    payment = world.get("invoice_payment", world.note(invoice["id"])["payment"])
    transitions = {**payment["status_transitions"], "canceled_at": world.now}
    world.move(payment, "canceled", status_transitions=transitions)
    if intent["status"] in (*paying.CONFIRMABLE, "requires_capture"):
        paying.cancel(world, intent, "void_invoice")


# By the clock


def _due(world: World, invoice: Obj) -> int | None:
    if invoice["status"] == "draft":
        return invoice["automatically_finalizes_at"] if invoice["auto_advance"] else None
    if invoice["status"] != "open":
        return None
    if invoice["next_payment_attempt"] is not None and invoice["auto_advance"]:
        return invoice["next_payment_attempt"]
    if invoice["due_date"] is not None and not world.note(invoice["id"]).get("is_overdue"):
        return invoice["due_date"]
    return None


def _act(world: World, invoice: Obj) -> None:
    if invoice["status"] == "draft":
        finalize_and_collect(world, invoice)
    elif invoice["next_payment_attempt"] is not None and invoice["auto_advance"]:
        invoice["next_payment_attempt"] = None
        invoicing.collect(world, invoice)
    else:
        world.note(invoice["id"])["is_overdue"] = True
        world.emit("invoice.overdue", invoice)
        world.react(invoicing.FAILED, invoice)


def finalize_and_collect(world: World, invoice: Obj) -> Obj:
    """What the clock does with a draft, by the way of collection and a pause of it."""
    pause = world.note(invoice["id"]).get("pause")
    invoicing.finalize(world, invoice)
    if invoice["status"] != "open":
        return invoice
    if pause == "void":
        return void(world, invoice)
    if pause == "mark_uncollectible":
        return mark_uncollectible(world, invoice, "subscription_paused")
    if invoice["collection_method"] == "send_invoice":
        world.emit("invoice.sent", invoice)
        return invoice
    return invoicing.collect(world, invoice)


agenda.register("invoice", _due, _act)
