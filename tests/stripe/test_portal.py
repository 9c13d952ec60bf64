"""The billing portal: configurations, sessions, and what customers do there."""

from typing import Any

import pytest
import stripe

from tests.stripe.kit import Kit


@pytest.fixture
async def sub(kit: Kit) -> Any:
    customer = await kit.customer("pm_card_visa")
    return await kit.subscription(customer, await kit.price(2000, "month"))


async def opened(kit: Kit, customer: str, **more: Any) -> Any:
    return await kit.v1.billing_portal.sessions.create_async(
        {"customer": customer, "return_url": "https://example.com/account", **more}
    )


async def test_configuration_is_made_and_changed(kit: Kit) -> None:
    made = await kit.v1.billing_portal.configurations.create_async(
        {"features": {"invoice_history": {"enabled": True}}, "metadata": {"version": "1"}}
    )
    assert (made.features.invoice_history.enabled, made.is_default) == (True, False)
    assert made.features.subscription_cancel.enabled is False
    changed = await kit.v1.billing_portal.configurations.update_async(
        made.id, {"active": False, "features": {"subscription_cancel": {"enabled": True}}}
    )
    assert (changed.active, changed.features.subscription_cancel.enabled) == (False, True)
    assert changed.features.invoice_history.enabled is True
    listed = await kit.v1.billing_portal.configurations.list_async({"active": True})
    assert listed.data == []


async def test_customer_cancels_and_thinks_again(kit: Kit, sub: Any) -> None:
    session = await opened(kit, sub.customer)
    assert session.url == f"{kit.sandbox.url}/portal/{session.id}"
    found = await kit.do(f"portal/{session.id}/act", action="cancel", feedback="too_expensive")
    assert found["cancel_at_period_end"] is True
    assert found["cancellation_details"]["feedback"] == "too_expensive"
    found = await kit.do(f"portal/{session.id}/act", action="undo_cancel")
    assert (found["cancel_at_period_end"], found["cancel_at"]) == (False, None)


async def test_customer_changes_plan_card_and_name(kit: Kit, sub: Any) -> None:
    session = await opened(kit, sub.customer)
    big = await kit.price(5000, "month")
    found = await kit.do(f"portal/{session.id}/act", action="update_subscription", price=big.id)
    assert found["items"]["data"][0]["price"]["id"] == big.id
    card = await kit.do(
        f"portal/{session.id}/act",
        action="update_payment_method",
        payment_method="pm_card_mastercard",
    )
    customer = await kit.do(f"portal/{session.id}/act", action="update_customer", name="Ada")
    assert customer["name"] == "Ada"
    assert customer["invoice_settings"]["default_payment_method"] == card["id"]


async def test_customer_pauses_and_resumes(kit: Kit, sub: Any) -> None:
    session = await opened(kit, sub.customer)
    found = await kit.do(f"portal/{session.id}/act", action="pause")
    assert found["status"] == "paused"
    found = await kit.do(f"portal/{session.id}/act", action="resume")
    assert found["status"] == "active"


async def test_configuration_forbids(kit: Kit, sub: Any) -> None:
    made = await kit.v1.billing_portal.configurations.create_async(
        {"features": {"invoice_history": {"enabled": True}}}
    )
    session = await opened(kit, sub.customer, configuration=made.id)
    for action in ("cancel", "pause", "update_payment_method", "dance"):
        status, _ = await kit.ask("POST", f"portal/{session.id}/act", {"action": action})
        assert status == 400, action


async def test_flow_leads_to_one_thing(kit: Kit, sub: Any) -> None:
    flow = {"type": "subscription_cancel", "subscription_cancel": {"subscription": sub.id}}
    session = await opened(kit, sub.customer, flow_data=flow)
    assert session.flow.subscription_cancel.subscription == sub.id
    with pytest.raises(stripe.InvalidRequestError):
        await opened(kit, (await kit.customer()).id, flow_data=flow)


async def test_page_cancels_by_a_click(kit: Kit, sub: Any) -> None:
    session = await opened(kit, sub.customer)
    async with kit.web.get(session.url) as answer:
        shown = await answer.text()
    assert "Cancel subscription" in shown
    form = {"action": "cancel", "subscription": sub.id}
    async with kit.web.post(session.url, data=form) as answer:
        assert "ends with its period" in await answer.text()
    async with kit.web.post(
        session.url, data={"action": "return"}, allow_redirects=False
    ) as answer:
        assert answer.headers["Location"] == "https://example.com/account"
