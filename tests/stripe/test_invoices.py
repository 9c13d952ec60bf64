"""Invoices by themselves: drafted, finalised, paid, voided, with items, taxes and lists."""

from datetime import timedelta
from typing import Any

import pytest
import stripe

from tests.stripe.kit import Kit, code_of


async def drafted(kit: Kit, amount: int = 700, **more: Any) -> Any:
    """A draft with one item, for a customer who has a card."""
    customer = await kit.customer("pm_card_visa")
    await kit.v1.invoice_items.create_async(
        {"customer": customer.id, "amount": amount, "currency": "usd", "description": "Late"}
    )
    return await kit.v1.invoices.create_async(
        {"customer": customer.id, "pending_invoice_items_behavior": "include", **more}
    )


async def test_draft_is_finalised_numbered_and_paid(kit: Kit) -> None:
    draft = await drafted(kit, metadata={"purchase": "p"})
    assert (draft.status, draft.total, draft.number, draft.parent) == ("draft", 700, None, None)
    final = await kit.v1.invoices.finalize_invoice_async(draft.id)
    assert (final.status, final.number.endswith("-0001")) == ("open", True)
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.invoices.finalize_invoice_async(draft.id)
    assert code_of(error) == "invoice_not_editable"
    paid = await kit.v1.invoices.pay_async(draft.id, {"expand": ["payments"]})
    assert (paid.status, paid.amount_paid, paid.amount_remaining) == ("paid", 700, 0)
    assert paid.payments.data[0].status == "paid"
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.invoices.pay_async(draft.id)
    assert code_of(error) == "invoice_already_paid"
    lines = await kit.v1.invoices.line_items.list_async(draft.id)
    assert [one.parent.type for one in lines.data] == ["invoice_item_details"]


async def test_auto_advance_goes_on_by_the_clock(kit: Kit) -> None:
    draft = await drafted(kit, auto_advance=True)
    await kit.clock(timedelta(hours=1))
    assert (await kit.v1.invoices.retrieve_async(draft.id)).status == "paid"


async def test_void_and_uncollectible(kit: Kit) -> None:
    first = await kit.v1.invoices.finalize_invoice_async((await drafted(kit)).id)
    given_up = await kit.v1.invoices.mark_uncollectible_async(first.id)
    assert given_up.status == "uncollectible"
    assert (await kit.v1.invoices.pay_async(first.id)).status == "paid"
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.invoices.void_invoice_async(first.id)
    second = await kit.v1.invoices.finalize_invoice_async((await drafted(kit)).id)
    voided = await kit.v1.invoices.void_invoice_async(second.id)
    assert voided.status == "void"
    intents = await kit.state("payment_intent")
    assert [one["status"] for one in intents] == ["succeeded", "canceled"]


async def test_paid_elsewhere_has_no_charge(kit: Kit) -> None:
    draft = await drafted(kit)
    paid = await kit.v1.invoices.pay_async(draft.id, {"paid_out_of_band": True})
    assert (paid.status, paid.amount_paid_off_stripe) == ("paid", 700)
    assert await kit.state("charge") == []


async def test_declined_payment_leaves_it_open(kit: Kit) -> None:
    final = await kit.v1.invoices.finalize_invoice_async((await drafted(kit)).id)
    with pytest.raises(stripe.CardError):
        await kit.v1.invoices.pay_async(final.id, {"payment_method": "pm_card_chargeDeclined"})
    found = await kit.v1.invoices.retrieve_async(final.id)
    assert (found.status, found.attempt_count) == ("open", 1)
    assert "invoice.payment_failed" in await kit.events()


async def test_sent_invoice_becomes_overdue(kit: Kit) -> None:
    draft = await drafted(kit, collection_method="send_invoice", days_until_due=10)
    sent = await kit.v1.invoices.send_invoice_async(draft.id)
    assert sent.status == "open"
    await kit.clock(timedelta(days=10))
    assert (await kit.events())[-1] == "invoice.overdue"
    async with kit.web.get(sent.hosted_invoice_url) as answer:
        assert "7.00 USD" in await answer.text()
    form = {"action": "pay", "payment_method": "pm_card_visa"}
    async with kit.web.post(sent.hosted_invoice_url, data=form) as answer:
        assert answer.status == 200
    assert (await kit.v1.invoices.retrieve_async(sent.id)).status == "paid"


async def test_draft_can_be_changed_and_deleted(kit: Kit) -> None:
    draft = await drafted(kit)
    changed = await kit.v1.invoices.update_async(draft.id, {"description": "For May"})
    assert changed.description == "For May"
    assert (await kit.v1.invoices.delete_async(draft.id)).deleted is True
    waiting = await kit.v1.invoice_items.list_async({"pending": True})
    assert len(waiting.data) == 1
    assert (await kit.v1.invoice_items.delete_async(waiting.data[0].id)).deleted is True


@pytest.mark.parametrize(("inclusive", "total", "tax"), [(False, 840, 140), (True, 700, 117)])
async def test_tax_is_inside_or_on_top(kit: Kit, inclusive: bool, total: int, tax: int) -> None:
    rate = await kit.v1.tax_rates.create_async(
        {"display_name": "VAT", "percentage": 20, "inclusive": inclusive}
    )
    draft = await drafted(kit, default_tax_rates=[rate.id])
    assert (draft.total, draft.total_taxes[0].amount) == (total, tax)
    assert draft.total_excluding_tax == total - tax


async def test_balance_of_the_customer_is_used_first(kit: Kit) -> None:
    draft = await drafted(kit)
    await kit.v1.customers.balance_transactions.create_async(
        draft.customer, {"amount": -300, "currency": "usd"}
    )
    final = await kit.v1.invoices.finalize_invoice_async(draft.id)
    assert (final.total, final.amount_due, final.ending_balance) == (700, 400, 0)
    entries = await kit.v1.customers.balance_transactions.list_async(draft.customer)
    assert [(one.type, one.amount) for one in entries.data] == [
        ("applied_to_invoice", 300),
        ("adjustment", -300),
    ]


async def test_item_by_price_and_quantity(kit: Kit) -> None:
    customer = await kit.customer()
    price = await kit.price(250)
    made = await kit.v1.invoice_items.create_async(
        {"customer": customer.id, "pricing": {"price": price.id}, "quantity": 3}
    )
    assert (made.amount, made.pricing.price_details.price) == (750, price.id)
    preview = await kit.v1.invoices.create_preview_async({"customer": customer.id})
    assert preview.total == 750


async def test_preview_of_nothing_says_so(kit: Kit) -> None:
    customer = await kit.customer()
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.invoices.create_preview_async({"customer": customer.id})
    assert code_of(error) == "invoice_upcoming_none"


async def test_preview_of_a_new_subscription_leaves_nothing(kit: Kit) -> None:
    price = await kit.price(2000, "month")
    coupon = await kit.v1.coupons.create_async({"percent_off": 10, "duration": "once"})
    preview = await kit.v1.invoices.create_preview_async(
        {
            "customer": (await kit.customer()).id,
            "subscription_details": {"items": [{"price": price.id, "quantity": 2}]},
            "discounts": [{"coupon": coupon.id}],
            "automatic_tax": {"enabled": True},
        }
    )
    assert (preview.subtotal, preview.total) == (4000, 4320)
    assert await kit.state("subscription") == await kit.state("invoice") == []
    assert (await kit.v1.coupons.retrieve_async(coupon.id)).times_redeemed == 0
