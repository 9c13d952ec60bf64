"""What time does to a subscription: trials end, periods begin, notices go out, payments lapse."""

from sandbox import agenda
from sandbox.calendar import DAY
from sandbox.nouns import (
    invoice_ends,
    invoice_lines,
    invoicing,
    sub_changes,
    sub_status,
    subscribing,
)
from sandbox.nouns.subscribing import ENDED, is_metered, items_of, set_period
from sandbox.shapes import Obj, at
from sandbox.world import World, copied

RUNNING = ("active", "past_due", "unpaid", "trialing")


def period_end(sub: Obj) -> int:
    """When the next period of an item begins."""
    return min(item["current_period_end"] for item in items_of(sub))


def _due(world: World, sub: Obj) -> int | None:
    """The earliest of all that waits."""
    if sub["status"] in ENDED:
        return None
    times = list[int]()
    if sub["status"] == "incomplete":
        times.append(sub["created"] + subscribing.INCOMPLETE_SECONDS)
    if sub["pending_update"] is not None:
        times.append(sub["pending_update"]["expires_at"])
    if sub["cancel_at"] is not None:
        times.append(sub["cancel_at"])
    if sub["status"] in RUNNING:
        times.append(period_end(sub))
        times += [at for at in (_notice(world, sub), _upcoming(world, sub)) if at is not None]
    if (pause := sub["pause_collection"]) is not None and pause["resumes_at"] is not None:
        times.append(pause["resumes_at"])
    return min(times, default=None)


def _notice(world: World, sub: Obj) -> int | None:
    """When `trial_will_end` is due, unless it was sent for this end."""
    if sub["status"] != "trialing":
        return None
    if world.note(sub["id"]).get("noticed") == sub["trial_end"]:
        return None
    at = sub["trial_end"] - world.settings.trial_notice_days * DAY
    return max(at, sub["trial_start"])


def _upcoming(world: World, sub: Obj) -> int | None:
    """When `invoice.upcoming` is due; a period shorter than the notice has none."""
    if sub["status"] not in ("active", "trialing") or sub["cancel_at"] is not None:
        return None
    end = period_end(sub)
    start = min(item["current_period_start"] for item in items_of(sub))
    at = end - world.settings.upcoming_days * DAY
    is_told = world.note(sub["id"]).get("upcoming") == end
    return None if is_told or at <= start else at


def _act(world: World, sub: Obj) -> None:
    now = world.now
    pause, pending = sub["pause_collection"], sub["pending_update"]
    if sub["status"] == "incomplete" and (sub["created"] + subscribing.INCOMPLETE_SECONDS <= now):
        _lapse(world, sub)
    elif pending is not None and pending["expires_at"] <= now:
        sub_changes.expire_pending(world, sub)
    elif sub["cancel_at"] is not None and sub["cancel_at"] <= now:
        _finish(world, sub)
    elif pause is not None and pause["resumes_at"] is not None and pause["resumes_at"] <= now:
        world.change(sub, "customer.subscription.updated", pause_collection=None)
    elif (at := _notice(world, sub)) is not None and at <= now:
        world.note(sub["id"])["noticed"] = sub["trial_end"]
        world.emit("customer.subscription.trial_will_end", sub)
    elif (at := _upcoming(world, sub)) is not None and at <= now:
        world.note(sub["id"])["upcoming"] = period_end(sub)
        world.emit("invoice.upcoming", upcoming(world, sub))
    else:
        _renew(world, sub)


agenda.register("subscription", _due, _act)


def _lapse(world: World, sub: Obj) -> None:
    """Nobody has paid the first invoice."""
    if (invoice_id := sub["latest_invoice"]) is not None:
        invoice = world.get("invoice", invoice_id)
        if invoice["status"] == "open":
            invoice_ends.void(world, invoice)
    sub_status.end(world, sub, reason="payment_failed", status="incomplete_expired")


def _finish(world: World, sub: Obj) -> None:
    """The end that was asked for. What is still to be billed comes on a last invoice."""
    reason = sub["cancellation_details"]["reason"] or "cancellation_requested"
    end = sub["cancel_at"]
    sub_status.end(world, sub, reason=reason)
    last_invoice(world, sub, end)


def last_invoice(world: World, sub: Obj, end: int, *, is_due: bool = True) -> Obj | None:
    """Usage and waiting items of a subscription that is over; None if there is nothing."""
    if not is_due:
        return None
    lines = [
        invoice_lines.metered(world, sub, item, item["current_period_start"], end)
        for item in items_of(sub)
        if is_metered(item)
    ]
    lines = [line for line in lines if line["quantity"]]
    invoice = _cycle_draft(world, sub, items_of(sub)[0]["current_period_start"], end)
    lines = invoicing.take_pending(world, invoice, sub=sub["id"]) + lines
    if not lines:
        return None
    invoicing.put_lines(world, invoice, lines)
    invoice["automatically_finalizes_at"] = world.now + world.settings.finalize_seconds
    world.add(invoice, "invoice.created")
    sub["latest_invoice"] = invoice["id"]
    return invoice


def _cycle_draft(world: World, sub: Obj, start: int, end: int) -> Obj:
    return invoicing.draft(
        world,
        world.get("customer", sub["customer"]),
        currency=sub["currency"],
        reason="subscription_cycle",
        start=start,
        end=end,
        sub=sub,
    )


def _renew(world: World, sub: Obj) -> None:
    """The next period of the items whose period is over."""
    at, before = period_end(sub), copied(sub)
    was_trial = sub["status"] == "trialing"
    if was_trial and not _leave_trial(world, sub):
        return
    invoice = turn(world, sub, at, was_trial=was_trial)
    sub["latest_invoice"] = invoice["id"]
    sub_changes.told(world, sub, before)
    world.add(invoice, "invoice.created")


def _leave_trial(world: World, sub: Obj) -> bool:
    """Whether a subscription goes on after its trial."""
    missing = subscribing.default_method(world, sub) is None
    behavior = sub["trial_settings"]["end_behavior"]["missing_payment_method"]
    if missing and sub["collection_method"] == "charge_automatically":
        if behavior == "cancel":
            sub_status.end(world, sub, reason="payment_failed")
            return False
        if behavior == "pause":
            why = "trial_end_without_payment_method"
            world.move(sub, "paused", status_details=paused_because(world, why))
            return False
    sub["status"] = "active"
    return True


def paused_because(world: World, why: str) -> Obj:
    """`status_details` of a paused subscription."""
    return {
        "paused": {
            "subscription": {"type": why},
            "transitioned_at": world.now,
            "type": "subscription",
        }
    }


def turn(world: World, sub: Obj, at: int, *, was_trial: bool) -> Obj:
    """Move items over the end of their period, and draft the invoice; not stored."""
    due = [item for item in items_of(sub) if item["current_period_end"] <= at]
    old_start = due[0]["current_period_start"]
    lines = list[Obj]()
    for item in due:
        if is_metered(item) and not was_trial:
            start, end = item["current_period_start"], item["current_period_end"]
            lines.append(invoice_lines.metered(world, sub, item, start, end))
    for item in due:
        set_period(item, *subscribing.period_of(item, sub["billing_cycle_anchor"], at))
    lines += subscribing.advance_lines(world, sub, due)
    invoice = _cycle_draft(world, sub, old_start, at)
    lines = invoicing.take_pending(world, invoice, sub=sub["id"]) + lines
    invoicing.put_lines(world, invoice, lines)
    _let_advance(world, sub, invoice)
    return invoice


def _let_advance(world: World, sub: Obj, invoice: Obj) -> None:
    """Whether the draft goes on by itself."""
    behavior = at(sub, "pause_collection", "behavior")
    if sub["status"] == "unpaid" or behavior == "keep_as_draft":
        invoice["auto_advance"] = False
        return
    if behavior is not None:
        world.note(invoice["id"])["pause"] = behavior
    invoice["automatically_finalizes_at"] = world.now + world.settings.finalize_seconds


def upcoming(world: World, sub: Obj) -> Obj:
    """The next invoice as it would be now; made in a fork, so nothing of it stays."""
    fork = world.fork()
    twin = fork.get("subscription", sub["id"])
    at = period_end(twin)
    was_trial = twin["status"] == "trialing"
    invoice = turn(fork, twin, at, was_trial=was_trial)
    return as_preview(fork, invoice, at)


def as_preview(world: World, invoice: Obj, at: int) -> Obj:
    """An invoice that does not exist yet: it has an id that cannot be fetched."""
    return {
        **invoice,
        "id": f"upcoming_in_{world.secret()}",
        "automatically_finalizes_at": None,
        "created": at,
        "next_payment_attempt": at + world.settings.finalize_seconds,
        "status": "draft",
    }
