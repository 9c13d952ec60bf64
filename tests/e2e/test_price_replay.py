"""A past window priced again by a draft: sums, pages, bounds, and that nothing is written."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest

from meter.http import rerates
from sql.pool import Pool
from tests.http import Answer, Api, serving, set_clock
from tests.prices import consume, make_meter, publish, use

MAY = {"from": "2030-05-01T00:00:00Z", "to": "2030-06-01T00:00:00Z"}
PATH = "/v1/rate-cards/default/replay"


@pytest.fixture
async def api(pool: Pool) -> AsyncGenerator[Api]:
    """A sandbox in May 2030 with two customers and a price of 1 a token."""
    await set_clock(pool, datetime(2030, 5, 2, tzinfo=UTC))
    async with serving(pool) as running:
        await make_meter(running.api, "tokens")
        await make_meter(running.api, "pages")
        for customer_id in ("acme", "bolt"):
            await running.api.customer(customer_id)
            await running.api.grant("1000", customer_id)
        await publish(running.api, [{"meter": "tokens", "unit_price": "1"}])
        yield running.api


def draft(**rate: Any) -> dict[str, Any]:
    return {**MAY, "rates": [{"meter": "tokens", **rate}]}


async def replay(api: Api, body: dict[str, Any], query: str = "") -> Answer:
    return await api.post(PATH + query, body, key=None)


async def test_replay_says_old_new_and_difference_of_each_customer(api: Api) -> None:
    for quantity in (10, 20):
        await consume(api, use("tokens", quantity))
    await consume(api, use("tokens", 5), customer_id="bolt")
    answer = await replay(api, draft(unit_price="0.9"))
    assert answer.status == 200, answer
    assert answer.body == {
        "rate_card": "default",
        "version": None,
        "asset": "credits",
        "data": [
            {
                "customer_id": customer_id,
                "lines": lines,
                "old": old,
                "new": new,
                "difference": difference,
                "unrated": None,
            }
            for customer_id, lines, old, new, difference in (
                ("acme", 2, "30", "27", "-3"),
                ("bolt", 1, "5", "4.5", "-0.5"),
            )
        ],
        "has_more": False,
        "next_cursor": None,
    }
    one = await replay(api, {**draft(unit_price="2"), "customer_id": "bolt"})
    assert [c["customer_id"] for c in one.body["data"]] == ["bolt"]


async def test_replay_by_a_published_version_of_itself_changes_nothing(api: Api) -> None:
    tiers = [{"up_to": "10", "unit_price": "1"}, {"unit_price": "0.1"}]
    rate = {"meter": "tokens", "tiers": tiers, "tier_mode": "volume"}
    await publish(api, [rate])
    for quantity in (4, 5, 6, 7):
        assert (await consume(api, use("tokens", quantity))).status == 201
    answer = await replay(api, {**MAY, "version": 2})
    [acme] = answer.body["data"]
    assert (acme["old"], acme["new"], acme["difference"]) == ("2.2", "2.2", "0")
    assert answer.body["version"] == 2
    [first] = (await replay(api, {**MAY, "version": 1})).body["data"]
    assert (first["old"], first["new"]) == ("2.2", "22")


async def test_usage_before_the_window_counts_for_its_tiers(api: Api) -> None:
    await consume(api, use("tokens", 8))
    await api.clock(datetime(2030, 5, 20, tzinfo=UTC))
    await consume(api, use("tokens", 8))
    body = {**draft(unit_price="1", allowance="10"), "from": "2030-05-10T00:00:00Z"}
    [acme] = (await replay(api, body)).body["data"]
    assert (acme["lines"], acme["old"], acme["new"]) == (1, "8", "6")


async def test_only_usage_of_the_window_by_this_card_is_looked_at(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "5"}], key="gold")
    await consume(api, use("tokens", 1), rate_card="gold")
    await consume(api, use("tokens", 2))
    await api.clock(datetime(2030, 6, 1, tzinfo=UTC))
    await consume(api, use("tokens", 4))
    await consume(api, use("tokens", 8), effective_at="2030-05-31T23:59:59Z")
    [acme] = (await replay(api, draft(unit_price="1"))).body["data"]
    assert (acme["lines"], acme["old"]) == (2, "10")


async def test_usage_without_a_rate_is_told_apart(api: Api) -> None:
    await consume(api, use("tokens", 3, model="a"), use("tokens", 5, model="b"))
    [acme] = (await replay(api, draft(unit_price="2", match={"model": "a"}))).body["data"]
    assert (acme["old"], acme["new"]) == ("3", "6")
    assert acme["unrated"] == {
        "lines": 1,
        "old": "5",
        "meter": "tokens",
        "dimensions": {"model": "b"},
    }


async def test_pages_of_a_replay_cover_every_customer_once(api: Api) -> None:
    names = [f"c{n}" for n in range(7)]
    for name in names:
        await api.customer(name)
        await api.grant("10", name)
        await consume(api, use("tokens", 1), customer_id=name)
    body, found = draft(unit_price="2"), list[str]()
    query = "?limit=3"
    while query:
        page = (await replay(api, body, query)).body
        assert len(page["data"]) <= 3
        found += [one["customer_id"] for one in page["data"]]
        query = page["has_more"] and f"?limit=3&cursor={page['next_cursor']}"
    assert found == names
    first = (await replay(api, body, "?limit=3")).body["next_cursor"]
    other = await replay(api, draft(unit_price="3"), f"?limit=3&cursor={first}")
    assert (other.status, other.code) == (400, "invalid_cursor")


async def test_work_of_a_page_is_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for customer_id in ("acme", "acme", "bolt", "bolt"):
        await consume(api, use("tokens", 1), customer_id=customer_id)
    body = draft(unit_price="2")
    monkeypatch.setattr(rerates, "LINES_MAX", 3)
    page = (await replay(api, body)).body
    assert [one["customer_id"] for one in page["data"]] == ["acme"]
    rest = (await replay(api, body, f"?cursor={page['next_cursor']}")).body
    assert [one["customer_id"] for one in rest["data"]] == ["bolt"]
    assert not rest["has_more"]
    monkeypatch.setattr(rerates, "LINES_MAX", 1)
    refused = await replay(api, body)
    assert (refused.status, refused.code) == (422, "invalid_replay")
    monkeypatch.setattr(rerates, "LINES_MAX", 100)
    monkeypatch.setattr(rerates, "CUSTOMERS_LOOKED_MAX", 1)
    page = (await replay(api, body)).body
    assert (len(page["data"]), page["has_more"]) == (1, True)


@pytest.mark.parametrize(
    ("change", "status", "code", "pointer"),
    [
        ({"to": MAY["from"]}, 422, "invalid_replay", "/to"),
        ({"to": "2030-08-03T00:00:00Z"}, 422, "invalid_replay", "/to"),
        ({"from": "May"}, 422, "invalid_timestamp", "/from"),
        ({"version": 1}, 422, "invalid_replay", "/rates"),
        ({"rates": None}, 422, "invalid_replay", "/rates"),
        ({"rates": None, "version": 2}, 404, "rate_card_not_found", None),
        ({"rates": None, "version": 1, "asset": "pages"}, 422, "invalid_replay", "/asset"),
        ({"asset": "USD"}, 422, "invalid_asset", "/asset"),
        ({"rates": [{"meter": "none", "unit_price": "1"}]}, 422, "invalid_rate", "/rates/0/meter"),
        ({"customer_id": "nobody"}, 404, "customer_not_found", None),
        ({"form": "x"}, 422, "unknown_member", "/form"),
    ],
)
async def test_replay_that_makes_no_sense_is_refused(
    api: Api, change: dict[str, Any], status: int, code: str, pointer: str | None
) -> None:
    answer = await replay(api, {**draft(unit_price="1"), **change})
    assert (answer.status, answer.code) == (status, code), answer
    if pointer is not None:
        assert answer.body["errors"][0]["pointer"] == pointer


async def test_replay_of_a_card_that_was_never_published_is_404(api: Api) -> None:
    answer = await api.post("/v1/rate-cards/gold/replay", draft(unit_price="1"), key=None)
    assert (answer.status, answer.code) == (404, "rate_card_not_found")


async def test_replay_writes_nothing(api: Api, pool: Pool) -> None:
    await consume(api, use("tokens", 1))
    before = await api.balance()
    async with pool.acquire() as conn:
        catalog = await conn.fetchval("SELECT catalog_version FROM installation")
        assert (await replay(api, draft(unit_price="9"))).status == 200
        assert await conn.fetchval("SELECT catalog_version FROM installation") == catalog
    assert {**await api.balance(), "as_of": 0} == {**before, "as_of": 0}
