"""Payment intents, setup intents, saved cards, refunds, disputes."""

from datetime import timedelta
from typing import Any

import pytest
import stripe

from tests.stripe.kit import DAY, Kit, code_of, told

DECLINES = {
    "pm_card_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_visa_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_chargeDeclinedLostCard": ("card_declined", "lost_card"),
    "pm_card_chargeDeclinedStolenCard": ("card_declined", "stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", None),
    "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", None),
    "pm_card_chargeDeclinedProcessingError": ("processing_error", None),
    "pm_card_radarBlock": ("card_declined", "fraudulent"),
}


# Payment intents


async def test_elements_flow_ends_paid(kit: Kit) -> None:
    intent = await kit.v1.payment_intents.create_async(
        {"amount": 1000, "currency": "usd", "automatic_payment_methods": {"enabled": True}}
    )
    assert intent.status == "requires_payment_method"
    assert intent.client_secret.startswith(f"{intent.id}_secret_")
    paid = await kit.do(f"payment-intents/{intent.id}/confirm", payment_method="pm_card_visa")
    assert (paid["status"], paid["amount_received"]) == ("succeeded", 1000)
    assert await kit.events() == [
        *("payment_intent.created", "charge.succeeded", "payment_intent.succeeded")
    ]


async def test_confirm_by_the_api_and_again(kit: Kit) -> None:
    intent = await kit.v1.payment_intents.create_async({"amount": 1000, "currency": "usd"})
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.payment_intents.confirm_async(intent.id)
    assert code_of(error) == "payment_intent_unexpected_state"
    paid = await kit.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": "pm_card_mastercard"}
    )
    assert paid.status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.payment_intents.confirm_async(intent.id)
    assert code_of(error) == "payment_intent_unexpected_state"


@pytest.mark.parametrize(("card", "codes"), DECLINES.items())
async def test_declines_carry_their_codes(
    kit: Kit, card: str, codes: tuple[str, str | None]
) -> None:
    with pytest.raises(stripe.CardError) as error:
        await kit.paid_intent(card=card)
    answer = told(error)
    assert (error.value.http_status, answer.code, answer.decline_code) == (402, *codes)
    intent = await kit.v1.payment_intents.retrieve_async(
        answer.payment_intent.id, {"expand": ["latest_charge"]}
    )
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error.code == codes[0]
    assert (intent.latest_charge.status, intent.latest_charge.paid) == ("failed", False)
    assert (await kit.events())[-2:] == ["charge.failed", "payment_intent.payment_failed"]
    again = await kit.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": "pm_card_visa"}
    )
    assert (again.status, again.last_payment_error) == ("succeeded", None)


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_three_d_secure_asks_first(kit: Kit, outcome: str) -> None:
    intent = await kit.paid_intent(card="pm_card_authenticationRequired")
    assert intent.status == "requires_action"
    assert intent.next_action.redirect_to_url.url == f"{kit.sandbox.url}/3ds/{intent.id}"
    found = await kit.do(f"payment-intents/{intent.id}/authenticate", outcome=outcome)
    assert found["status"] == ("succeeded" if outcome == "succeeded" else "requires_payment_method")


async def test_bank_page_leads_back_to_the_return_address(kit: Kit) -> None:
    intent = await kit.paid_intent(card="pm_card_threeDSecure2Required")
    url = intent.next_action.redirect_to_url.url
    form = {"action": "succeeded"}
    async with kit.web.post(url, data=form, allow_redirects=False) as answer:
        back = answer.headers["Location"]
    assert back.startswith(f"https://example.com?payment_intent={intent.id}&")
    assert back.endswith("&redirect_status=succeeded")


async def test_off_session_wants_a_card_that_is_set_up(kit: Kit) -> None:
    customer = await kit.customer()
    card = await kit.v1.payment_methods.attach_async(
        "pm_card_authenticationRequired", {"customer": customer.id}
    )
    with pytest.raises(stripe.CardError) as error:
        await kit.paid_intent(card=card.id, customer=customer.id, off_session=True)
    assert code_of(error) == "authentication_required"
    assert told(error).payment_intent.status == "requires_payment_method"
    setup = await kit.v1.setup_intents.create_async({"customer": customer.id})
    asked = await kit.do(f"setup-intents/{setup.id}/confirm", payment_method=card.id)
    assert asked["status"] == "requires_action"
    await kit.do(f"setup-intents/{setup.id}/authenticate", outcome="succeeded")
    paid = await kit.paid_intent(card=card.id, customer=customer.id, off_session=True)
    assert paid.status == "succeeded"


async def test_off_session_without_confirm_is_refused(kit: Kit) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.payment_intents.create_async(
            {"amount": 100, "currency": "usd", "off_session": True}
        )


@pytest.mark.parametrize(
    ("card", "status", "event"),
    [
        ("pm_usBankAccount_success", "succeeded", "payment_intent.succeeded"),
        (
            "pm_usBankAccount_insufficientFunds",
            "requires_payment_method",
            "payment_intent.payment_failed",
        ),
    ],
)
async def test_bank_debits_settle_by_the_clock(
    kit: Kit, card: str, status: str, event: str
) -> None:
    intent = await kit.paid_intent(card=card)
    assert intent.status == "processing"
    assert (await kit.look("clock/next"))["next"] is not None
    await kit.clock(timedelta(days=4))
    assert (await kit.v1.payment_intents.retrieve_async(intent.id)).status == status
    assert (await kit.events())[-1] == event


async def test_manual_capture_takes_a_part(kit: Kit) -> None:
    intent = await kit.paid_intent(capture_method="manual")
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 1000)
    taken = await kit.v1.payment_intents.capture_async(intent.id, {"amount_to_capture": 400})
    assert (taken.status, taken.amount_received) == ("succeeded", 400)
    charge = await kit.v1.charges.retrieve_async(taken.latest_charge)
    assert (charge.amount_captured, charge.amount_refunded) == (400, 600)


async def test_canceled_intent_cannot_be_paid(kit: Kit) -> None:
    intent = await kit.v1.payment_intents.create_async({"amount": 100, "currency": "usd"})
    await kit.v1.payment_intents.cancel_async(intent.id, {"cancellation_reason": "abandoned"})
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})
    assert code_of(error) == "payment_intent_unexpected_state"


async def test_zero_decimal_currency_is_not_multiplied(kit: Kit) -> None:
    intent = await kit.paid_intent(80, currency="jpy")
    assert (intent.amount_received, intent.currency) == (80, "jpy")


async def test_intents_are_found_by_customer_and_by_search(kit: Kit) -> None:
    customer = await kit.customer()
    made = await kit.paid_intent(customer=customer.id, metadata={"purchase": "pur_1"})
    await kit.paid_intent()
    listed = await kit.v1.payment_intents.list_async({"customer": customer.id})
    found = await kit.v1.payment_intents.search_async({"query": "metadata['purchase']:'pur_1'"})
    assert [one.id for one in listed.data] == [one.id for one in found.data] == [made.id]
    charges = await kit.v1.charges.list_async({"payment_intent": made.id})
    assert [one.id for one in charges.data] == [made.latest_charge]


# Saved cards


async def test_saved_card_is_attached_once(kit: Kit) -> None:
    customer, other = await kit.customer(), await kit.customer()
    card = await kit.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    assert (card.customer, card.card.last4) == (customer.id, "4242")
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.payment_methods.attach_async(card.id, {"customer": other.id})
    listed = await kit.v1.customers.payment_methods.list_async(customer.id)
    assert [one.id for one in listed.data] == [card.id]
    await kit.v1.payment_methods.detach_async(card.id)
    assert (await kit.v1.customers.payment_methods.list_async(customer.id)).data == []
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.payment_methods.attach_async(card.id, {"customer": customer.id})


async def test_fingerprint_belongs_to_the_number(kit: Kit) -> None:
    made = [
        await kit.v1.payment_methods.create_async({"payment_method": name})
        for name in ("pm_card_visa", "pm_card_visa", "pm_card_mastercard")
    ]
    prints = [one.card.fingerprint for one in made]
    assert len({one.id for one in made}) == 3
    assert (prints[0] == prints[1], prints[0] == prints[2]) == (True, False)


async def test_declining_card_cannot_be_saved_but_one_can(kit: Kit) -> None:
    customer = await kit.customer()
    with pytest.raises(stripe.CardError):
        await kit.v1.payment_methods.attach_async(
            "pm_card_chargeDeclined", {"customer": customer.id}
        )
    card = await kit.v1.payment_methods.attach_async(
        "pm_card_chargeCustomerFail", {"customer": customer.id}
    )
    with pytest.raises(stripe.CardError):
        await kit.paid_intent(card=card.id, customer=customer.id, off_session=True)


async def test_control_plane_swaps_the_card_everywhere(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(500, "month"))
    card = await kit.do(
        f"customers/{customer.id}/payment-method", payment_method="pm_card_mastercard"
    )
    found = await kit.v1.customers.retrieve_async(customer.id)
    assert found.invoice_settings.default_payment_method == card["id"]
    assert sub.default_payment_method is None


async def test_deleted_customer_takes_subscriptions_along(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(500, "month"))
    await kit.do(f"customers/{customer.id}/delete")
    assert (await kit.v1.subscriptions.retrieve_async(sub.id)).status == "canceled"
    assert (await kit.v1.customers.retrieve_async(customer.id)).deleted is True
    assert (await kit.events())[-2:] == ["customer.deleted", "customer.subscription.deleted"]
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.customers.update_async(customer.id, {"name": "x"})


# Refunds


async def test_refunds_add_up_to_the_charge(kit: Kit) -> None:
    intent = await kit.paid_intent()
    for amount in (250, 500):
        made = await kit.v1.refunds.create_async({"payment_intent": intent.id, "amount": amount})
        assert (made.status, made.charge) == ("succeeded", intent.latest_charge)
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.refunds.create_async({"payment_intent": intent.id, "amount": 251})
    await kit.v1.refunds.create_async({"charge": intent.latest_charge})
    charge = await kit.v1.charges.retrieve_async(intent.latest_charge)
    assert (charge.amount_refunded, charge.refunded) == (1000, True)
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.refunds.create_async({"payment_intent": intent.id})
    assert code_of(error) == "charge_already_refunded"
    events = [event for event in await kit.state("event") if event["type"] == "charge.refunded"]
    sums = [event["data"]["object"]["amount_refunded"] for event in events]
    assert sums == [250, 750, 1000]


@pytest.mark.parametrize(
    ("card", "statuses"),
    [
        ("pm_card_pendingRefund", ("pending", "succeeded")),
        ("pm_card_refundFail", ("succeeded", "failed")),
    ],
)
async def test_refund_cards_change_their_mind_after_a_day(
    kit: Kit, card: str, statuses: tuple[str, str]
) -> None:
    intent = await kit.paid_intent(card=card)
    made = await kit.v1.refunds.create_async({"payment_intent": intent.id})
    assert made.status == statuses[0]
    await kit.clock(DAY)
    found = await kit.v1.refunds.retrieve_async(made.id)
    assert found.status == statuses[1]
    charge = await kit.v1.charges.retrieve_async(intent.latest_charge)
    assert charge.refunded is (statuses[1] == "succeeded")


@pytest.mark.parametrize("fate", ["succeed", "fail", "cancel"])
async def test_dashboard_refund_goes_as_ordered(kit: Kit, fate: str) -> None:
    intent = await kit.paid_intent()
    asked = {"payment_intent": intent.id, "amount": 400, "status": "pending"}
    made = await kit.do("refunds", **asked)
    assert made["status"] == "pending"
    found = await kit.do(f"refunds/{made['id']}/{fate}")
    assert found["status"] == {"succeed": "succeeded", "fail": "failed", "cancel": "canceled"}[fate]
    charge = await kit.v1.charges.retrieve_async(intent.latest_charge)
    assert charge.amount_refunded == (400 if fate == "succeed" else 0)
    assert ("refund.failed" in await kit.events()) is (fate == "fail")
    again, _ = await kit.ask("POST", f"refunds/{made['id']}/succeed", {})
    assert again == 400


# Disputes


async def dispute(kit: Kit, **more: Any) -> tuple[Any, Any]:
    intent = await kit.paid_intent()
    return intent, await kit.do("disputes", payment_intent=intent.id, **more)


async def test_dispute_takes_the_money_and_a_win_brings_it_back(kit: Kit) -> None:
    intent, made = await dispute(kit)
    assert (made["status"], made["amount"]) == ("needs_response", 1000)
    assert made["balance_transactions"][0]["net"] == -2500
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.refunds.create_async({"payment_intent": intent.id})
    assert code_of(error) == "charge_disputed"
    won = await kit.do(f"disputes/{made['id']}/win")
    assert (won["status"], len(won["balance_transactions"])) == ("won", 2)
    assert [one for one in await kit.events() if "dispute" in one] == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ]


async def test_lost_dispute_stays_lost(kit: Kit) -> None:
    intent, made = await dispute(kit, amount=600)
    lost = await kit.v1.disputes.close_async(made["id"])
    assert (lost.status, lost.amount) == ("lost", 600)
    status, _ = await kit.ask("POST", f"disputes/{made['id']}/win", {})
    assert status == 400
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.refunds.create_async({"payment_intent": intent.id})
    assert code_of(error) == "charge_disputed"


async def test_inquiry_moves_no_money_until_it_escalates(kit: Kit) -> None:
    _, made = await dispute(kit, inquiry=True)
    assert (made["status"], made["balance_transactions"]) == ("warning_needs_response", [])
    found = await kit.do(f"disputes/{made['id']}/escalate")
    assert (found["status"], len(found["balance_transactions"])) == ("needs_response", 1)


async def test_closed_inquiry_leaves_the_charge_alone(kit: Kit) -> None:
    intent, made = await dispute(kit, inquiry=True)
    await kit.do(f"disputes/{made['id']}/close_inquiry")
    charge = await kit.v1.charges.retrieve_async(intent.latest_charge)
    assert charge.disputed is False
    assert "charge.dispute.funds_withdrawn" not in await kit.events()


@pytest.mark.parametrize("text", ["winning_evidence", "losing_evidence", "other"])
async def test_evidence_decides(kit: Kit, text: str) -> None:
    _, made = await dispute(kit)
    found = await kit.v1.disputes.update_async(
        made["id"], {"evidence": {"uncategorized_text": text}}
    )
    fates = {"winning_evidence": "won", "losing_evidence": "lost", "other": "under_review"}
    assert found.status == fates[text]


@pytest.mark.parametrize(
    ("card", "status"),
    [
        ("pm_card_createDispute", "needs_response"),
        ("pm_card_createDisputeProductNotReceived", "needs_response"),
        ("pm_card_createDisputeInquiry", "warning_needs_response"),
    ],
)
async def test_dispute_cards_dispute_at_once(kit: Kit, card: str, status: str) -> None:
    intent = await kit.paid_intent(card=card)
    found = await kit.v1.disputes.list_async({"payment_intent": intent.id})
    assert [one.status for one in found.data] == [status]


async def test_early_fraud_warning_is_told(kit: Kit) -> None:
    intent = await kit.paid_intent()
    made = await kit.do("early-fraud-warnings", payment_intent=intent.id)
    found = await kit.v1.radar.early_fraud_warnings.list_async({"payment_intent": intent.id})
    assert [one.id for one in found.data] == [made["id"]]
    assert (await kit.events())[-1] == "radar.early_fraud_warning.created"
    charge = await kit.v1.charges.retrieve_async(intent.latest_charge)
    assert charge.disputed is False


async def test_balance_follows_every_movement(kit: Kit) -> None:
    _, made = await dispute(kit)
    await kit.do(f"disputes/{made['id']}/win")
    balance = await kit.v1.balance.retrieve_async()
    assert balance.pending[0].amount == 1000 - 59 - 1000 - 1500 + 1000
    await kit.clock(timedelta(days=2))
    balance = await kit.v1.balance.retrieve_async()
    assert balance.available[0].amount == 1000 - 59 - 1500
    listed = await kit.v1.balance_transactions.list_async({"type": "adjustment"})
    assert [one.net for one in listed.data] == [1000, -2500]


# Setup intents


async def test_setup_intent_saves_a_card(kit: Kit) -> None:
    customer = await kit.customer()
    made = await kit.v1.setup_intents.create_async(
        {"customer": customer.id, "payment_method": "pm_card_visa", "confirm": True}
    )
    assert made.status == "succeeded"
    listed = await kit.v1.customers.payment_methods.list_async(customer.id)
    assert [one.id for one in listed.data] == [made.payment_method]
    assert (await kit.events())[-2:] == ["payment_method.attached", "setup_intent.succeeded"]


async def test_setup_intent_of_a_declining_card_fails(kit: Kit) -> None:
    customer = await kit.customer()
    made = await kit.v1.setup_intents.create_async({"customer": customer.id})
    status, answer = await kit.ask(
        "POST", f"setup-intents/{made.id}/confirm", {"payment_method": "pm_card_chargeDeclined"}
    )
    assert (status, answer["error"]["code"]) == (402, "card_declined")
    found = await kit.v1.setup_intents.retrieve_async(made.id)
    assert (found.status, found.last_setup_error.code) == (
        "requires_payment_method",
        "card_declined",
    )
    assert (await kit.v1.setup_intents.cancel_async(made.id)).status == "canceled"
