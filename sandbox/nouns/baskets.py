"""What is in a checkout session, and what it costs."""

from typing import Any

from sandbox.errors import invalid
from sandbox.money import percent_of, spread
from sandbox.nouns import catalogue, discounts, invoice_lines
from sandbox.shapes import Obj, inside
from sandbox.world import World, copied


def filled(world: World, given: Obj, mode: str) -> list[Obj]:
    """The lines that were asked for. Raises StripeError 400."""
    lines = list[Obj]()
    for number, asked in enumerate(given.get("line_items") or []):
        param = f"line_items[{number}]"
        price = catalogue.price_from(world, asked, param)
        recurring = inside(price, "recurring")
        is_metered = recurring.get("usage_type") == "metered"
        if is_metered and "quantity" in asked:
            message = "Quantity should not be specified where usage_type is `metered`."
            raise invalid(message, param=f"{param}[quantity]")
        if not is_metered and asked.get("quantity", 0) < 1:
            message = "Quantity is required. Add `quantity` to the line."
            raise invalid(message, param=f"{param}[quantity]", code="parameter_missing")
        lines.append(
            {
                "id": f"li_{world.secret()}",
                "price": copied(price),
                "quantity": None if is_metered else asked["quantity"],
                "tax_rates": asked.get("tax_rates", []),
                "metadata": asked.get("metadata", {}),
            }
        )
    if len({line["price"]["currency"] for line in lines}) > 1:
        raise invalid("All prices of a session have one currency.", param="line_items")
    del mode
    return lines


def _subtotal(world: World, line: Obj) -> int:
    if line["quantity"] is None:
        return 0
    return catalogue.amount(world, line["price"], line["quantity"])


def is_trial(note: Obj) -> bool:
    data: Obj = note.get("subscription_data", {})
    return "trial_period_days" in data or data.get("trial_end") is not None


def _coupons(world: World, session: Obj) -> list[tuple[Obj, Obj]]:
    """What is asked for with the coupon of each."""
    note, found = world.note(session["id"]), list[tuple[Obj, Obj]]()
    for number, asked in enumerate(note["discounts"]):
        param = f"discounts[{number}]"
        coupon_id = asked.get("coupon")
        if "promotion_code" in asked:
            code_param = f"{param}[promotion_code]"
            code = world.used("promotion_code", asked["promotion_code"], code_param)
            amounts = sum(_subtotal(world, line) for line in note["lines"])
            discounts.check_code(world, code, session["customer"], amounts, code_param)
            coupon_id = code["promotion"]["coupon"]
        found.append((asked, world.used("coupon", coupon_id or "", f"{param}[coupon]")))
    return found


def price(world: World, session: Obj) -> None:
    """Bring subtotal, discounts, taxes and total of a session up to date."""
    note = world.note(session["id"])
    lines: list[Obj] = note["lines"]
    if session["mode"] == "setup":
        session.update(amount_subtotal=None, amount_total=None, total_details=None)
        session["payment_status"] = "no_payment_required"
        return
    amounts = [0 if _is_free(note, line) else _subtotal(world, line) for line in lines]
    off = [0] * len(lines)
    coupons = _coupons(world, session)
    for _, coupon in coupons:
        left = [amount - taken for amount, taken in zip(amounts, off, strict=True)]
        parts = _off(world, coupon, left, lines)
        off = [one + part for one, part in zip(off, parts, strict=True)]
    taxes = [
        _tax(world, session, line, amount - taken)
        for line, amount, taken in zip(lines, amounts, off, strict=True)
    ]
    for line, amount, taken, tax in zip(lines, amounts, off, taxes, strict=True):
        total = amount - taken + (0 if tax["inclusive"] else tax["amount"])
        line["amounts"] = {
            "amount_discount": taken,
            "amount_subtotal": amount,
            "amount_tax": tax["amount"],
            "amount_total": total,
        }
    session.update(
        amount_subtotal=sum(amounts),
        amount_total=sum(line["amounts"]["amount_total"] for line in lines),
        discounts=[
            {"coupon": asked.get("coupon"), "promotion_code": asked.get("promotion_code")}
            for asked, _ in coupons
        ],
        total_details={
            "amount_discount": sum(off),
            "amount_shipping": 0,
            "amount_tax": sum(tax["amount"] for tax in taxes),
        },
    )


def _is_free(note: Obj, line: Obj) -> bool:
    """Recurring prices cost nothing during a trial."""
    return is_trial(note) and line["price"]["recurring"] is not None


def _off(world: World, coupon: Obj, amounts: list[int], lines: list[Obj]) -> list[int]:
    chosen = world.note(coupon["id"]).get("products")
    fits = [chosen is None or line["price"]["product"] in chosen for line in lines]
    if coupon["percent_off"] is not None:
        return [
            percent_of(amount, coupon["percent_off"]) if fit else 0
            for amount, fit in zip(amounts, fits, strict=True)
        ]
    weights = [amount if fit else 0 for amount, fit in zip(amounts, fits, strict=True)]
    return spread(min(coupon["amount_off"], sum(weights)), weights)


def _tax(world: World, session: Obj, line: Obj, taxable: int) -> Obj:
    rates: list[Obj] = invoice_lines.rates_of(world, line["tax_rates"], "line_items[tax_rates]")
    if not rates and session["automatic_tax"]["enabled"]:
        inclusive = line["price"]["tax_behavior"] == "inclusive"
        rates = [invoice_lines.automatic_rate(world, inclusive=inclusive)]
    if not rates:
        return {"amount": 0, "inclusive": False}
    amount = sum(invoice_lines.tax_of(rate, taxable) for rate in rates)
    return {"amount": amount, "inclusive": rates[0]["inclusive"]}


def items_of(world: World, session: Obj) -> list[Obj]:
    """The lines as the API lists them."""
    return [_item(world, line) for line in world.note(session["id"])["lines"]]


def _item(world: World, line: Obj) -> Obj:
    price = line["price"]
    product: dict[str, Any] = world.table("product").get(price["product"], {})
    return {
        "id": line["id"],
        "object": "item",
        **line["amounts"],
        "adjustable_quantity": None,
        "currency": price["currency"],
        "description": product.get("name"),
        "metadata": line["metadata"],
        "price": price,
        "quantity": line["quantity"],
    }
