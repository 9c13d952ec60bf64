"""Another price, quantity, anchor or trial end in the middle of a period: prorations by the second,
and updates that wait for their payment.

A credit is what was really charged for the rest of the period, a debit the new price of that rest.
"""

from sandbox import reactions
from sandbox.calendar import HOUR
from sandbox.errors import StripeError, check_time, invalid, missing
from sandbox.money import share
from sandbox.nouns import invoice_ends, invoice_lines, invoicing, paying, subscribing
from sandbox.nouns.subscribing import is_metered, items_of, price_of, set_period
from sandbox.shapes import Obj
from sandbox.world import World, copied, pick

PENDING_SECONDS = 23 * HOUR


def told(world: World, sub: Obj, before: Obj) -> None:
    """Tell what is different from a copy made before."""
    changed = {name: value for name, value in before.items() if sub.get(name) != value}
    if changed:
        world.emit("customer.subscription.updated", sub, changed)


def apply(world: World, sub: Obj, given: Obj) -> Obj | None:
    """Change items, anchor and trial. The draft of an invoice that is due at once, if any.

    Raises StripeError 400.
    """
    date = given.get("proration_date", world.now)
    behavior = given.get("proration_behavior", "create_prorations")
    old = copied(items_of(sub))
    new = _planned(world, sub, given.get("items") or [])
    was_trial = sub["status"] == "trialing"
    _move_trial(world, sub, given, new)
    is_trial = was_trial and sub["status"] == "trialing"
    resets = not is_trial and (
        was_trial
        or given.get("billing_cycle_anchor", {}).get("type") == "now"
        or _intervals(old) != _intervals(new)
    )
    prorates = behavior != "none" and not was_trial
    if prorates and sub["status"] != "paused":
        _check_date(old, date)
        for item in old:
            if resets or _is_changed(item, new):
                _credit(world, sub, item, date)
    lines = list[Obj]()
    if resets:
        lines = [
            invoice_lines.metered(world, sub, item, item["current_period_start"], world.now)
            for item in old
            if is_metered(item) and not was_trial
        ]
    sub["items"]["data"] = new
    if resets:
        sub["billing_cycle_anchor"] = world.now
        for item in new:
            set_period(item, *subscribing.period_of(item, world.now, world.now))
        lines += subscribing.advance_lines(world, sub, new)
    elif not is_trial:
        _debit_changed(world, sub, old, new, date, prorates=prorates)
    subscribing.add_waiting(world, sub, given.get("add_invoice_items") or [])
    return _invoice(world, sub, lines, is_due=resets or behavior == "always_invoice")


def _planned(world: World, sub: Obj, asked: list[Obj]) -> list[Obj]:
    """The items as they will be."""
    items = {item["id"]: copied(item) for item in items_of(sub)}
    for number, given in enumerate(asked):
        param = f"items[{number}]"
        if (item_id := given.get("id")) is None:
            item = subscribing.new_item(world, sub["id"], given, param)
            set_period(item, *_first_period(world, sub, item))
            world.note(item["id"])["charged"] = 0
            items[item["id"]] = item
            continue
        if item_id not in items:
            raise missing("subscription_item", item_id, param=f"{param}[id]", status=400)
        if given.get("deleted"):
            del items[item_id]
            continue
        _replan(world, items[item_id], given, param)
    if not items:
        raise invalid("A subscription must have at least one active item.", param="items")
    if len({item["price"]["currency"] for item in items.values()} | {sub["currency"]}) > 1:
        raise invalid("All prices of a subscription have one currency.", param="items")
    return list(items.values())


def _first_period(world: World, sub: Obj, item: Obj) -> tuple[int, int]:
    """The period that a new item joins. At the end of one, it is renewed with the others."""
    if sub["status"] == "trialing" and sub["trial_end"] is not None:
        return world.now, sub["trial_end"]
    sibling = items_of(sub)[0]
    if sibling["current_period_end"] <= world.now:
        return sibling["current_period_start"], sibling["current_period_end"]
    return subscribing.period_of(item, sub["billing_cycle_anchor"], world.now)


def _replan(world: World, item: Obj, given: Obj, param: str) -> None:
    if given.keys() & {"price", "plan", "price_data"}:
        fresh = subscribing.new_item(world, item["subscription"], given, param)
        item.update(price=fresh["price"], plan=fresh["plan"])
        if is_metered(item):
            item.pop("quantity", None)
        else:
            item.setdefault("quantity", 1)
    if "quantity" in given:
        if given["quantity"] < 0:
            raise invalid("Invalid quantity.", param=f"{param}[quantity]")
        item["quantity"] = given["quantity"]
    if "tax_rates" in given:
        rates = invoice_lines.rates_of(world, given["tax_rates"], f"{param}[tax_rates]")
        item["tax_rates"] = rates
    if given.get("metadata"):
        item["metadata"] = {**item["metadata"], **given["metadata"]}


def _move_trial(world: World, sub: Obj, given: Obj, items: list[Obj]) -> None:
    end = given.get("trial_end")
    if end is None:
        return
    if end == "now":
        if sub["status"] == "trialing":
            sub.update(status="active", trial_end=world.now)
        return
    if end <= world.now:
        raise invalid("Invalid timestamp: must be in the future.", param="trial_end")
    check_time(end, "trial_end")
    start = sub["trial_start"] if sub["status"] == "trialing" else world.now
    sub.update(status="trialing", trial_start=start, trial_end=end, billing_cycle_anchor=end)
    for item in items:
        set_period(item, item["current_period_start"], end)


def _intervals(items: list[Obj]) -> set[tuple[str, int]]:
    return {
        (item["price"]["recurring"]["interval"], item["price"]["recurring"]["interval_count"])
        for item in items
    }


def _is_changed(item: Obj, new: list[Obj]) -> bool:
    """Whether an item costs something else afterwards, or is gone."""
    for other in new:
        if other["id"] == item["id"]:
            return (other["price"]["id"], other.get("quantity")) != (
                item["price"]["id"],
                item.get("quantity"),
            )
    return True


def _check_date(items: list[Obj], date: int) -> None:
    for item in items:
        if not item["current_period_start"] <= date <= item["current_period_end"]:
            raise invalid(
                "The proration date must be inside the current billing period.",
                param="proration_date",
            )


def _credit(world: World, sub: Obj, item: Obj, date: int) -> None:
    """Give back the rest of a period; metered items have nothing to give back."""
    charged = world.note(item["id"]).get("charged", price_of(world, item))
    if is_metered(item) or not charged:
        return
    start, end = item["current_period_start"], item["current_period_end"]
    _prorate(world, sub, item, -share(charged, end - date, end - start), date, "Unused")


def _debit_changed(
    world: World, sub: Obj, old: list[Obj], new: list[Obj], date: int, *, prorates: bool
) -> None:
    before = {item["id"]: item for item in old}
    for item in new:
        was = before.get(item["id"])
        if was is not None and not _is_changed(was, new):
            continue
        if is_metered(item) or not prorates:
            continue
        start, end = item["current_period_start"], item["current_period_end"]
        whole = world.note(item["id"])["charged"] = price_of(world, item)
        _prorate(world, sub, item, share(whole, end - date, end - start), date, "Remaining")


def _prorate(world: World, sub: Obj, item: Obj, amount: int, date: int, word: str) -> None:
    """An invoice item for the rest of a period, waiting for the next invoice."""
    price = item["price"]
    name = world.table("product").get(price["product"], {}).get("name", "Item")
    entry = world.make("invoiceitem", "ii")
    entry.update(
        amount=amount,
        currency=price["currency"],
        customer=sub["customer"],
        date=world.now,
        description=f"{word} time on {item['quantity']} × {name}",
        discountable=True,
        metadata={},
        parent={
            "type": "subscription_details",
            "subscription_details": {
                "subscription": sub["id"],
                "subscription_item": item["id"],
            },
        },
        period={"start": date, "end": item["current_period_end"]},
        pricing={
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        proration=True,
        proration_details={"credited_items": None, "discount_amounts": []},
        quantity=item["quantity"],
        quantity_decimal=str(item["quantity"]),
        tax_rates=item["tax_rates"],
    )
    world.note(entry["id"]).update(subscription=sub["id"], subscription_item=item["id"])
    world.add(entry, "invoiceitem.created")


def credit_all(world: World, sub: Obj, *, from_start: bool = False) -> None:
    """Give back the rest of all running periods, or all of them."""
    for item in items_of(sub):
        start = item["current_period_start"]
        if start <= world.now <= item["current_period_end"]:
            _credit(world, sub, item, start if from_start else world.now)
            world.note(item["id"])["charged"] = 0


def _invoice(world: World, sub: Obj, lines: list[Obj], *, is_due: bool) -> Obj | None:
    if not is_due:
        return None
    invoice = update_draft(world, sub)
    lines = invoicing.take_pending(world, invoice, sub=sub["id"]) + lines
    if not lines:
        return None
    invoicing.put_lines(world, invoice, lines)
    world.add(invoice, "invoice.created")
    return invoice


def update_draft(world: World, sub: Obj) -> Obj:
    """An empty invoice for a change; not stored."""
    return invoicing.draft(
        world,
        world.get("customer", sub["customer"]),
        currency=sub["currency"],
        reason="subscription_update",
        start=world.now,
        end=world.now,
        sub=sub,
    )


def settle(world: World, sub: Obj, invoice: Obj | None, given: Obj) -> None:
    """Finalise the invoice of a change and take the money as the payment behavior says."""
    if invoice is None:
        return
    sub["latest_invoice"] = invoice["id"]
    invoicing.finalize(world, invoice)
    if invoice["status"] != "open" or sub["collection_method"] == "send_invoice":
        return
    if given.get("payment_behavior") != "default_incomplete":
        _try(world, invoice, given)
    intent = invoicing.intent_of(world, invoice)
    is_unpaid = intent is not None and intent["status"] in paying.CONFIRMABLE
    if is_unpaid and sub["status"] == "active":
        world.move(sub, "past_due")


def settle_first(world: World, invoice: Obj) -> None:
    """Take the money of an invoice with nobody present, if there is something to pay with."""
    if invoice["status"] == "open" and invoicing.method_for(world, invoice) is not None:
        invoicing.collect(world, invoice)


def _try(world: World, invoice: Obj, given: Obj) -> None:
    try:
        method = invoicing.method_for(world, invoice)
        invoicing.pay(world, invoice, method, off_session=bool(given.get("off_session")))
    except StripeError:
        return


# Updates that wait for their payment


def would_pay(world: World, sub: Obj, given: Obj) -> bool:
    """Whether a change would be paid at once, or costs nothing; tried in a fork."""
    fork = world.fork()
    twin = fork.get("subscription", sub["id"])
    invoice = apply(fork, twin, given)
    if invoice is None or invoice["amount_due"] == 0:
        return True
    method = subscribing.default_method(world, sub)
    off_session = bool(given.get("off_session"))
    return method is not None and (paying.verdict(world, method, off_session=off_session) == "pays")


def hold_back(world: World, sub: Obj, given: Obj) -> None:
    """Make the invoice of a change that is applied only once it is paid."""
    fork = world.fork()
    twin = fork.get("subscription", sub["id"])
    made = apply(fork, twin, given)
    assert made is not None
    invoice = _adopt(world, fork, made)
    items = copied(items_of(twin))
    world.note(invoice["id"])["change"] = {
        "subscription": sub["id"],
        "members": copied(pick(twin, "items", "billing_cycle_anchor", "trial_end", "status")),
        "charged": {item["id"]: fork.note(item["id"]).get("charged") for item in items},
    }
    world.change(
        sub,
        "customer.subscription.updated",
        pending_update={
            "expires_at": world.now + PENDING_SECONDS,
            "subscription_items": items,
        },
        latest_invoice=invoice["id"],
    )
    invoicing.finalize(world, invoice)
    _try(world, invoice, given)


def _adopt(world: World, fork: World, made: Obj) -> Obj:
    """Take an invoice with what belongs to it over from a fork."""
    world.counter = fork.counter
    for entry in fork.every("invoiceitem", invoice=made["id"]):
        world.notes[entry["id"]] = copied(fork.note(entry["id"]))
        world.store(copied(entry))
    for line in made["lines"]["data"]:
        world.notes[line["id"]] = copied(fork.note(line["id"]))
    return world.add(copied(made), "invoice.created")


@reactions.on("invoice.paid")
def _apply_paid(world: World, invoice: Obj) -> None:
    change: Obj | None = world.note(invoice["id"]).pop("change", None)
    if change is None:
        return
    sub = world.get("subscription", change["subscription"])
    if sub["pending_update"] is None:
        return
    for item_id, charged in change["charged"].items():
        world.note(item_id)["charged"] = charged
    before = copied(sub)
    sub.update(change["members"], pending_update=None)
    told(world, sub, before)
    world.emit("customer.subscription.pending_update_applied", sub)


def expire_pending(world: World, sub: Obj) -> None:
    """The payment of a change did not come in time."""
    for invoice in world.every("invoice", customer=sub["customer"], status="open"):
        change = world.note(invoice["id"]).get("change")
        if change is not None and change["subscription"] == sub["id"]:
            world.note(invoice["id"]).pop("change")
            invoice_ends.void(world, invoice)
    world.change(sub, pending_update=None)
    world.emit("customer.subscription.pending_update_expired", sub)
