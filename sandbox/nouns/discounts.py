"""Coupons, promotion codes, and the discounts that they become."""

from typing import Any

from sandbox import calendar
from sandbox.errors import invalid
from sandbox.lists import Readable, readable, same
from sandbox.money import check_currency, percent_of, spread
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, merged_metadata, pick

readable(Readable("coupon", "/v1/coupons", "coupon"))
readable(
    Readable(
        "promotion_code",
        "/v1/promotion_codes",
        "promotion_code",
        filters={"coupon": same("promotion", "coupon")},
    )
)


@route("POST /v1/coupons")
def create_coupon(world: World, call: Call) -> Obj:
    """A percentage or an amount off, once, for some months or for ever."""
    given = call.params
    if ("percent_off" in given) == ("amount_off" in given):
        raise invalid("You must set either percent_off or amount_off.", param="percent_off")
    if "amount_off" in given and "currency" not in given:
        message = "You must pass currency when passing amount_off"
        raise invalid(message, param="currency", code="parameter_missing")
    duration = given.get("duration", "once")
    if (duration == "repeating") != ("duration_in_months" in given):
        message = "duration_in_months belongs to duration=repeating."
        raise invalid(message, param="duration_in_months")
    if not 0 < given.get("percent_off", 1) <= 100 or given.get("amount_off", 1) < 1:
        raise invalid("A coupon takes off between 0 and 100 percent, or an amount.")
    if not 1 <= given.get("duration_in_months", 1) <= 60:
        raise invalid("Invalid duration_in_months.", param="duration_in_months")
    coupon = world.make("coupon", "coupon", duration=duration, times_redeemed=0, valid=True)
    for absent in ("applies_to", "currency_options"):
        coupon.pop(absent, None)
    coupon["id"] = given.get("id", world.secret(8))
    if world.any(coupon["id"]) is not None:
        raise invalid("Coupon already exists.", param="id", code="resource_already_exists")
    coupon.update(pick(given, "amount_off", "duration_in_months", "max_redemptions", "name"))
    coupon.update(pick(given, "percent_off", "redeem_by"))
    coupon["currency"] = check_currency(given["currency"]) if "currency" in given else None
    coupon["metadata"] = merged_metadata(None, given)
    if "applies_to" in given:
        world.note(coupon["id"])["products"] = given["applies_to"].get("products", [])
    return world.add(coupon, "coupon.created")


@route("POST /v1/coupons/{coupon}")
def update_coupon(world: World, call: Call) -> Obj:
    coupon, given = world.get("coupon", call.id), call.params
    metadata = merged_metadata(coupon["metadata"], given)
    return world.change(coupon, "coupon.updated", **pick(given, "name"), metadata=metadata)


@route("DELETE /v1/coupons/{coupon}")
def delete_coupon(world: World, call: Call) -> Obj:
    return world.remove(world.get("coupon", call.id), "coupon.deleted")


@route("POST /v1/promotion_codes")
def create_code(world: World, call: Call) -> Obj:
    """A code that customers type to get a coupon."""
    given = call.params
    coupon = world.used("coupon", given["promotion"].get("coupon", ""), "promotion[coupon]")
    text = given.get("code", world.secret(8).upper())
    if any(one["active"] for one in world.every("promotion_code", code=text)):
        raise invalid("An active promotion code with this code already exists.", param="code")
    if (customer := given.get("customer")) is not None:
        world.used("customer", customer, "customer")
    restrictions: Obj = given.get("restrictions", {})
    code = world.make(
        "promotion_code",
        "promo",
        active=given.get("active", True),
        code=text,
        metadata=merged_metadata(None, given),
        promotion={"type": "coupon", "coupon": coupon["id"]},
        restrictions={
            "first_time_transaction": restrictions.get("first_time_transaction", False),
            "minimum_amount": restrictions.get("minimum_amount"),
            "minimum_amount_currency": restrictions.get("minimum_amount_currency"),
        },
        times_redeemed=0,
        **pick(given, "customer", "expires_at", "max_redemptions"),
    )
    return world.add(code, "promotion_code.created")


@route("POST /v1/promotion_codes/{promotion_code}")
def update_code(world: World, call: Call) -> Obj:
    code, given = world.get("promotion_code", call.id), call.params
    metadata = merged_metadata(code["metadata"], given)
    return world.change(code, "promotion_code.updated", **pick(given, "active"), metadata=metadata)


# Discounts


def redeem(world: World, asked: list[Obj], *, amount: int | None = None, **owner: Any) -> list[Obj]:
    """Discounts from `{coupon}`, `{promotion_code}` or `{discount}`, stored and counted.

    Raises StripeError 400 for what is used up, over or not for this customer.
    """
    return [_redeemed(world, one, f"discounts[{n}]", amount, owner) for n, one in enumerate(asked)]


def _redeemed(world: World, asked: Obj, param: str, amount: int | None, owner: Obj) -> Obj:
    if "discount" in asked:
        return world.used("discount", asked["discount"], f"{param}[discount]")
    code: Obj | None = None
    if "promotion_code" in asked:
        code = world.used("promotion_code", asked["promotion_code"], f"{param}[promotion_code]")
        check_code(world, code, owner.get("customer"), amount, f"{param}[promotion_code]")
        asked = {"coupon": code["promotion"]["coupon"]}
    coupon = world.used("coupon", asked.get("coupon", ""), f"{param}[coupon]")
    _check_coupon(world, coupon, f"{param}[coupon]")
    start, end = world.now, None
    if coupon["duration"] == "repeating":
        end = calendar.add(start, "month", coupon["duration_in_months"])
    discount = world.make("discount", "di")
    discount.update(
        end=end,
        promotion_code=None if code is None else code["id"],
        source={"type": "coupon", "coupon": coupon["id"]},
        start=start,
        **owner,
    )
    times = coupon["times_redeemed"] + 1
    maximum = coupon["max_redemptions"]
    world.change(coupon, times_redeemed=times, valid=maximum is None or times < maximum)
    if code is not None:
        world.change(code, times_redeemed=code["times_redeemed"] + 1)
    return world.store(discount)


def check_code(
    world: World, code: Obj, customer: str | None, amount: int | None, param: str
) -> None:
    """Raises StripeError 400 if a promotion code cannot be used here and now."""
    is_over = code["expires_at"] is not None and code["expires_at"] <= world.now
    is_used = code["max_redemptions"] is not None and (
        code["times_redeemed"] >= code["max_redemptions"]
    )
    if not code["active"] or is_over or is_used:
        raise invalid(
            "This promotion code is expired or used up.", param=param, code="coupon_expired"
        )
    if code["customer"] is not None and code["customer"] != customer:
        raise invalid("This promotion code is for another customer.", param=param)
    minimum = code["restrictions"]["minimum_amount"]
    if minimum is not None and amount is not None and amount < minimum:
        raise invalid("The amount is below the minimum of this code.", param=param)
    if code["restrictions"]["first_time_transaction"] and any(
        charge["paid"] for charge in world.every("charge", customer=customer) if customer
    ):
        raise invalid("This promotion code is for first payments only.", param=param)


def _check_coupon(world: World, coupon: Obj, param: str) -> None:
    is_over = coupon["redeem_by"] is not None and coupon["redeem_by"] <= world.now
    if is_over or not coupon["valid"]:
        message = f"Coupon expired: {coupon['id']}"
        raise invalid(message, param=param, code="coupon_expired")


def off(world: World, discount: Obj, amounts: list[int], products: list[str | None]) -> list[int]:
    """What a discount takes off each amount: percent of all, or a sum spread over the positive."""
    coupon = world.any(discount["source"]["coupon"])
    if coupon is None:
        return [0] * len(amounts)
    chosen = world.note(coupon["id"]).get("products")
    applies = [chosen is None or product in chosen for product in products]
    if coupon["percent_off"] is not None:
        return [
            percent_of(amount, coupon["percent_off"]) if fits else 0
            for amount, fits in zip(amounts, applies, strict=True)
        ]
    weights = [max(amount, 0) if fits else 0 for amount, fits in zip(amounts, applies, strict=True)]
    return spread(min(coupon["amount_off"], sum(weights)), weights)


def still_running(world: World, discount_ids: list[str]) -> list[str]:
    """Those that are left after an invoice has used them."""
    kept = list[str]()
    for discount_id in discount_ids:
        discount = world.get("discount", discount_id)
        coupon = world.any(discount["source"]["coupon"])
        is_once = coupon is not None and coupon["duration"] == "once"
        if not is_once and (discount["end"] is None or discount["end"] > world.now):
            kept.append(discount_id)
    return kept
