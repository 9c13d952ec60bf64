"""The portal, invoices, and what readiness says of Stripe."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from sql.pool import Pool
from tests.http import serving
from tests.shop import Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        yield made


async def test_portal_leads_to_the_customers_own_page(sale: Shop) -> None:
    asked = {"customer_id": "acme", "return_url": "https://app.example/credits"}
    answer = await sale.api.post("/v1/portal", asked, key=None)
    assert answer.status == 200, answer
    assert answer.body["url"].startswith(sale.standin.url)
    [session] = await sale.state("billing_portal.session")
    customer = (await sale.api.get("/v1/customers/acme")).body["stripe_customer_id"]
    assert (session["customer"], session["return_url"]) == (customer, asked["return_url"])
    card = await sale.api.post("/v1/portal", {**asked, "flow": "payment_method_update"}, key=None)
    assert card.status == 200, card
    for wrong in ("ftp://app.example", "http://app.example", "app.example", "javascript:alert(1)"):
        answer = await sale.api.post("/v1/portal", {**asked, "return_url": wrong}, key=None)
        assert (answer.status, answer.code) == (422, "invalid_value"), wrong
    assert (
        await sale.api.post("/v1/portal", {**asked, "customer_id": "nobody"}, key=None)
    ).code == "customer_not_found"


async def test_invoices_of_purchases_are_listed_with_their_pages(sale: Shop) -> None:
    await sale.pack()
    assert (await sale.api.get("/v1/invoices?customer_id=acme")).body["data"] == []
    for _ in range(3):
        await sale.buy(invoice=True)
    short = await sale.api.get("/v1/invoices?customer_id=acme&limit=2")
    assert [one["total"] for one in short.body["data"]] == ["10", "10"]
    assert short.body["has_more"] is True
    rest = await sale.api.get(
        f"/v1/invoices?customer_id=acme&limit=2&cursor={short.body['next_cursor']}"
    )
    [last] = rest.body["data"]
    assert (last["status"], last["currency"], last["amount_paid"]) == ("paid", "USD", "10")
    assert last["hosted_url"].startswith(sale.standin.url)
    bolt = await sale.api.key("billing:read", customer_id="acme")
    assert len((await bolt.get("/v1/invoices")).body["data"]) == 3


async def test_readiness_says_that_the_key_is_refused_and_all_else_goes_on(sale: Shop) -> None:
    assert (await sale.api.get("/readyz")).body == {"status": "ok", "stripe": "ok"}
    await sale.pack()
    sale.standin.account.keys = type(sale.standin.account.keys)(
        secret="sk_test_other",
        publishable=sale.standin.publishable_key,
        token=sale.standin.token,
        webhook_secret=sale.standin.webhook_secret,
    )
    asked = {"customer_id": "acme", "return_url": "https://app.example/credits"}
    refused = await sale.api.post("/v1/portal", asked, key=None)
    assert (refused.status, refused.code) == (503, "stripe_unavailable")
    ready = await sale.api.get("/readyz")
    assert (ready.status, ready.body) == (200, {"status": "ok", "stripe": "key_refused"})
    await sale.api.grant("5")
    assert await sale.api.posted() == ("5", "0", "5")


async def test_without_a_key_nothing_is_sold_and_readiness_is_silent(pool: Pool) -> None:
    async with serving(pool) as running:
        api = running.api
        await api.customer("acme")
        assert (await api.get("/readyz")).body == {"status": "ok"}
        asked = {"customer_id": "acme", "return_url": "https://app.example/credits"}
        for answer in (
            await api.post("/v1/portal", asked, key=None),
            await api.get("/v1/invoices?customer_id=acme"),
        ):
            assert (answer.status, answer.code) == (503, "stripe_unavailable")


async def test_portal_never_changes_a_plan_and_is_configured_once(sale: Shop) -> None:
    asked = {"customer_id": "acme", "return_url": "https://app.example/back"}
    made = await asyncio.gather(*(sale.api.post("/v1/portal", asked, key=None) for _ in range(4)))
    assert {one.status for one in made} == {200}
    [configuration] = await sale.state("billing_portal.configuration")
    allowed = {name for name, one in configuration["features"].items() if one["enabled"]}
    assert allowed == {
        *("customer_update", "invoice_history", "payment_method_update", "subscription_cancel"),
    }
    assert configuration["features"]["subscription_cancel"]["mode"] == "at_period_end"
    sessions = await sale.state("billing_portal.session")
    assert {one["configuration"] for one in sessions} == {configuration["id"]}


async def test_portal_whose_answer_was_lost_is_found_after_a_day(sale: Shop) -> None:
    asked = {"customer_id": "acme", "return_url": "https://app.example/back"}
    path = "/v1/billing_portal/configurations"
    await sale.control("faults", method="POST", path=path, kind="reset_after", count=9)
    lost = await sale.api.post("/v1/portal", asked, key=None)
    assert (lost.status, lost.code) == (503, "stripe_unavailable")
    await sale.lift_faults()
    await sale.sleep(timedelta(days=2))
    assert (await sale.api.post("/v1/portal", asked, key=None)).status == 200
    assert len(await sale.state("billing_portal.configuration")) == 1


async def test_portal_can_be_without_an_end_of_the_subscription(pool: Pool) -> None:
    async with shop(pool, portal_cancel=False) as sale:
        asked = {"customer_id": "acme", "return_url": "https://app.example/back"}
        await sale.api.post("/v1/portal", asked, key=None)
        [configuration] = await sale.state("billing_portal.configuration")
        assert configuration["features"]["subscription_cancel"]["enabled"] is False
