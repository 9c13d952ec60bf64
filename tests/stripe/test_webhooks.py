"""Webhooks: signed, in order or not, tried again, held, doubled, lost, invented."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import stripe
from aiohttp import web

from sandbox import postman, schema
from tests.stripe.kit import Kit, Receiver, serving


@pytest.fixture
async def hooked(kit: Kit, receiver: Receiver) -> Kit:
    """A stand-in that delivers to the receiver, signed with its own secret."""
    kit.sandbox.set_webhook(receiver.url)
    return kit


async def test_delivery_is_verified_by_the_library(hooked: Kit, receiver: Receiver) -> None:
    intent = await hooked.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "description": "é ☃"}
    )
    await hooked.do(f"payment-intents/{intent.id}/confirm")
    assert receiver.types() == [
        *("payment_intent.created", "charge.succeeded", "payment_intent.succeeded")
    ]
    for body, header in receiver.seen:
        event = stripe.Webhook.construct_event(  # type: ignore[no-untyped-call]
            body, header, hooked.sandbox.webhook_secret, tolerance=0
        )
        assert event.api_version == schema.VERSION
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(body + b" ", header, hooked.sandbox.webhook_secret)  # type: ignore[no-untyped-call]
    first = receiver.events()[0]
    assert first["request"]["id"].startswith("req_")
    assert first["request"]["idempotency_key"] is not None
    assert (first["data"]["object"]["description"], first["livemode"]) == ("é ☃", False)


async def test_endpoints_get_what_they_asked_for(kit: Kit, receiver: Receiver) -> None:
    made = await kit.v1.webhook_endpoints.create_async(
        {"url": receiver.url, "enabled_events": ["customer.created"]}
    )
    assert made.secret.startswith("whsec_")
    assert "secret" not in await kit.v1.webhook_endpoints.retrieve_async(made.id)
    await kit.customer()
    await kit.price()
    await kit.do("webhooks", mode="deliver")
    assert receiver.types() == ["customer.created"]
    stripe.Webhook.construct_event(*receiver.seen[0], made.secret, tolerance=0)  # type: ignore[no-untyped-call]
    await kit.v1.webhook_endpoints.update_async(made.id, {"disabled": True})
    await kit.customer()
    await kit.v1.webhook_endpoints.delete_async(made.id)
    await kit.customer()
    await kit.do("webhooks", mode="deliver")
    assert len(receiver.seen) == 1


async def test_failed_deliveries_are_tried_again_by_the_clock(
    hooked: Kit, receiver: Receiver
) -> None:
    receiver.statuses[:] = [500, 302]
    await hooked.customer()
    await hooked.do("webhooks", mode="deliver")
    [row] = (await hooked.look("webhooks"))["data"]
    assert (row["state"], len(row["attempts"])) == ("waiting", 1)
    listed = await hooked.v1.events.list_async({"delivery_success": False})
    assert [one.id for one in listed.data] == [row["event"]]
    await hooked.clock(timedelta(minutes=1))
    await hooked.clock(timedelta(hours=1))
    [row] = (await hooked.look("webhooks"))["data"]
    assert row["state"] == "delivered"
    assert [one["status"] for one in row["attempts"]] == [500, 302, 200]
    assert len({body for body, _ in receiver.seen}) == 1
    assert len({header for _, header in receiver.seen}) == 3
    assert (await hooked.v1.events.list_async({"delivery_success": False})).data == []


async def test_three_tries_are_all(hooked: Kit, receiver: Receiver) -> None:
    receiver.statuses[:] = [500] * 5
    await hooked.customer()
    await hooked.clock(timedelta(days=3))
    [row] = (await hooked.look("webhooks"))["data"]
    assert (row["state"], len(row["attempts"])) == ("failed", 3)
    again = await hooked.do(f"webhooks/resend/{row['event']}")
    assert again["data"][0]["attempts"][0]["status"] == 500
    assert len(receiver.seen) == 4


async def test_receiver_that_is_not_there(kit: Kit) -> None:
    kit.sandbox.set_webhook("http://127.0.0.1:9/nothing")
    await kit.customer()
    await kit.do("webhooks", mode="deliver")
    [row] = (await kit.look("webhooks"))["data"]
    assert row["attempts"][0]["error"] == "ClientConnectorError"


@pytest.mark.parametrize(
    ("order", "numbers"),
    [(None, "012"), ("created", "012"), ("reverse", "210"), ("ids", "120")],
)
async def test_held_deliveries_are_released_in_any_order(
    hooked: Kit, receiver: Receiver, order: str | None, numbers: str
) -> None:
    await hooked.do("webhooks", mode="hold")
    for number in range(3):
        await hooked.customer(name=str(number))
    assert receiver.seen == []
    ids = [event["id"] for event in await hooked.state("event")]
    wanted: Any = [ids[1], ids[2]] if order == "ids" else order
    assert await hooked.do("webhooks/release", order=wanted) == {"released": 3}
    assert "".join(e["data"]["object"]["name"] for e in receiver.events()) == numbers


async def test_release_of_one_type_only(hooked: Kit, receiver: Receiver) -> None:
    await hooked.do("webhooks", mode="hold")
    await hooked.price()
    await hooked.customer()
    assert await hooked.do("webhooks/release", only=["customer.created"]) == {"released": 1}
    assert receiver.types() == ["customer.created"]


async def test_modes_duplicate_and_drop(hooked: Kit, receiver: Receiver) -> None:
    await hooked.do("webhooks", mode="duplicate")
    await hooked.customer()
    await hooked.do("webhooks", mode="drop")
    await hooked.customer()
    assert len(receiver.seen) == 2
    assert receiver.events()[0] == receiver.events()[1]
    states = [row["state"] for row in (await hooked.look("webhooks"))["data"]]
    assert states == ["delivered", "delivered", "dropped"]
    assert len((await hooked.v1.events.list_async()).data) == 2


async def test_shuffle_is_repeatable(hooked: Kit, receiver: Receiver) -> None:
    orders = list[list[str]]()
    for seed in (7, 7, 8):
        receiver.seen.clear()
        await hooked.do("webhooks", mode="shuffle", seed=seed)
        intent = await hooked.v1.payment_intents.create_async({"amount": 500, "currency": "usd"})
        await hooked.do("webhooks", mode="shuffle", seed=seed)
        await hooked.do(
            f"payment-intents/{intent.id}/confirm", payment_method="pm_card_createDispute"
        )
        orders.append(receiver.types())
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != orders[2]


async def test_invented_events(hooked: Kit, receiver: Receiver) -> None:
    customer = await hooked.customer()
    await hooked.do("webhooks", mode="drop")
    answer = await hooked.do(
        "webhooks/inject", type="customer.updated", object=customer.id, livemode=True, created=5
    )
    assert answer["data"][0]["attempts"][0]["status"] == 200
    stale = {"id": customer.id, "object": "customer", "email": "old@example.com"}
    await hooked.do("webhooks/inject", type="customer.updated", object=stale, id="evt_twice")
    await hooked.do("webhooks/inject", type="customer.updated", object=stale, id="evt_twice")
    events = receiver.events()[-3:]
    assert (events[0]["livemode"], events[0]["created"]) == (True, 5)
    assert events[0]["data"]["object"]["email"] == "jenny@example.com"
    assert [one["id"] for one in events[1:]] == ["evt_twice", "evt_twice"]
    assert events[1]["data"]["object"]["email"] == "old@example.com"


@pytest.mark.parametrize("how", [{"secret": "whsec_other"}, {"t_offset": -301}])
async def test_events_that_must_be_refused(hooked: Kit, receiver: Receiver, how: Any) -> None:
    customer = await hooked.customer()
    await hooked.do("webhooks/inject", type="customer.updated", object=customer.id, **how)
    body, header = receiver.seen[-1]
    at = int(header.partition(",")[0].removeprefix("t="))
    good = stripe.WebhookSignature.generate_signature_header(  # type: ignore[no-untyped-call]
        body.decode(), hooked.sandbox.webhook_secret, at
    )
    now = int(hooked.now.timestamp())
    assert (good == header, at == now) == (("secret" not in how), ("t_offset" not in how))


async def test_requests_in_a_handler_do_not_wait_for_deliveries(kit: Kit) -> None:
    """What answers a webhook may ask the stand-in meanwhile."""

    async def take(request: web.BaseRequest) -> web.Response:
        event = await request.json()
        if event["type"] == "customer.created":
            await kit.v1.customers.update_async(
                event["data"]["object"]["id"], {"metadata": {"seen": "yes"}}
            )
        return web.Response()

    async with serving(take) as url:
        kit.sandbox.set_webhook(url)
        customer = await kit.customer()
        await kit.do("webhooks", mode="deliver")
        found = await kit.v1.customers.retrieve_async(customer.id)
        assert found.metadata.seen == "yes"


async def test_destinations_of_version_two(kit: Kit, receiver: Receiver) -> None:
    given = {
        "name": "thin",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": ["v1.customer.created", "v2.core.event_destination.ping"],
        "webhook_endpoint": {"url": receiver.url},
    }
    made = await kit.v2.core.event_destinations.create_async(given)
    customer = await kit.customer()
    await kit.v2.core.event_destinations.ping_async(made.id)
    await kit.do("webhooks", mode="deliver")
    thin, ping = receiver.events()
    assert thin["related_object"]["id"] == customer.id
    assert "data" not in thin
    assert ping["type"] == "v2.core.event_destination.ping"
    found = await kit.v2.core.event_destinations.retrieve_async(
        made.id, {"include": ["webhook_endpoint.url"]}
    )
    assert found.webhook_endpoint.url == receiver.url
    assert (await kit.v2.core.event_destinations.disable_async(made.id)).status == "disabled"
    assert (await kit.v2.core.event_destinations.enable_async(made.id)).status == "enabled"
    listed = await kit.v2.core.event_destinations.list_async()
    assert [one.id for one in listed.data] == [made.id]
    await kit.v2.core.event_destinations.delete_async(made.id)
    assert (await kit.v2.core.event_destinations.list_async()).data == []


async def test_events_are_listed_by_type(kit: Kit) -> None:
    await kit.customer()
    await kit.price()
    listed = await kit.v1.events.list_async({"types": ["customer.created", "price.created"]})
    assert [one.type for one in listed.data] == ["price.created", "customer.created"]
    listed = await kit.v1.events.list_async({"type": "product.*"})
    assert [one.type for one in listed.data] == ["product.created"]
    found = await kit.v1.events.retrieve_async(listed.data[0].id)
    assert found.data.object.name == "Credits"


async def test_webhook_urls_are_checked(kit: Kit) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.webhook_endpoints.create_async({"url": "ftp://x", "enabled_events": ["*"]})
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.webhook_endpoints.create_async(
            {"url": "https://example.com", "enabled_events": ["customer.nothing"]}
        )


async def test_receiver_that_never_answers_is_given_up(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postman, "TIMEOUT_SECONDS", 0.05)
    end = asyncio.Event()

    async def take(request: web.BaseRequest) -> web.Response:
        del request
        await end.wait()
        return web.Response()

    async with serving(take) as url:
        kit.sandbox.set_webhook(url)
        await kit.customer()
        await kit.do("webhooks", mode="deliver")
        end.set()
    [row] = (await kit.look("webhooks"))["data"]
    assert (row["state"], row["attempts"][0]["error"]) == ("waiting", "TimeoutError")
