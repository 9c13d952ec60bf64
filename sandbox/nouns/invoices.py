"""Invoices and invoice items: what requests do to them."""

from decimal import Decimal
from typing import Any

from sandbox import money
from sandbox.calendar import DAY
from sandbox.errors import invalid
from sandbox.lists import Readable, is_inside, page, readable
from sandbox.nouns import catalogue, discounts, invoice_ends, invoice_lines, invoicing
from sandbox.routing import Call, route
from sandbox.shapes import Obj, has_status
from sandbox.world import World, merged_metadata, pick


def _of_subscription(world: World, invoice: Obj, wanted: Any) -> bool:
    return invoicing.subscription_of(invoice) == wanted


def _of_payment(world: World, payment: Obj, wanted: Any) -> bool:
    return payment["payment"].get("payment_intent") == wanted.get("payment_intent")


readable(Readable("invoice", "/v1/invoices", "invoice", filters={"subscription": _of_subscription}))
readable(
    Readable(
        "invoice_payment",
        "/v1/invoice_payments",
        "invoice_payment",
        filters={"payment": _of_payment},
    )
)
readable(
    Readable(
        "invoiceitem",
        "/v1/invoiceitems",
        "invoiceitem",
        filters={
            "pending": lambda _, entry, wanted: (entry["invoice"] is None) == wanted,
            "created": lambda _, entry, wanted: is_inside(entry["date"], wanted),
        },
    )
)


def _invoice(world: World, call: Call) -> Obj:
    return world.get("invoice", call.ids["invoice"])


@route("POST /v1/invoices")
def create(world: World, call: Call) -> Obj:
    """A draft, with the waiting items if those are asked for."""
    given = call.params
    if "customer" not in given:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    customer = world.used("customer", given["customer"], "customer")
    sub = None
    if "subscription" in given:
        sub = world.used("subscription", given["subscription"], "subscription")
    method = given.get("collection_method", "charge_automatically")
    currency = given.get("currency") or (sub or customer).get("currency") or "usd"
    invoice = invoicing.draft(
        world,
        customer,
        currency=money.check_currency(currency),
        reason="manual",
        start=world.now,
        end=world.now,
        sub=sub,
    )
    invoice.update(
        auto_advance=given.get("auto_advance", False),
        collection_method=method,
        default_tax_rates=invoice_lines.rates_of(
            world, given.get("default_tax_rates"), "default_tax_rates"
        ),
        discounts=[
            one["id"]
            for one in discounts.redeem(
                world, given.get("discounts") or [], customer=customer["id"], invoice=invoice["id"]
            )
        ],
        metadata=merged_metadata(None, given),
        **pick(given, "default_payment_method", "description", "due_date", "footer"),
    )
    if "automatic_tax" in given:
        invoice["automatic_tax"]["enabled"] = given["automatic_tax"]["enabled"]
    if method == "send_invoice" and invoice["due_date"] is None:
        invoice["due_date"] = world.now + given.get("days_until_due", 30) * DAY
    if invoice["auto_advance"]:
        invoice["automatically_finalizes_at"] = world.now + world.settings.finalize_seconds
    lines = list[Obj]()
    if given.get("pending_invoice_items_behavior", "exclude") == "include" or sub is not None:
        lines = invoicing.take_pending(world, invoice, sub=None if sub is None else sub["id"])
    invoicing.put_lines(world, invoice, lines)
    return world.add(invoice, "invoice.created")


@route("POST /v1/invoices/{invoice}")
def update(world: World, call: Call) -> Obj:
    """A draft can change; of a final invoice only what its life after needs."""
    invoice, given = _invoice(world, call), call.params
    allowed = {"metadata", "auto_advance", "expand", "default_payment_method", "description"}
    if invoice["status"] != "draft" and given.keys() - allowed:
        raise invalid("Finalized invoices can't be updated.", code="invoice_not_editable")
    metadata = merged_metadata(invoice["metadata"], given)
    changes = pick(
        given, "auto_advance", "default_payment_method", "description", "due_date", "footer"
    )
    if "discounts" in given:
        owner = {"customer": invoice["customer"], "invoice": invoice["id"]}
        redeemed = discounts.redeem(world, given["discounts"] or [], **owner)
        changes["discounts"] = [one["id"] for one in redeemed]
    if changes.get("auto_advance") and invoice["status"] == "draft":
        changes["automatically_finalizes_at"] = world.now + world.settings.finalize_seconds
    world.change(invoice, "invoice.updated", metadata=metadata, **changes)
    if invoice["status"] == "draft":
        invoice_lines.add_up(world, invoice)
    return invoice


@route("DELETE /v1/invoices/{invoice}")
def delete(world: World, call: Call) -> Obj:
    invoice = _invoice(world, call)
    if invoice["status"] != "draft" or invoice["parent"] is not None:
        raise invalid("You can only delete draft invoices.", code="invoice_not_editable")
    for entry in world.every("invoiceitem", invoice=invoice["id"]):
        entry["invoice"] = None
    return world.remove(invoice, "invoice.deleted")


@route("GET /v1/invoices/{invoice}/lines")
def lines(world: World, call: Call) -> Obj:
    return page(call, _invoice(world, call)["lines"]["data"])


@route("POST /v1/invoices/{invoice}/finalize")
def finalize(world: World, call: Call) -> Obj:
    invoice, given = _invoice(world, call), call.params
    _check_draft(invoice)
    if "auto_advance" in given:
        invoice["auto_advance"] = given["auto_advance"]
    invoicing.finalize(world, invoice)
    is_automatic = invoice["collection_method"] == "charge_automatically"
    if invoice["status"] == "open" and invoice["auto_advance"] and is_automatic:
        # Stripe tries an hour later; nobody waits for that here.
        invoice["next_payment_attempt"] = world.now + world.settings.finalize_seconds
    return invoice


def _check_draft(invoice: Obj) -> None:
    if invoice["status"] != "draft":
        message = f"This invoice is already finalized, you can't re-finalize it ({invoice['id']})."
        raise invalid(message, code="invoice_not_editable")


@route("POST /v1/invoices/{invoice}/pay")
def pay(world: World, call: Call) -> Obj:
    """Finalise if needed and take the money at once."""
    invoice, given = _invoice(world, call), call.params
    if invoice["status"] == "draft":
        invoicing.finalize(world, invoice)
        if has_status(invoice, "paid"):
            return invoice
    if invoice["status"] == "paid":
        raise invalid("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid("Only open and uncollectible invoices can be paid.")
    if given.get("paid_out_of_band"):
        return invoicing.mark_paid(world, invoice, out_of_band=True)
    if (name := given.get("payment_method")) is not None:
        method = invoicing.usable_method(world, name, invoice["customer"])
    else:
        method = invoicing.method_for(world, invoice)
    return invoicing.pay(world, invoice, method, off_session=bool(given.get("off_session", True)))


@route("POST /v1/invoices/{invoice}/send")
def send(world: World, call: Call) -> Obj:
    invoice = _invoice(world, call)
    if invoice["collection_method"] != "send_invoice":
        raise invalid("You can only manually send an invoice of collection_method=send_invoice.")
    if invoice["status"] == "draft":
        invoicing.finalize(world, invoice)
    world.emit("invoice.sent", invoice)
    return invoice


@route("POST /v1/invoices/{invoice}/void")
def void(world: World, call: Call) -> Obj:
    return invoice_ends.void(world, _invoice(world, call))


@route("POST /v1/invoices/{invoice}/mark_uncollectible")
def mark_uncollectible(world: World, call: Call) -> Obj:
    return invoice_ends.mark_uncollectible(world, _invoice(world, call))


# Invoice items


@route("POST /v1/invoiceitems")
def create_item(world: World, call: Call) -> Obj:
    """An item that waits for the next invoice, or goes on a draft."""
    given = call.params
    if "customer" not in given:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    customer = world.used("customer", given["customer"], "customer")
    invoice = None
    if "invoice" in given:
        invoice = world.used("invoice", given["invoice"], "invoice")
        if invoice["status"] != "draft":
            raise invalid("The invoice is finalized.", code="invoice_not_editable")
    entry = item(world, customer, given)
    if (sub_id := given.get("subscription")) is not None:
        sub = world.used("subscription", sub_id, "subscription")
        if sub["customer"] != customer["id"] or has_status(sub, "canceled", "incomplete_expired"):
            raise invalid("No invoice of this subscription will come.", param="subscription")
        world.note(entry["id"])["subscription"] = sub_id
        entry["parent"] = {
            "type": "subscription_details",
            "subscription_details": {"subscription": sub_id},
        }
    world.add(entry, "invoiceitem.created")
    if invoice is not None:
        entry["invoice"] = invoice["id"]
        invoicing.put_lines(world, invoice, [invoice_lines.of_invoice_item(world, entry)])
    return entry


def item(world: World, customer: Obj, given: Obj) -> Obj:
    """An invoice item that is not stored yet; its amount, or a price and a quantity."""
    quantity = given.get("quantity", 1)
    price: Obj | None = None
    if "pricing" in given:
        price = catalogue.price_from(world, given["pricing"], "pricing")
    elif "price_data" in given:
        price = catalogue.price_from(world, given, "price_data")
    if price is not None:
        amount, currency = catalogue.amount(world, price, quantity), price["currency"]
    elif "unit_amount_decimal" in given:
        amount = money.rounded(Decimal(given["unit_amount_decimal"]) * quantity)
        currency = given.get("currency") or customer.get("currency") or "usd"
    elif "amount" in given:
        amount = given["amount"]
        currency = given.get("currency") or customer.get("currency") or "usd"
    else:
        raise invalid("One of amount, pricing or price_data is needed.", param="amount")
    product = {} if price is None else world.table("product").get(price["product"], {})
    period = given.get("period", {"start": world.now, "end": world.now})
    entry = world.make("invoiceitem", "ii")
    entry.update(
        amount=amount,
        currency=money.check_currency(currency),
        customer=customer["id"],
        date=world.now,
        description=given.get("description", product.get("name")),
        discountable=given.get("discountable", amount > 0),
        metadata=merged_metadata(None, given),
        period=period,
        proration=False,
        quantity=quantity,
        quantity_decimal=str(quantity),
        tax_rates=invoice_lines.rates_of(world, given.get("tax_rates"), "tax_rates"),
        test_clock=customer.get("test_clock"),
    )
    if price is not None:
        entry["pricing"] = {
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        }
    return entry


@route("POST /v1/invoiceitems/{invoiceitem}")
def update_item(world: World, call: Call) -> Obj:
    entry, given = world.get("invoiceitem", call.id), call.params
    _check_waiting(entry)
    metadata = merged_metadata(entry["metadata"], given)
    return world.change(entry, metadata=metadata, **pick(given, "amount", "description", "period"))


@route("DELETE /v1/invoiceitems/{invoiceitem}")
def delete_item(world: World, call: Call) -> Obj:
    entry = world.get("invoiceitem", call.id)
    _check_waiting(entry)
    return world.remove(entry, "invoiceitem.deleted")


def _check_waiting(entry: Obj) -> None:
    if entry["invoice"] is not None:
        raise invalid("The invoice item is on an invoice already.", code="invoice_not_editable")
