"""What is sold: products, prices, tax rates."""

from decimal import Decimal
from typing import Any

from sandbox import money
from sandbox.errors import check_interval, invalid
from sandbox.expand import included
from sandbox.lists import Readable, is_inside, readable, same
from sandbox.money import check_currency
from sandbox.routing import Call, route
from sandbox.shapes import Obj, inside
from sandbox.world import World, copied, merged_metadata, pick

PRODUCT_PLAIN = (
    *("active", "description", "images", "marketing_features", "name", "package_dimensions"),
    *("shippable", "statement_descriptor", "tax_code", "unit_label", "url"),
)


def _in_list(world: World, obj: Obj, value: Any) -> bool:
    return obj["id"] in value


def _recurring(world: World, price: Obj, wanted: Any) -> bool:
    recurring = inside(price, "recurring")
    return all(recurring.get(name) == value for name, value in wanted.items())


readable(Readable("product", "/v1/products", "id", filters={"ids": _in_list}))
readable(
    Readable(
        "price",
        "/v1/prices",
        "price",
        filters={
            "lookup_keys": lambda _, price, keys: price["lookup_key"] in keys,
            "recurring": _recurring,
        },
    )
)
readable(
    Readable(
        "tax_rate",
        "/v1/tax_rates",
        "tax_rate",
        filters={
            "created": lambda _, r, v: is_inside(r["created"], v),
            "inclusive": same("inclusive"),
        },
    )
)


# Products


@route("POST /v1/products")
def create_product(world: World, call: Call) -> Obj:
    """A product, with its default price if one is described."""
    given = call.params
    if (wanted := given.get("id")) is not None and world.any(wanted) is not None:
        raise invalid(
            f"Product already exists: {wanted}", param="id", code="resource_already_exists"
        )
    product = made_product(world, given)
    if (data := given.get("default_price_data")) is not None:
        price = made_price(world, {**data, "product": product["id"]})
        product["default_price"] = price["id"]
        world.add(product, "product.created")
        return [product, world.add(price, "price.created")][0]
    return world.add(product, "product.created")


def made_product(world: World, given: Obj) -> Obj:
    """A product that is not stored yet."""
    product = world.make("product", "prod", active=True, type="service", updated=world.now)
    product.pop("tax_details", None)
    if "id" in given:
        product["id"] = given["id"]
    product.update(_plain(given))
    product["metadata"] = merged_metadata(None, given)
    return product


def _plain(given: Obj) -> Obj:
    """Members as they were sent; a list that is cleared is empty."""
    lists = ("images", "marketing_features")
    plain = pick(given, *PRODUCT_PLAIN)
    return {name: value or [] if name in lists else value for name, value in plain.items()}


@route("POST /v1/products/{id}")
def update_product(world: World, call: Call) -> Obj:
    product, given = world.get("product", call.id), call.params
    if (price := given.get("default_price")) is not None:
        world.used("price", price, "default_price")
    return world.change(
        product,
        "product.updated",
        **_plain(given),
        **pick(given, "default_price"),
        metadata=merged_metadata(product["metadata"], given),
        updated=world.now,
    )


@route("DELETE /v1/products/{id}")
def delete_product(world: World, call: Call) -> Obj:
    product = world.get("product", call.id)
    if world.every("price", product=product["id"]):
        raise invalid(
            "This product cannot be deleted because it has one or more user-created prices."
        )
    return world.remove(product, "product.deleted")


# Prices


@route("POST /v1/prices")
def create_price(world: World, call: Call) -> Obj:
    given = dict(call.params)
    if "product_data" in given:
        product = made_product(world, given["product_data"])
        world.add(product, "product.created")
        given["product"] = product["id"]
    elif "product" not in given:
        raise invalid("Missing required param: product.", param="product", code="parameter_missing")
    if (key := given.get("lookup_key")) is not None:
        _claim_lookup_key(world, key, transfer=given.get("transfer_lookup_key", False))
    return world.add(made_price(world, given), "price.created")


def _claim_lookup_key(world: World, key: str, *, transfer: bool) -> None:
    for other in world.every("price", lookup_key=key):
        if not transfer:
            raise invalid(
                f"A price (`{other['id']}`) already uses that lookup key.", param="lookup_key"
            )
        world.change(other, "price.updated", lookup_key=None)


def made_price(world: World, given: Obj) -> Obj:
    """A price that is not stored yet. Raises StripeError 400."""
    world.used("product", given["product"], "product")
    recurring = _recurrence(world, given.get("recurring"))
    if given.get("transform_quantity", {"divide_by": 1})["divide_by"] < 1:
        raise invalid("Invalid divide_by.", param="transform_quantity[divide_by]")
    scheme = given.get("billing_scheme", "per_unit")
    price = world.make("price", "price", active=given.get("active", True))
    for absent in ("tiers", "currency_options"):
        price.pop(absent, None)
    price.update(
        billing_scheme=scheme,
        currency=check_currency(given["currency"]),
        lookup_key=given.get("lookup_key"),
        metadata=merged_metadata(None, given),
        nickname=given.get("nickname"),
        product=given["product"],
        recurring=recurring,
        tax_behavior=given.get("tax_behavior", "unspecified"),
        transform_quantity=given.get("transform_quantity"),
        type="one_time" if recurring is None else "recurring",
    )
    if scheme == "tiered":
        price["tiers_mode"] = given.get("tiers_mode")
        world.note(price["id"])["tiers"] = _tiers(given)
    else:
        price.update(_unit_amount(given))
    return price


def _unit_amount(given: Obj) -> Obj:
    if "unit_amount_decimal" in given:
        exact = Decimal(given["unit_amount_decimal"])
        whole = int(exact) if exact == exact.to_integral_value() else None
        return {"unit_amount": whole, "unit_amount_decimal": money.decimal_text(exact)}
    if "unit_amount" not in given:
        message = "Prices require an `unit_amount` or `unit_amount_decimal` parameter to be set."
        raise invalid(message, param="unit_amount", code="parameter_missing")
    if given["unit_amount"] < 0:
        message = "This value must be greater than or equal to 0."
        raise invalid(message, param="unit_amount", code="parameter_invalid_integer")
    return {
        "unit_amount": given["unit_amount"],
        "unit_amount_decimal": str(given["unit_amount"]),
    }


def _recurrence(world: World, given: Obj | None) -> Obj | None:
    if given is None:
        return None
    usage = given.get("usage_type", "licensed")
    param = "recurring[interval_count]"
    check_interval(given["interval"], given.get("interval_count", 1), param)
    if usage == "metered":
        if "meter" not in given:
            message = "A metered price needs a meter: `recurring[meter]`."
            raise invalid(message, param="recurring[meter]", code="parameter_missing")
        world.used("billing.meter", given["meter"], "recurring[meter]")
    return {
        "interval": given["interval"],
        "interval_count": given.get("interval_count", 1),
        "meter": given.get("meter"),
        "trial_period_days": given.get("trial_period_days"),
        "usage_type": usage,
    }


def _tiers(given: Obj) -> list[Obj]:
    if "tiers_mode" not in given or not given.get("tiers"):
        raise invalid("Tiered prices need `tiers` and `tiers_mode`.", param="tiers")
    made = list[Obj]()
    for number, tier in enumerate(given["tiers"]):
        is_last = number == len(given["tiers"]) - 1
        if (tier["up_to"] == "inf") != is_last:
            raise invalid("The last tier, and only the last, is up to `inf`.", param="tiers")
        one: Obj = {"up_to": None if tier["up_to"] == "inf" else tier["up_to"]}
        for name in ("flat_amount", "unit_amount"):
            text = tier.get(f"{name}_decimal", tier.get(name))
            exact = None if text is None else Decimal(text)
            one[name] = int(exact) if exact is not None and exact == int(exact) else None
            one[f"{name}_decimal"] = None if exact is None else money.decimal_text(exact)
        made.append(one)
    return made


@included("price", "tiers")
def tiers_of(world: World, price: Obj) -> list[Obj] | None:
    return world.note(price["id"]).get("tiers")


def amount(world: World, price: Obj, quantity: Decimal | int) -> int:
    """What a quantity costs."""
    whole = {**price, "tiers": tiers_of(world, price)}
    return money.price_amount(whole, Decimal(quantity))


@route("POST /v1/prices/{price}")
def update_price(world: World, call: Call) -> Obj:
    """What can change of a price; the items of subscriptions show it at once."""
    price, given = world.get("price", call.id), call.params
    if (key := given.get("lookup_key")) and key != price["lookup_key"]:
        _claim_lookup_key(world, key, transfer=given.get("transfer_lookup_key", False))
    world.change(
        price,
        "price.updated",
        **pick(given, "active", "lookup_key", "nickname", "tax_behavior"),
        metadata=merged_metadata(price["metadata"], given),
    )
    for sub in world.every("subscription"):
        for item in sub["items"]["data"]:
            if item["price"]["id"] == price["id"]:
                item.update(price=copied(price), plan=plan_of(price))
    return price


def plan_of(price: Obj) -> Obj:
    """A recurring price in the shape that subscription items still carry beside it."""
    recurring = price["recurring"]
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "meter": recurring["meter"],
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": price["transform_quantity"],
        "trial_period_days": recurring["trial_period_days"],
        "usage_type": recurring["usage_type"],
    }


def price_from(world: World, given: Obj, param: str) -> Obj:
    """The price that an item names, or a new one from its `price_data`.

    `is_own` (no parameter of Stripe's) lets whoever made such a price use it again.
    """
    if "price" in given or "plan" in given:
        price = world.used("price", given.get("price") or given["plan"], f"{param}[price]")
        if not price["active"] and not given.get("is_own"):
            message = f"The price specified is inactive. ({price['id']})"
            raise invalid(message, param=f"{param}[price]")
        return price
    data = given.get("price_data")
    if data is None:
        raise invalid(
            f"Missing required param: {param}[price].", param=param, code="parameter_missing"
        )
    if "product_data" in data:
        product = world.add(made_product(world, data["product_data"]), "product.created")
        data = {**data, "product": product["id"]}
    # Such a price is used once: it cannot be used again, as with Stripe.
    return world.store({**made_price(world, data), "active": False})


# Tax rates


@route("POST /v1/tax_rates")
def create_tax_rate(world: World, call: Call) -> Obj:
    """A rate that items and invoices can name."""
    given = call.params
    rate = world.make(
        "tax_rate",
        "txr",
        active=given.get("active", True),
        metadata=merged_metadata(None, given),
        rate_type="percentage",
        **pick(given, "country", "description", "display_name", "inclusive", "jurisdiction"),
        **pick(given, "percentage", "state", "tax_type"),
    )
    rate["effective_percentage"] = rate["percentage"]
    return world.add(rate, "tax_rate.created")


@route("POST /v1/tax_rates/{tax_rate}")
def update_tax_rate(world: World, call: Call) -> Obj:
    rate, given = world.get("tax_rate", call.id), call.params
    return world.change(
        rate,
        "tax_rate.updated",
        **pick(given, "active", "country", "description", "display_name", "jurisdiction", "state"),
        metadata=merged_metadata(rate["metadata"], given),
    )
