"""Erasing a customer's personal fields: nothing of them is left, and the books still prove."""

from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from ledger.proofs import prove
from meter import catalog, rebuild
from meter.erase import kept_of, wordless
from sql.pool import Connection, Pool, transaction
from tests.faults import faulty_pool, no_faults
from tests.http import fresh_key
from tests.metering import event, meter, send, usage
from tests.person import NOTE, PERSON, WORD, live, places_of
from tests.servers import Database, connected
from tests.shop import Shop, shop


@pytest.fixture
async def owner(database: Database) -> AsyncGenerator[Connection]:
    async with connected(database.owner_dsn) as conn:
        yield conn


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        yield made


async def test_nothing_that_names_a_person_is_left_and_the_books_prove(
    sale: Shop, owner: Connection
) -> None:
    key, api = await live(sale), sale.api
    told = await places_of(owner, WORD)
    assert told >= {"profiles.email", "holds.reference", "notes.reason", "requests.body"}
    assert told >= {"events.data", "events.extensions", "corrections.data", "stripe_events.body"}
    assert told >= {"stripe_calls.params", "api_keys.name"}
    counted = await usage(api, "calls", **{"from": "2030-01-01T00:00:00Z"}, group_by="model")
    balance, statement = await api.balance(), await api.get("/v1/customers/acme/statement")
    body = {"customer_id": "acme", "amount": "7", **NOTE}
    before = await api.post("/v1/consume", body, key=key)
    assert before.body["reference"] == WORD

    erased = await api.post("/v1/customers/acme/erase", {}, key=None)

    assert erased.status == 200, erased
    assert erased.body["stripe_customer_id"].startswith("cus_")
    assert await places_of(owner, WORD) == set()
    ids = {"stripe_objects.object_id", "stripe_calls.object_id", "stripe_calls.answer"}
    assert await places_of(owner, erased.body["stripe_customer_id"]) <= ids
    assert {**await api.balance(), "as_of": 0} == {**balance, "as_of": 0}
    after = await api.get("/v1/customers/acme/statement")
    numbers = [(line["amount"], line["balance"]) for line in after.body["lines"]]
    assert numbers == [(line["amount"], line["balance"]) for line in statement.body["lines"]]
    assert (
        await usage(api, "calls", **{"from": "2030-01-01T00:00:00Z"}, group_by="model") == counted
    )
    again = await api.post("/v1/consume", body, key=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body == {**before.body, "reference": None, "metadata": {}}
    shown = (await api.get("/v1/customers/acme")).body
    assert (shown["name"], shown["email"], shown["metadata"]) == (None, None, {})
    assert shown["erased_at"] == erased.body["erased_at"]
    async with owner.transaction():
        assert await prove(owner, chain=True) == []


async def test_erased_customer_takes_no_profile_and_erasing_again_finds_what_is_new(
    sale: Shop, owner: Connection
) -> None:
    await live(sale)
    first = await sale.api.post("/v1/customers/acme/erase", {}, key=None)
    refused = await sale.api.put("/v1/customers/acme", {"name": WORD})
    assert (refused.status, refused.body["code"]) == (409, "customer_erased")
    assert await send(sale.api, event("late", data={"n": 1, "who": WORD})) == [(202, None)]
    assert await places_of(owner, WORD) == {"events.data"}

    again = await sale.api.post("/v1/customers/acme/erase", {}, key=None)

    assert again.body == {**first.body, "stripe_customer_id": None}
    assert await places_of(owner, WORD) == set()


async def test_raw_events_count_the_same_after_it(sale: Shop, pool: Pool) -> None:
    await live(sale)
    counted = await usage(sale.api, "calls", **{"from": "2030-01-01T00:00:00Z"}, window="day")
    await sale.api.post("/v1/customers/acme/erase", {}, key=None)
    async with transaction(pool) as conn:
        meter = (await catalog.read(conn)).meters["calls"]

    await rebuild.rebuild(pool, meter)

    found = await usage(sale.api, "calls", **{"from": "2030-01-01T00:00:00Z"}, window="day")
    assert found == counted
    assert found["value"] == "4.5"


@pytest.mark.parametrize("what", ["open", "subscribed"])
async def test_who_is_not_closed_or_subscribes_is_not_erased(sale: Shop, what: str) -> None:
    await sale.api.customer(**PERSON)
    if what == "subscribed":
        await sale.plan()
        await sale.subscribe()
        await sale.api.post("/v1/customers/acme/close", {})

    refused = await sale.api.post("/v1/customers/acme/erase", {}, key=None)

    assert (refused.status, refused.body["code"]) == (409, "customer_in_use")
    words = {"open": "it is not closed", "subscribed": "a live subscription"}
    assert words[what] in refused.body["detail"]
    assert (await sale.api.get("/v1/customers/acme")).body["email"] == PERSON["email"]


async def test_change_of_a_subscription_that_has_ended_is_still_told(
    sale: Shop, owner: Connection
) -> None:
    await sale.plan()
    await sale.subscribe()
    key = fresh_key()
    path, body = "/v1/customers/acme/subscription/cancel", {"when": "now"}
    first = await sale.api.post(path, body, key=key)
    await sale.apply()
    await sale.api.post("/v1/customers/acme/close", {})
    assert (await sale.api.post("/v1/customers/acme/erase", {}, key=None)).status == 200

    again = await sale.api.post(path, body, key=key)

    assert (first.status, again.status) == (200, 200)
    assert again.body["subscription"]["status"] == "canceled"
    assert (await sale.api.get("/v1/customers/acme/subscription")).body["status"] == "canceled"
    links = await places_of(owner, "invoice.stripe")
    assert await places_of(owner, sale.standin.url) | links == set()


@pytest.mark.parametrize("what", ["dispute", "ours", "dashboard"])
async def test_money_of_a_plan_that_goes_back_later_is_still_booked(sale: Shop, what: str) -> None:
    await sale.plan()
    await sale.subscribe()
    await sale.act("cancel", when="now")
    [one] = (await sale.api.get("/v1/purchases?customer_id=acme")).body["data"]
    intent = (await sale.state("payment_intent"))[0]["id"]
    await sale.api.post("/v1/customers/acme/close", {})
    assert (await sale.api.post("/v1/customers/acme/erase", {}, key=None)).status == 200

    if what == "dispute":
        await sale.control("disputes", payment_intent=intent)
    elif what == "dashboard":
        await sale.control("refunds", payment_intent=intent, amount=500)
    else:
        await sale.refund(one)
        await sale.job("stripe_outbox")
    await sale.apply()

    now = await sale.purchase(one)
    expected = {"dispute": ("0", "20"), "ours": ("20", "0"), "dashboard": ("5", "0")}
    assert (now["refunded"], now["disputed"]) == expected[what]
    assert (await sale.api.get("/v1/customers/acme")).body["stripe_customer_id"] is None


async def test_nothing_is_made_at_stripe_for_one_who_was_erased(sale: Shop) -> None:
    await sale.api.post("/v1/customers/acme/close", {})
    await sale.api.post("/v1/customers/acme/erase", {}, key=None)
    body = {"customer_id": "acme", "return_url": "https://app.example/back"}

    refused = await sale.api.post("/v1/portal", body)

    assert (refused.status, refused.body["code"]) == (409, "customer_erased")
    assert await sale.state("customer") == []


async def test_correction_of_a_month_that_was_dropped_is_erased(
    pool: Pool, owner: Connection
) -> None:
    async with shop(pool, has_one_clock=True) as sale:
        await meter(sale.api, "calls")
        sent = event("e1", time="2030-01-01T12:00:00Z", data={"who": WORD})
        await send(sale.api, sent)
        change = {"customer_id": "acme", "source": "app", "correction_id": "c1", "id": "e1"}
        change |= {"action": "replace"}
        await sale.api.post("/v1/events/correct", {**change, "data": {"who": WORD}}, key=None)
        await sale.sleep(timedelta(days=450))
        await sale.job("rate_usage")
        await sale.job("event_partitions")
        await sale.api.post("/v1/customers/acme/close", {})

        assert (await sale.api.post("/v1/customers/acme/erase", {}, key=None)).status == 200

        assert await places_of(owner, WORD) == set()


async def test_neighbours_keep_what_is_theirs(sale: Shop, owner: Connection) -> None:
    await sale.api.customer("other", **PERSON)
    await sale.api.grant("5", "other", reason=WORD)
    before = await places_of(owner, WORD)
    await live(sale)

    assert (await sale.api.post("/v1/customers/acme/erase", {}, key=None)).status == 200

    assert await places_of(owner, WORD) == before


async def test_own_keys_and_tokens_end_with_it(sale: Shop) -> None:
    bound = await sale.api.key("customers:read", customer_id="acme")
    token = await sale.api.token("acme", "customers:read")
    assert (await token.get("/v1/customers/acme")).status == 200
    await sale.api.post("/v1/customers/acme/close", {})

    await sale.api.post("/v1/customers/acme/erase", {}, key=None)

    for api in (bound, token):
        assert (await api.get("/v1/customers/acme")).body["code"] == "key_revoked"


async def test_cut_off_anywhere_it_goes_on_when_asked_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, owner: Connection
) -> None:
    async with (
        faulty_pool(database.dsn, monkeypatch, size=10) as (pool, faults),
        shop(pool) as sale,
    ):
        await live(sale)
        last, cut = 0, 1
        while cut:
            last += 3
            faults.start(lambda number, _, last=last: "cut" if number == last else None)
            await sale.api.post("/v1/customers/acme/erase", {}, key=None)
            cut = faults.injected
            faults.start(no_faults)
        assert last > 20
        assert (await sale.api.post("/v1/customers/acme/erase", {}, key=None)).status == 200
        assert await places_of(owner, WORD) == set()


def test_answers_lose_words_and_keep_numbers() -> None:
    hold = {"id": "hld_1", "amount": "5", "reference": "x", "metadata": {"a": 1}}
    answer = {**hold, "charge": {"amount": "4", "reason": "y", "lots": [{"metadata": {"b": 2}}]}}
    answer["dimensions"] = {"reason": "chat"}

    assert wordless(answer) == {
        "id": "hld_1",
        "amount": "5",
        "reference": None,
        "metadata": {},
        "dimensions": {"reason": "chat"},
        "charge": {"amount": "4", "reason": None, "lots": [{"metadata": {}}]},
    }


def test_data_keeps_what_is_looked_at_as_it_is_found() -> None:
    data = {"a.b": 1, "a": {"b": 2, "c": 3, "d": {"e": 4}}, "l": [1], "o": {"p": 5}, "x": 6}

    assert kept_of(data, {"a.b", "a.c", "a.d.e", "a.none", "l", "o", "gone"}) == {
        "a.b": 1,
        "a": {"c": 3, "d": {"e": 4}},
        "l": [],
        "o": {},
    }
    assert kept_of(data, {"o", "o.p"}) == {"o": {"p": 5}}
