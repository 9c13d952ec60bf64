"""The lines of invoices, and what they come to with discounts and taxes."""

from decimal import Decimal
from fractions import Fraction

from sandbox import money
from sandbox.nouns import catalogue, discounts, meters
from sandbox.shapes import Obj, at, ids_of
from sandbox.world import World


def made(
    world: World,
    *,
    amount: int,
    currency: str,
    start: int,
    end: int,
    description: str | None,
    quantity: int | None = 1,
    price: Obj | None = None,
    parent: Obj | None = None,
    subscription: str | None = None,
    metadata: Obj | None = None,
    discountable: bool = True,
) -> Obj:
    """A line; its discounts and taxes come with the totals of its invoice."""
    pricing = None
    if price is not None:
        pricing = {
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        }
    line = world.make("line_item", "il")
    line.pop("quantity_decimal", None)
    line.update(
        amount=amount,
        currency=currency,
        description=description,
        discount_amounts=[],
        discountable=discountable,
        metadata=metadata or {},
        parent=parent,
        period={"start": start, "end": end},
        pretax_credit_amounts=[],
        pricing=pricing,
        quantity=quantity,
        subscription=subscription,
        subtotal=amount,
        taxes=[],
    )
    return line


def of_item(
    sub: Obj, item: Obj, *, proration: bool = False, invoice_item: str | None = None
) -> Obj:
    """The parent of a line that comes from an item of a subscription."""
    return {
        "type": "subscription_item_details",
        "subscription_item_details": {
            "invoice_item": invoice_item,
            "proration": proration,
            "proration_details": {"credited_items": None} if proration else None,
            "subscription": sub["id"],
            "subscription_item": item["id"],
        },
        "invoice_item_details": None,
    }


def licensed(world: World, sub: Obj, item: Obj, start: int, end: int, amount: int) -> Obj:
    """The price of a period in advance."""
    price, quantity = item["price"], item["quantity"]
    name = world.table("product").get(price["product"], {}).get("name", "Item")
    line = made(
        world,
        amount=amount,
        currency=price["currency"],
        start=start,
        end=end,
        description=f"{quantity} × {name}",
        quantity=quantity,
        price=price,
        parent=of_item(sub, item),
        subscription=sub["id"],
        metadata=sub["metadata"],
    )
    _keep_rates(world, line, item)
    return line


def metered(world: World, sub: Obj, item: Obj, start: int, end: int) -> Obj:
    """Usage of a period that has passed; counted again when the invoice is finalised."""
    price = item["price"]
    name = world.table("product").get(price["product"], {}).get("name", "Usage")
    line = made(
        world,
        amount=0,
        currency=price["currency"],
        start=start,
        end=end,
        description=name,
        quantity=0,
        price=price,
        parent=of_item(sub, item),
        subscription=sub["id"],
        metadata=sub["metadata"],
    )
    world.note(line["id"])["usage"] = {
        "meter": price["recurring"]["meter"],
        "price": price["id"],
        "customer": sub["customer"],
    }
    _keep_rates(world, line, item)
    count(world, line)
    return line


def _keep_rates(world: World, line: Obj, item: Obj) -> None:
    if item.get("tax_rates"):
        world.note(line["id"])["tax_rates"] = [rate["id"] for rate in item["tax_rates"]]


def count(world: World, line: Obj) -> None:
    """Bring a metered line up to date."""
    usage: Obj | None = world.note(line["id"]).get("usage")
    if usage is None:
        return
    meter = world.get("billing.meter", usage["meter"])
    period = line["period"]
    used = meters.total(world, meter, usage["customer"], period["start"], period["end"])
    used = max(used, Decimal(0))
    amount = catalogue.amount(world, world.get("price", usage["price"]), used)
    line.update(amount=amount, subtotal=amount, quantity=int(used))


def of_invoice_item(world: World, entry: Obj) -> Obj:
    """An invoice item as a line. What a subscription's change made stays bound to its item."""
    details: Obj = world.note(entry["id"])
    if "subscription_item" in details:
        parent = of_item(
            {"id": details["subscription"]},
            {"id": details["subscription_item"]},
            proration=entry["proration"],
            invoice_item=entry["id"],
        )
    else:
        parent = {
            "type": "invoice_item_details",
            "invoice_item_details": {
                "invoice_item": entry["id"],
                "proration": entry["proration"],
                "proration_details": None,
                "subscription": details.get("subscription"),
            },
            "subscription_item_details": None,
        }
    price_id = at(entry, "pricing", "price_details", "price")
    line = made(
        world,
        amount=entry["amount"],
        currency=entry["currency"],
        start=entry["period"]["start"],
        end=entry["period"]["end"],
        description=entry["description"],
        quantity=entry["quantity"],
        price=world.table("price").get(str(price_id)),
        parent=parent,
        subscription=details.get("subscription"),
        metadata=entry["metadata"],
        discountable=entry["discountable"],
    )
    if entry["tax_rates"]:
        world.note(line["id"])["tax_rates"] = [rate["id"] for rate in entry["tax_rates"]]
    if "usage" in details:
        world.note(line["id"])["usage"] = details["usage"]
    return line


# Totals


def add_up(world: World, invoice: Obj) -> None:
    """Discounts, taxes and totals of an invoice from its lines."""
    lines: list[Obj] = invoice["lines"]["data"]
    for line in lines:
        line.update(discount_amounts=[], pretax_credit_amounts=[], taxes=[])
    total_discounts = [
        {"amount": _discount(world, discount_id, lines), "discount": discount_id}
        for discount_id in invoice["discounts"]
    ]
    exclusive = sum(_tax(world, invoice, line) for line in lines)
    subtotal = sum(line["amount"] for line in lines)
    off = sum(one["amount"] for one in total_discounts)
    total = subtotal - off + exclusive
    taxes: dict[tuple[str, str], Obj] = {}
    for tax in [tax for line in lines for tax in line["taxes"]]:
        key = (tax["tax_rate_details"]["tax_rate"], tax["tax_behavior"])
        if key in taxes:
            taxes[key]["amount"] += tax["amount"]
            taxes[key]["taxable_amount"] += tax["taxable_amount"]
        else:
            taxes[key] = dict(tax)
    all_tax = sum(tax["amount"] for tax in taxes.values())
    invoice.update(
        subtotal=subtotal,
        subtotal_excluding_tax=subtotal - (all_tax - exclusive),
        total=total,
        total_discount_amounts=total_discounts,
        total_excluding_tax=total - all_tax,
        total_pretax_credit_amounts=[{**one, "type": "discount"} for one in total_discounts],
        total_taxes=list(taxes.values()),
    )
    if invoice["status"] == "draft":
        customer = world.get("customer", invoice["customer"])
        balance = customer.get("balance", 0)
        due = max(0, total + balance)
        invoice.update(amount_due=due, amount_remaining=due, starting_balance=balance)


def _discount(world: World, discount_id: str, lines: list[Obj]) -> int:
    discount = world.get("discount", discount_id)
    amounts = [
        line["amount"] - sum(one["amount"] for one in line["discount_amounts"])
        if line["discountable"]
        else 0
        for line in lines
    ]
    products = [at(line, "pricing", "price_details", "product") for line in lines]
    parts = discounts.off(world, discount, amounts, products)
    for line, part in zip(lines, parts, strict=True):
        if part:
            line["discount_amounts"].append({"amount": part, "discount": discount_id})
            line["pretax_credit_amounts"].append(
                {"amount": part, "discount": discount_id, "type": "discount"}
            )
    return sum(parts)


def _tax(world: World, invoice: Obj, line: Obj) -> int:
    """Put the taxes on a line; what they add to its amount."""
    taxable = line["amount"] - sum(one["amount"] for one in line["discount_amounts"])
    added = 0
    for rate in _rates(world, invoice, line):
        amount = tax_of(rate, taxable)
        added += 0 if rate["inclusive"] else amount
        line["taxes"].append(
            {
                "amount": amount,
                "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
                "tax_rate_details": {"tax_rate": rate["id"]},
                "taxability_reason": "standard_rated",
                "taxable_amount": taxable - amount if rate["inclusive"] else taxable,
                "type": "tax_rate_details",
            }
        )
    return added


def tax_of(rate: Obj, taxable: int) -> int:
    """The tax on an amount, or in it."""
    percent = Fraction(str(rate["percentage"]))
    if rate["inclusive"]:
        return taxable - money.rounded(Fraction(taxable * 100) / (100 + percent))
    return money.rounded(taxable * percent / 100)


def _rates(world: World, invoice: Obj, line: Obj) -> list[Obj]:
    ids: list[str] | None = world.note(line["id"]).get("tax_rates")
    if ids is not None:
        return [world.get("tax_rate", rate_id) for rate_id in ids]
    if invoice["default_tax_rates"]:
        rates: list[Obj] = invoice["default_tax_rates"]
        return rates
    if invoice["automatic_tax"]["enabled"]:
        price_id = at(line, "pricing", "price_details", "price")
        price = world.table("price").get(str(price_id), {})
        return [automatic_rate(world, inclusive=price.get("tax_behavior") == "inclusive")]
    return []


def automatic_rate(world: World, *, inclusive: bool) -> Obj:
    """The rate that automatic tax finds here, whatever the address."""
    percent = world.settings.automatic_tax_percent
    known = world.note("automatic tax")
    key = f"{percent}/{inclusive}"
    if key not in known:
        rate = world.make(
            "tax_rate",
            "txr",
            active=False,
            display_name="Sales tax",
            effective_percentage=percent,
            inclusive=inclusive,
            metadata={},
            percentage=percent,
            rate_type="percentage",
        )
        known[key] = world.store(rate)["id"]
    return world.get("tax_rate", known[key])


def rates_of(world: World, ids: list[str] | str | None, param: str) -> list[Obj]:
    """The tax rates that a request names."""
    return [world.used("tax_rate", rate_id, param) for rate_id in ids_of(ids)]
