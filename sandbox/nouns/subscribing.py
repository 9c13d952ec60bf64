"""The parts of a subscription: items and their periods, beginning, status, ending."""

from sandbox import calendar, reactions
from sandbox.cards import MESSAGES
from sandbox.errors import StripeError, check_time, declined, invalid
from sandbox.nouns import (
    catalogue,
    discounts,
    invoice_lines,
    invoicing,
    paying,
    setup_intents,
)
from sandbox.shapes import Obj, as_obj, at, inside
from sandbox.world import World, copied, listed, merged_metadata, pick

ENDED = ("canceled", "incomplete_expired")
TRIAL_DAYS_MAX = 730
INCOMPLETE_SECONDS = 23 * calendar.HOUR
PLAIN = ("days_until_due", "description", "payment_settings", "trial_settings")


# Items


def new_item(world: World, sub_id: str, given: Obj, param: str) -> Obj:
    """An item from `{price, quantity}`; its period is set by who puts it in."""
    price = catalogue.price_from(world, given, param)
    if price["recurring"] is None:
        message = f"The price specified is set to `type=one_time`: {price['id']}."
        raise invalid(message, param=f"{param}[price]")
    is_metered = price["recurring"]["usage_type"] == "metered"
    item = world.make("subscription_item", "si")
    for absent in ("billed_until", "current_trial"):
        item.pop(absent, None)
    item.update(
        current_period_end=0,
        current_period_start=0,
        discounts=[],
        metadata=merged_metadata(None, given),
        plan=catalogue.plan_of(price),
        price=copied(price),
        quantity=None if is_metered else given.get("quantity", 1),
        subscription=sub_id,
        tax_rates=invoice_lines.rates_of(world, given.get("tax_rates"), f"{param}[tax_rates]"),
    )
    if is_metered:
        del item["quantity"]
    return item


def items_of(sub: Obj) -> list[Obj]:
    return sub["items"]["data"]


def is_metered(item: Obj) -> bool:
    return item["price"]["recurring"]["usage_type"] == "metered"


def price_of(world: World, item: Obj) -> int:
    """What a whole period of a licensed item costs."""
    if is_metered(item):
        return 0
    return catalogue.amount(world, item["price"], item["quantity"])


def period_of(item: Obj, anchor: int, at: int) -> tuple[int, int]:
    """The period around `at`, counted from the anchor."""
    recurring = item["price"]["recurring"]
    return calendar.period_at(anchor, recurring["interval"], recurring["interval_count"], at)


def set_period(item: Obj, start: int, end: int) -> None:
    item.update(current_period_start=start, current_period_end=end)


def advance_lines(world: World, sub: Obj, items: list[Obj]) -> list[Obj]:
    """Lines for the running periods of licensed items, which are charged from now on."""
    lines = list[Obj]()
    for item in items:
        if is_metered(item):
            continue
        start, end = item["current_period_start"], item["current_period_end"]
        amount = world.note(item["id"])["charged"] = price_of(world, item)
        lines.append(invoice_lines.licensed(world, sub, item, start, end, amount))
    return lines


# Beginning


def begin(world: World, customer: Obj, given: Obj, *, method: Obj | None = None) -> Obj:
    """A subscription with its items and periods, stored and told, without any invoice yet.

    `given` has the members of a create request. Raises StripeError 400.
    """
    sub = world.make("subscription", "sub")
    for absent in ("managed_payments", "presentment_details", "customer_account"):
        sub.pop(absent, None)
    items = [
        new_item(world, sub["id"], one, f"items[{number}]")
        for number, one in enumerate(given.get("items") or [])
    ]
    if not items:
        raise invalid("Missing required param: items.", param="items", code="parameter_missing")
    currencies = {item["price"]["currency"] for item in items}
    if len(currencies) > 1:
        raise invalid("All prices of a subscription have one currency.", param="items")
    trial_end = _trial_end(world, given)
    anchor = trial_end or _anchor(world, given)
    sub.update(_fixed_members(given))
    sub.update(
        billing_cycle_anchor=anchor,
        cancel_at_period_end=given.get("cancel_at_period_end", False),
        collection_method=given.get("collection_method", "charge_automatically"),
        currency=currencies.pop(),
        customer=customer["id"],
        default_payment_method=None if method is None else method["id"],
        default_tax_rates=invoice_lines.rates_of(
            world, given.get("default_tax_rates"), "default_tax_rates"
        ),
        discounts=[],
        items=listed(items, f"/v1/subscription_items?subscription={sub['id']}"),
        metadata=merged_metadata(None, given),
        start_date=world.now,
        status="trialing" if trial_end else "incomplete",
        test_clock=customer.get("test_clock"),
        trial_end=trial_end,
        trial_start=world.now if trial_end else None,
    )
    take_plain(sub, given)
    sub["discounts"] = [
        one["id"]
        for one in discounts.redeem(
            world, given.get("discounts") or [], customer=customer["id"], subscription=sub["id"]
        )
    ]
    for item in items:
        set_period(item, world.now, anchor)
        if anchor <= world.now:
            set_period(item, *period_of(item, anchor, world.now))
    set_end(world, sub, given)
    if sub["collection_method"] == "send_invoice" and not trial_end:
        sub["status"] = "active"
    customer["currency"] = customer.get("currency") or sub["currency"]
    return world.add(sub, "customer.subscription.created")


def _fixed_members(given: Obj) -> Obj:
    """Members that are the same for most subscriptions."""
    return {
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": bool(given.get("automatic_tax", {}).get("enabled")),
            "liability": None,
        },
        "billing_mode": _billing_mode(given),
        "billing_schedules": [],
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    }


def take_plain(sub: Obj, given: Obj, *names: str) -> None:
    """Members that are only kept; of objects, what is not named stays."""
    for name, value in pick(given, *PLAIN, *names).items():
        changes = as_obj(value)
        sub[name] = value if changes is None else {**inside(sub, name), **changes}
    behavior = inside(sub, "trial_settings", "end_behavior")
    behavior.setdefault("missing_payment_method", "create_invoice")


def _billing_mode(given: Obj) -> Obj:
    mode = given.get("billing_mode", {}).get("type", "flexible")
    flexible = {"proration_discounts": "included"} if mode == "flexible" else None
    return {"type": mode, "flexible": flexible}


def _trial_end(world: World, given: Obj) -> int | None:
    if (days := given.get("trial_period_days")) is not None:
        if not 1 <= days <= TRIAL_DAYS_MAX:
            raise invalid("Invalid trial_period_days.", param="trial_period_days")
        return world.now + days * calendar.DAY
    end = given.get("trial_end")
    if end in (None, "now"):
        return None
    if end <= world.now:
        raise invalid("Invalid timestamp: must be in the future.", param="trial_end")
    return check_time(end, "trial_end")


def _anchor(world: World, given: Obj) -> int:
    if (config := given.get("billing_cycle_anchor_config")) is not None:
        if not 1 <= config["day_of_month"] <= 31:
            param = "billing_cycle_anchor_config[day_of_month]"
            raise invalid("Invalid day of month.", param=param)
        return calendar.next_day_of_month(world.now, config["day_of_month"])
    anchor = given.get("billing_cycle_anchor", world.now)
    if anchor < world.now:
        raise invalid("The anchor must be in the future.", param="billing_cycle_anchor")
    return check_time(anchor, "billing_cycle_anchor")


def set_end(world: World, sub: Obj, given: Obj) -> None:
    """`cancel_at` and `cancel_at_period_end` as they were asked for."""
    ends = [item["current_period_end"] for item in items_of(sub)]
    if "cancel_at_period_end" in given:
        wanted = given["cancel_at_period_end"]
        sub.update(cancel_at_period_end=wanted, cancel_at=max(ends) if wanted else None)
    if "cancel_at" in given:
        words = {"min_period_end": min(ends), "max_period_end": max(ends), "": None}
        words["max_billed_until"] = max(ends)
        asked = given["cancel_at"]
        ends_at = words.get(asked, asked)
        if ends_at is not None and ends_at <= world.now:
            raise invalid("cancel_at must be in the future.", param="cancel_at")
        sub.update(cancel_at=ends_at, cancel_at_period_end=False)
    if sub["cancel_at"] is None:
        sub["canceled_at"] = None
    elif sub["canceled_at"] is None:
        sub["canceled_at"] = world.now
    reason = None if sub["cancel_at"] is None else "cancellation_requested"
    sub["cancellation_details"] = {**sub["cancellation_details"], "reason": reason}


def first_invoice(world: World, sub: Obj, given: Obj) -> Obj:
    """The draft that a new subscription begins with; stored and told."""
    customer = world.get("customer", sub["customer"])
    items = items_of(sub)
    start, end = items[0]["current_period_start"], items[0]["current_period_end"]
    invoice = invoicing.draft(
        world,
        customer,
        currency=sub["currency"],
        reason="subscription_create",
        start=world.now,
        end=world.now,
        sub=sub,
    )
    if sub["trial_end"] is not None:
        lines = [_trial_line(world, sub, item) for item in items if not is_metered(item)]
    elif sub["billing_cycle_anchor"] > world.now:
        lines = _stub_lines(world, sub, given, start, end)
    else:
        lines = advance_lines(world, sub, items)
    add_waiting(world, sub, given.get("add_invoice_items") or [])
    lines += invoicing.take_pending(world, invoice, sub=sub["id"])
    save = at(sub, "payment_settings", "save_default_payment_method")
    if save == "on_subscription":
        world.note(invoice["id"])["setup_future_usage"] = "off_session"
    invoicing.put_lines(world, invoice, lines)
    world.add(invoice, "invoice.created")
    sub["latest_invoice"] = invoice["id"]
    return invoice


def _trial_line(world: World, sub: Obj, item: Obj) -> Obj:
    world.note(item["id"])["charged"] = 0
    line = invoice_lines.licensed(world, sub, item, world.now, sub["trial_end"], 0)
    line["description"] = f"Trial period for {line['description'].partition(' × ')[2]}"
    return line


def _stub_lines(world: World, sub: Obj, given: Obj, start: int, end: int) -> list[Obj]:
    """The short time until a later anchor, by the second."""
    lines = list[Obj]()
    for item in items_of(sub):
        if is_metered(item):
            continue
        full_start, full_end = period_of(item, sub["billing_cycle_anchor"], world.now)
        price = 0 if given.get("proration_behavior") == "none" else price_of(world, item)
        amount = price * (end - start) // (full_end - full_start)
        world.note(item["id"])["charged"] = amount
        lines.append(invoice_lines.licensed(world, sub, item, start, end, amount))
    return lines


def add_waiting(world: World, sub: Obj, entries: list[Obj]) -> None:
    """Put one-time prices on the next invoice of a subscription."""
    for number, entry in enumerate(entries):
        price = catalogue.price_from(world, entry, f"add_invoice_items[{number}]")
        quantity = entry.get("quantity", 1)
        waiting = world.make("invoiceitem", "ii")
        waiting.update(
            amount=catalogue.amount(world, price, quantity),
            currency=price["currency"],
            customer=sub["customer"],
            date=world.now,
            description=world.get("product", price["product"])["name"],
            discountable=True,
            metadata=merged_metadata(None, entry),
            period={"start": world.now, "end": world.now},
            pricing={
                "type": "price_details",
                "price_details": {"price": price["id"], "product": price["product"]},
                "unit_amount_decimal": price["unit_amount_decimal"],
            },
            proration=False,
            quantity=quantity,
            quantity_decimal=str(quantity),
            tax_rates=[],
        )
        world.note(waiting["id"])["subscription"] = sub["id"]
        world.add(waiting, "invoiceitem.created")


# Paying for it


def check_payable(world: World, method: Obj | None, *, off_session: bool) -> None:
    """Raises what paying with the method would come to, without trying it."""
    if method is None:
        raise invalid(
            "This customer has no attached payment source or default payment method.",
            code="resource_missing",
        )
    match paying.verdict(world, method, off_session=off_session):
        case "pays":
            return
        case "asks":
            code: str = "subscription_payment_intent_requires_action"
            message = "Payment for this subscription requires additional user action before it can "
            raise StripeError(402, message + "be completed.", kind="card_error", code=code)
        case _:
            code, decline_code = paying.reason(world, method, off_session=off_session)
            raise declined(code, decline_code, MESSAGES[code])


def default_method(world: World, sub: Obj) -> Obj | None:
    """What a subscription is charged to."""
    customer = world.get("customer", sub["customer"])
    settings = customer.get("invoice_settings", {})
    name = sub["default_payment_method"] or settings.get("default_payment_method")
    return None if name is None else world.get("payment_method", name)


def ask_for_card(world: World, sub: Obj) -> None:
    """A setup intent for a subscription that has nothing to pay with yet."""
    intent = setup_intents.new_intent(world, sub["customer"])
    world.note(intent["id"])["subscription"] = sub["id"]
    world.add(intent, "setup_intent.created")
    sub["pending_setup_intent"] = intent["id"]


@reactions.on("setup_intent.succeeded")
def _use_card(world: World, intent: Obj) -> None:
    sub_id = world.note(intent["id"]).get("subscription")
    if sub_id is None:
        return
    sub = world.get("subscription", sub_id)
    world.change(
        sub,
        "customer.subscription.updated",
        default_payment_method=intent["payment_method"],
        pending_setup_intent=None,
    )
