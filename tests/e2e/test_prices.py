"""Usage priced inside the decision: rate cards, lines, counters, through HTTP."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from sql.pool import STATEMENT_CACHE, Pool, open_pool
from tests.http import Answer, Api, Running, serving, set_clock, wire_time
from tests.prices import consume, make_meter, publish, use
from tests.servers import Database

MILLION = 1_000_000
VOLUME = {
    "meter": "tokens",
    "tiers": [{"up_to": "10", "unit_price": "1"}, {"unit_price": "0.1"}],
    "tier_mode": "volume",
}


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    """A sandbox with the meters `tokens`, `pages` and `calls`, and `acme`, who has 1,000."""
    async with serving(pool) as made:
        await make_meter(made.api, "tokens", group_by=("model", "cache"))
        await make_meter(made.api, "pages")
        await make_meter(made.api, "calls", aggregation="count")
        await made.api.customer("acme")
        await made.api.grant("1000")
        yield made


@pytest.fixture
def api(running: Running) -> Api:
    return running.api


async def rows(pool: Pool) -> tuple[int, int, int]:
    """How many journals, lines and counters there are."""
    async with pool.acquire() as conn:
        found = await conn.fetchrow(
            "SELECT (SELECT count(*) FROM journals), (SELECT count(*) FROM charge_lines), "
            "(SELECT count(*) FROM price_counters)"
        )
    assert found is not None
    return tuple(found)


async def posted(api: Api) -> str:
    return (await api.posted())[0]


def amounts(answer: Answer) -> list[str]:
    assert answer.status == 201, answer
    return [line["amount"] for line in answer.body["lines"]]


# A charge and its lines


async def test_consume_of_usage_is_a_charge_with_lines(api: Api) -> None:
    """B-30: cached tokens have a price of their own, and are charged once."""
    per = {"meter": "tokens", "per": MILLION}
    await publish(
        api,
        [
            {**per, "unit_price": "3.00"},
            {**per, "unit_price": "0.30", "match": {"cache": "read"}},
            {**per, "unit_price": "3.75", "match": {"cache": "write"}},
        ],
    )
    # 2,000 of the prompt, which include 500 read from the cache and 300 written to it.
    answer = await consume(
        api,
        use("tokens", 1200, model="m"),
        use("tokens", 500, model="m", cache="read"),
        use("tokens", "300", model="m", cache="write"),
    )
    assert answer.body["amount"] == "0.004875"
    assert answer.body["lines"] == [
        {
            "meter": "tokens",
            "quantity": quantity,
            "dimensions": dimensions,
            "rate_card_version": "default@1",
            "rate": rate,
            "amount": amount,
        }
        for quantity, dimensions, rate, amount in (
            ("1200", {"model": "m"}, 0, "0.0036"),
            ("500", {"cache": "read", "model": "m"}, 1, "0.00015"),
            ("300", {"cache": "write", "model": "m"}, 2, "0.001125"),
        )
    ]
    read = await api.get(f"/v1/charges/{answer.body['id']}")
    assert read.body["lines"] == answer.body["lines"]
    assert await posted(api) == "999.995125"


@pytest.mark.parametrize(
    ("count", "scale", "price", "sum_"),
    [
        # A million of them come to 0.15; these are a five-hundredth of that.
        pytest.param(2_000, 9, "0.00000015", "0.0003", id="credits"),
        # Two decimals: no token is worth a hundredth, 1,000 of them are 0.15 all the same.
        pytest.param(1_000, 2, "0.00015", "0.15", id="cents"),
        pytest.param(MILLION, 9, "0.00000015", "0.15", id="whole", marks=pytest.mark.long),
    ],
)
async def test_tiny_prices_add_up_exactly(
    api: Api, count: int, scale: int, price: str, sum_: str
) -> None:
    """B-29: one token each, nothing is lost to rounding, however many requests it takes."""
    asset = "credits" if scale == 9 else "cents"
    if scale != 9:
        await api.put(f"/v1/assets/{asset}", {"scale": scale})
        await api.grant("1000", asset=asset)
    rate = {"meter": "tokens", "unit_price": price, "accumulate": "month"}
    await publish(api, [rate], asset=asset)
    item = {"op": "consume", "customer_id": "acme", "usage": [use("tokens", 1)]}
    for first in range(0, count, 1_000):
        operations = [{**item, "key": f"one-{first + n}"} for n in range(min(1_000, count))]
        answer = await api.post("/v1/batch", {"operations": operations}, key=None)
        assert {result["status"] for result in answer.body["results"]} == {201}
    left = (await api.balance(asset=asset))["posted"]
    assert 1000 - Decimal(left) == Decimal(sum_)


async def test_zero_priced_usage_is_a_charge_that_can_be_read(api: Api, pool: Pool) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "0"}])
    before = await rows(pool)
    answer = await consume(api, use("tokens", 5), reference="free")
    assert (answer.status, answer.body["amount"], answer.body["lots"]) == (201, "0", [])
    read = await api.get(f"/v1/charges/{answer.body['id']}")
    assert (read.body["amount"], read.body["reference"]) == ("0", "free")
    assert read.body["lines"] == answer.body["lines"]
    listed = await api.get("/v1/charges?customer_id=acme")
    assert [charge["id"] for charge in listed.body["data"]] == [answer.body["id"]]
    again = await api.post(f"/v1/charges/{answer.body['id']}/reverse")
    assert (again.status, again.code) == (409, "reversal_exceeds_charge")
    assert await rows(pool) == (before[0] + 1, before[1] + 1, before[2])
    assert await posted(api) == "1000"


async def test_zero_priced_usage_needs_no_credit(api: Api) -> None:
    await api.customer("poor")
    await publish(api, [{"meter": "tokens", "unit_price": "0"}])
    assert (await consume(api, use("tokens", 5), customer_id="poor")).status == 201
    held = await api.post("/v1/reserve", {"customer_id": "poor", "usage": [use("tokens", 5)]})
    assert (held.status, held.body["amount"]) == (201, "0")
    captured = await api.post(f"/v1/holds/{held.body['id']}/capture", {"usage": [use("tokens", 4)]})
    assert (captured.status, captured.body["status"]) == (200, "captured")
    assert captured.body["charge"]["amount"] == "0"


async def test_quantity_zero_is_a_line_of_nothing(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1", "minimum": "5"}])
    assert amounts(await consume(api, use("tokens", 0), use("tokens", "0.000"))) == ["0", "0"]
    assert amounts(await consume(api, use("tokens", "0.000000000000000001"))) == ["5"]


# Forms of prices


async def test_graduated_tiers_are_crossed_within_and_between_requests(api: Api) -> None:
    tiers = [{"up_to": "10", "unit_price": "2"}, {"up_to": "20", "unit_price": "1"}, {}]
    await publish(api, [{"meter": "tokens", "tiers": tiers}])
    assert amounts(await consume(api, use("tokens", 8))) == ["16"]
    assert amounts(await consume(api, use("tokens", 15))) == ["14"]
    assert amounts(await consume(api, use("tokens", 100))) == ["0"]
    assert await posted(api) == "970"


async def test_volume_tier_that_gets_cheaper_gives_back(api: Api) -> None:
    await publish(api, [VOLUME])
    first = await consume(api, use("tokens", 4))
    second = await consume(api, use("tokens", 6))
    assert await posted(api) == "990"
    third = await consume(api, use("tokens", 10))
    # 20 cost 2 in all: 8 too much were taken, first from the latest charge.
    assert (third.body["amount"], amounts(third)) == ("0", ["-8"])
    assert await posted(api) == "998"
    for charge, back in ((first, "2"), (second, "6"), (third, "0")):
        assert (await api.get(f"/v1/charges/{charge.body['id']}")).body["reversed"] == back
    journals = (await api.get("/v1/journals?customer_id=acme&kind=reversal")).body["data"]
    assert {journal["origin"] for journal in journals} == {"usage"}
    assert len(journals) == 2
    assert amounts(await consume(api, use("tokens", 10))) == ["1"]
    assert await posted(api) == "997"


async def test_what_charges_do_not_have_any_more_is_carried(api: Api) -> None:
    await publish(api, [VOLUME])
    charge = await consume(api, use("tokens", 10))
    undone = await api.post(f"/v1/charges/{charge.body['id']}/reverse", {"amount": "9"})
    assert undone.status == 201
    cheaper = await consume(api, use("tokens", 10))
    assert amounts(cheaper) == ["-1"]  # 8 were too much; the other 7 are carried
    assert await posted(api) == "1000"
    assert amounts(await consume(api, use("tokens", 50))) == ["0"]  # 5, of which 7 came off
    assert amounts(await consume(api, use("tokens", 40))) == ["2"]  # 4, of which the last 2
    assert await posted(api) == "998"


async def test_cheaper_tier_reached_within_one_request_costs_what_it_costs_at_once(
    api: Api,
) -> None:
    await publish(api, [VOLUME])
    answer = await consume(api, use("tokens", 10), use("tokens", 10))
    assert (answer.body["amount"], amounts(answer)) == ("2", ["2", "0"])


async def test_cheaper_tier_gives_back_on_the_latest_charge_of_its_batch(api: Api) -> None:
    await publish(api, [VOLUME])
    item = {"op": "consume", "customer_id": "acme", "usage": [use("tokens", 5)]}
    operations = [{**item, "key": f"k{n}"} for n in range(6)]
    answer = await api.post("/v1/batch", {"operations": operations}, key=None)
    charges = [result["body"] for result in answer.body["results"]]
    found = [charge["lines"][0]["amount"] for charge in charges]
    assert found == ["5", "5", "-8.5", "0.5", "0.5", "0.5"]
    back = [(await api.get(f"/v1/charges/{one['id']}")).body["reversed"] for one in charges]
    assert back == ["3.5", "5", "0", "0", "0", "0"]
    assert await posted(api) == "997"


async def test_what_was_owed_is_cancelled_before_lots_get_back(api: Api) -> None:
    await publish(api, [VOLUME])
    await api.customer("poor", overage={"policy": "owe", "limit": "100"})
    await api.grant("4", "poor")
    first = await consume(api, use("tokens", 10), customer_id="poor")
    assert first.body["overage"] == "6"
    cheaper = await consume(api, use("tokens", 10), customer_id="poor")
    assert amounts(cheaper) == ["-8"]
    balance = await api.balance("poor")
    assert (balance["posted"], balance["owed"]) == ("2", "0")


async def test_capture_whose_usage_gets_cheaper_gives_back_and_ends_its_hold(api: Api) -> None:
    await publish(api, [VOLUME])
    await consume(api, use("tokens", 8))
    hold = await api.post("/v1/reserve", {"customer_id": "acme", "usage": [use("tokens", 12)]})
    assert hold.body["amount"] == "0"
    used = {"usage": [use("tokens", 12)]}
    captured = await api.post(f"/v1/holds/{hold.body['id']}/capture", used)
    assert captured.body["status"] == "captured"
    assert captured.body["charge"]["lines"][0]["amount"] == "-6"
    assert await api.posted() == ("998", "0", "998")


async def test_give_back_of_one_meter_and_charge_of_another_in_one_request(api: Api) -> None:
    await publish(api, [VOLUME, {"meter": "pages", "unit_price": "3"}])
    await consume(api, use("tokens", 10))
    answer = await consume(api, use("tokens", 10), use("pages", 2))
    assert (answer.body["amount"], amounts(answer)) == ("6", ["-8", "6"])
    assert await posted(api) == "992"


async def test_package_begun_is_paid_once_by_all_that_use_it(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "package": {"size": "1000", "price": "5"}}])
    found = [amounts(await consume(api, use("tokens", n))) for n in (1, 999, 1, 2000)]
    assert found == [["5"], ["0"], ["5"], ["10"]]


async def test_allowance_is_used_up_before_anything_is_charged(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1", "allowance": "100"}])
    found = [amounts(await consume(api, use("tokens", n))) for n in (60, 60, 5)]
    assert found == [["0"], ["20"], ["5"]]


async def test_minimum_is_taken_with_the_first_use_of_a_period(api: Api) -> None:
    rate = {"meter": "tokens", "unit_price": "1", "minimum": "10", "accumulate": "day"}
    await publish(api, [rate])
    found = [amounts(await consume(api, use("tokens", n))) for n in (1, 8, 3)]
    assert found == [["10"], ["0"], ["2"]]
    await api.clock(await api.now() + timedelta(days=1))
    assert amounts(await consume(api, use("tokens", 1))) == ["10"]


async def test_late_usage_counts_in_the_period_of_its_own_time(pool: Pool) -> None:
    await set_clock(pool, datetime(2030, 5, 20, tzinfo=UTC))
    async with serving(pool) as running:
        api = running.api
        await make_meter(api, "tokens")
        await api.customer("acme")
        await api.grant("1000", effective_at="2030-04-01T00:00:00Z")
        await publish(api, [{"meter": "tokens", "unit_price": "1", "allowance": "10"}])
        await api.clock(datetime(2030, 6, 2, tzinfo=UTC))
        assert amounts(await consume(api, use("tokens", 8))) == ["0"]
        in_may = {"effective_at": "2030-05-25T00:00:00Z"}
        assert amounts(await consume(api, use("tokens", 8), **in_may)) == ["0"]
        assert amounts(await consume(api, use("tokens", 8), **in_may)) == ["6"]
        assert amounts(await consume(api, use("tokens", 3))) == ["1"]
        before = await consume(api, use("tokens", 1), effective_at="2030-05-19T00:00:00Z")
        assert (before.code, before.body["missing"]) == ("no_rate", "version")


# Which card


async def test_card_of_the_request_then_the_customers_then_default(api: Api) -> None:
    for key, price in (("default", "1"), ("gold", "2"), ("trial", "3")):
        await publish(api, [{"meter": "tokens", "unit_price": price}], key=key)
    assert amounts(await consume(api, use("tokens", 1))) == ["1"]
    changed = await api.customer("acme", rate_card="gold")
    assert changed["rate_card"] == "gold"
    assert amounts(await consume(api, use("tokens", 1))) == ["2"]
    assert amounts(await consume(api, use("tokens", 1), rate_card="trial")) == ["3"]
    unknown = await api.put("/v1/customers/acme", {"rate_card": "silver"})
    assert unknown.status == 422


async def test_no_rate_says_what_was_missing(api: Api, pool: Pool) -> None:
    before = await rows(pool)
    nothing = await consume(api, use("tokens", 1))
    assert (nothing.status, nothing.code) == (422, "no_rate")
    assert (nothing.body["missing"], nothing.body["rate_card"]) == ("rate_card", "default")
    later = wire_time(await api.now() + timedelta(days=1))
    rates = [{"meter": "tokens", "unit_price": "1", "match": {"model": "gpt-*"}}]
    await publish(api, rates, effective_at=later)
    assert (await consume(api, use("tokens", 1))).body["missing"] == "version"
    await publish(api, rates)
    other = await consume(api, use("tokens", 1, model="gpt-4o"), use("tokens", 1, model="o3"))
    assert (other.body["missing"], other.body["meter"]) == ("rate", "tokens")
    assert other.body["dimensions"] == {"model": "o3"}
    assert other.body["errors"][0]["pointer"] == "/usage/1"
    assert await rows(pool) == before


async def test_hold_keeps_the_version_of_its_estimate(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1"}])
    body = {"customer_id": "acme", "usage": [use("tokens", 100)]}
    hold = (await api.post("/v1/reserve", body)).body
    assert (hold["amount"], hold["rate_card_version"]) == ("100", "default@1")
    await publish(api, [{"meter": "tokens", "unit_price": "7"}])
    more = {"add": {"usage": [use("tokens", 20)]}}
    extended = await api.post(f"/v1/holds/{hold['id']}/extend", more)
    assert extended.body["amount"] == "120"
    captured = await api.post(f"/v1/holds/{hold['id']}/capture", {"usage": [use("tokens", 110)]})
    charge = captured.body["charge"]
    assert (charge["amount"], charge["lines"][0]["rate_card_version"]) == ("110", "default@1")
    assert captured.body["remaining"] == "0"
    fresh = (await api.post("/v1/reserve", body)).body
    assert (fresh["amount"], fresh["rate_card_version"]) == ("700", "default@2")
    assert await posted(api) == "890"


async def test_capture_of_usage_goes_above_its_hold_as_an_amount_does(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1"}])
    body = {"customer_id": "acme", "usage": [use("tokens", 100)]}
    hold = (await api.post("/v1/reserve", body)).body
    more = {"usage": [use("tokens", 150)]}
    denied = await api.post(f"/v1/holds/{hold['id']}/capture", more)
    assert (denied.status, denied.code) == (409, "capture_exceeds_hold")
    taken = await api.post(f"/v1/holds/{hold['id']}/capture", {**more, "above_hold": "take"})
    assert taken.body["charge"]["amount"] == "150"
    assert await api.posted() == ("850", "0", "850")


async def test_capture_in_steps_counts_each(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1", "allowance": "10"}])
    hold = (await api.post("/v1/reserve", {"customer_id": "acme", "amount": "100"})).body
    path = f"/v1/holds/{hold['id']}/capture"
    step = {"usage": [use("tokens", 8)], "final": False}
    found = [(await api.post(path, step)).body["charge"]["amount"] for _ in range(3)]
    assert found == ["0", "6", "8"]
    assert (await api.post(path, {"amount": "0"})).body["captured"] == "14"


async def test_reserve_of_usage_takes_what_there_is_down_to_its_minimum(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1"}])
    body = {"customer_id": "acme", "usage": [use("tokens", 1500)]}
    refused = await api.post("/v1/reserve", body)
    assert (refused.status, refused.body["required"]) == (402, "1500")
    held = await api.post("/v1/reserve", {**body, "minimum": "900"})
    assert (held.body["requested"], held.body["amount"]) == ("1500", "1000")


async def test_consume_above_what_there_is_takes_and_counts_nothing(api: Api, pool: Pool) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1", "allowance": "10"}])
    before = await rows(pool)
    refused = await consume(api, use("tokens", 2000))
    assert (refused.status, refused.body["required"]) == (402, "1990")
    assert await rows(pool) == before
    assert amounts(await consume(api, use("tokens", 11))) == ["1"]


# Another asset


async def test_prices_in_another_asset_charge_that_asset(api: Api) -> None:
    await api.put("/v1/assets/pages", {"scale": 2})
    await api.grant("50", asset="pages")
    await publish(api, [{"meter": "pages", "unit_price": "0.125"}], key="print", asset="pages")
    answer = await consume(api, use("pages", 1), use("pages", 3), rate_card="print")
    assert (answer.body["asset"], answer.body["amount"]) == ("pages", "0.5")
    assert amounts(answer) == ["0.12", "0.38"]
    assert (await api.balance(asset="pages"))["posted"] == "49.5"
    assert await posted(api) == "1000"
    hold = await api.post(
        "/v1/reserve",
        {"customer_id": "acme", "usage": [use("pages", 8)], "rate_card": "print"},
    )
    assert (hold.body["asset"], hold.body["amount"]) == ("pages", "1")


async def test_prices_in_another_asset_than_asked_for_are_refused(api: Api) -> None:
    await api.put("/v1/assets/pages", {"scale": 2})
    await publish(api, [{"meter": "pages", "unit_price": "1"}], asset="pages")
    for path in ("/v1/consume", "/v1/reserve"):
        body = {"customer_id": "acme", "usage": [use("pages", 1)], "asset": "credits"}
        answer = await api.post(path, body)
        assert (answer.status, answer.code) == (422, "invalid_asset")
    hold = await api.reserve("10")
    captured = await api.post(f"/v1/holds/{hold['id']}/capture", {"usage": [use("pages", 1)]})
    assert (captured.status, captured.code) == (422, "invalid_asset")


# B-32: quantities that are none


QUANTITIES = [
    *("NaN", "Infinity", "-Infinity", "1e400", "-1", "-0", "true", '"NaN"', '"1e3"', '"-1"'),
    *('"-0"', '""', "null", '" "', '"1 "', "1.5", "[]", "{}", '"0x10"', '"+1"', "1e2"),
    *("1000000000000000000", '"1000000000000000000"', '"0.0000000000000000001"', '"٣"'),
]


@pytest.mark.parametrize("quantity", QUANTITIES)
async def test_quantity_that_is_none_is_refused_and_leaves_no_row(
    api: Api, pool: Pool, quantity: str
) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "0"}])
    hold = await api.reserve("10")
    before = await rows(pool)
    usage = '"usage": [{"meter": "tokens", "quantity": 1}, {"meter": "tokens", "quantity": %s}]'
    whole = '{"customer_id": "acme", ' + usage % quantity + "}"
    for path, raw in (
        ("/v1/consume", whole),
        ("/v1/reserve", whole),
        ("/v1/quote", whole),
        (f"/v1/holds/{hold['id']}/capture", "{" + usage % quantity + "}"),
        (f"/v1/holds/{hold['id']}/extend", '{"add": {' + usage % quantity + "}}"),
    ):
        answer = await api.send("POST", path, raw=raw.encode(), key=f"{path}-{quantity!a}")
        # Words that are no JSON at all can't be read; everything else is named.
        if quantity.strip("-") in {"NaN", "Infinity"}:
            assert (answer.status, answer.code) == (400, "malformed"), answer
            continue
        assert answer.status == 422, answer
        assert answer.body["errors"][0]["pointer"].endswith("/usage/1/quantity"), answer
    assert await rows(pool) == before


@pytest.mark.parametrize(
    "item",
    [
        {"meter": " ", "quantity": 1},
        {"meter": "", "quantity": 1},
        {"meter": "nothing", "quantity": 1},
        {"quantity": 1},
        {"meter": "tokens"},
        {"meter": "tokens", "quantity": 1, "unit": " "},
        {"meter": "tokens", "quantity": 1, "dimensions": {"colour": "red"}},
        {"meter": "tokens", "quantity": 1, "dimensions": {"model": 1.5}},
        {"meter": "tokens", "quantity": 1, "source": "app"},
        {"meter": "tokens", "quantity": 1, "event_id": "e"},
        {"meter": "tokens", "quantity": 1, "source": "", "event_id": "e"},
        {"meter": "tokens", "quantity": 1, "source": "drawdown", "event_id": "e"},
        {"meter": "calls", "quantity": 2},
    ],
)
async def test_item_that_means_nothing_is_refused(api: Api, pool: Pool, item: Any) -> None:
    await publish(api, [{"meter": name, "unit_price": "0"} for name in ("tokens", "calls")])
    before = await rows(pool)
    answer = await consume(api, item)
    assert answer.status == 422, answer
    assert answer.body["errors"][0]["pointer"].startswith("/usage/0"), answer
    assert await rows(pool) == before


async def test_amount_usage_and_rate_card_go_together_or_not(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1"}])
    hold = await api.reserve("10")
    usage = {"usage": [use("tokens", 1)]}
    both = {**usage, "amount": "1"}
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/consume", {"customer_id": "acme", **both}, "invalid_usage"),
        ("/v1/consume", {"customer_id": "acme"}, "missing_member"),
        ("/v1/consume", {"customer_id": "acme", "amount": "1", "rate_card": "a"}, "invalid_usage"),
        ("/v1/consume", {"customer_id": "acme", "usage": []}, "invalid_value"),
        ("/v1/consume", {"customer_id": "acme", **usage, "rate_card": ""}, "invalid_rate_card"),
        ("/v1/quote", {"customer_id": "acme", **usage, "rate_card": " "}, "invalid_rate_card"),
        ("/v1/reserve", {"customer_id": "acme", **both}, "invalid_usage"),
        (f"/v1/holds/{hold['id']}/capture", both, "invalid_usage"),
        (f"/v1/holds/{hold['id']}/extend", {"add": both}, "invalid_usage"),
        (f"/v1/holds/{hold['id']}/extend", {"add": {}}, "missing_member"),
    ]
    for path, body, code in wrong:
        answer = await api.post(path, body)
        assert (answer.status, answer.code) == (422, code), (path, body, answer)


# Once


async def test_the_same_request_again_is_the_first_answer(api: Api, pool: Pool) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1", "allowance": "1"}])
    body = {"customer_id": "acme", "usage": [use("tokens", 5, model="m")]}
    first = await api.post("/v1/consume", body, key="k")
    before = await rows(pool)
    await publish(api, [{"meter": "tokens", "unit_price": "9"}])
    again = await api.post("/v1/consume", body, key="k")
    assert (again.status, again.is_replayed, again.raw) == (201, True, first.raw)
    other = {**body, "usage": [use("tokens", "5", model="m")]}
    reused = await api.post("/v1/consume", other, key="k")
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")
    assert await rows(pool) == before


async def test_batch_prices_as_the_single_routes_do(api: Api) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1", "allowance": "10"}])
    hold = (await api.post("/v1/reserve", {"customer_id": "acme", "amount": "100"})).body
    usage = {"usage": [use("tokens", 8)]}
    operations = [
        {"op": "consume", "key": "a", "customer_id": "acme", **usage},
        {"op": "capture", "key": "b", "hold_id": hold["id"], "final": False, **usage},
        {"op": "reserve", "key": "c", "customer_id": "acme", **usage},
        {"op": "extend", "key": "d", "hold_id": hold["id"], "add": usage},
        {"op": "consume", "key": "e", "customer_id": "acme", "usage": [use("tokens", "x")]},
        {"op": "consume", "key": "a", "customer_id": "acme", **usage},
    ]
    answer = await api.post("/v1/batch", {"operations": operations}, key=None)
    results = answer.body["results"]
    assert [result["status"] for result in results] == [201, 200, 201, 200, 422, 201]
    consumed, captured, reserved, extended, wrong, again = (r["body"] for r in results)
    assert (consumed["amount"], captured["charge"]["amount"]) == ("0", "6")
    assert (reserved["amount"], extended["amount"]) == ("8", "108")
    assert wrong["errors"][0]["pointer"] == "/usage/0/quantity"  # seen from its item
    assert (again, results[5]["replayed"]) == (consumed, True)


async def test_parallel_consumes_on_one_counter_pass_each_tier_once(api: Api) -> None:
    tiers = [{"up_to": "50", "unit_price": "1"}, {"up_to": "100", "unit_price": "0.5"}, {}]
    await publish(api, [{"meter": "tokens", "tiers": tiers}])
    answers = await asyncio.gather(*(consume(api, use("tokens", 3)) for _ in range(60)))
    assert sum(Decimal(answer.body["amount"]) for answer in answers) == 50 + 25
    assert await posted(api) == "925"


# Quotes


async def test_quote_is_what_the_next_consume_comes_to(api: Api, pool: Pool) -> None:
    await publish(api, [{"meter": "tokens", "unit_price": "1", "allowance": "10"}])
    asked = {"customer_id": "acme", "usage": [use("tokens", 8), use("tokens", 8)]}
    for total in ("6", "16"):
        before = await rows(pool)
        quoted = await api.post("/v1/quote", asked, key=None)
        assert (quoted.status, quoted.body["total"]) == (200, total)
        assert (quoted.body["rate_card"], quoted.body["version"]) == ("default", 1)
        assert await rows(pool) == before
        charged = await api.post("/v1/consume", asked)
        assert charged.body["lines"] == quoted.body["lines"]
        assert charged.body["amount"] == total


async def test_quote_refuses_what_a_consume_would_refuse(api: Api) -> None:
    asked = {"customer_id": "acme", "usage": [use("tokens", 1)]}
    assert (await api.post("/v1/quote", asked, key=None)).code == "no_rate"
    unknown = {**asked, "customer_id": "nobody"}
    assert (await api.post("/v1/quote", unknown, key=None)).code == "customer_not_found"


# Publishing


async def test_publishing_is_done_once_for_a_key(api: Api) -> None:
    body = {"key": "default", "rates": [{"meter": "tokens", "unit_price": "1"}]}
    assert (await api.post("/v1/rate-cards", body, key=None)).code == "idempotency_key_missing"
    first, second = [await api.post("/v1/rate-cards", body, key="p") for _ in range(2)]
    assert (first.status, first.body["version"], first.is_replayed) == (201, 1, False)
    assert (second.status, second.is_replayed, second.raw) == (201, True, first.raw)
    changed = {**body, "rates": [{"meter": "tokens", "unit_price": "2"}]}
    reused = await api.post("/v1/rate-cards", changed, key="p")
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")
    answers = await asyncio.gather(*(api.post("/v1/rate-cards", body, key="q") for _ in range(5)))
    assert {answer.body["version"] for answer in answers} == {2}
    listed = (await api.get("/v1/rate-cards?key=default")).body["data"]
    assert [card["version"] for card in listed] == [2, 1]


async def test_version_takes_effect_at_its_time_and_never_in_the_past(api: Api) -> None:
    now = await api.now()
    past = wire_time(now - timedelta(seconds=1))
    rates = [{"meter": "tokens", "unit_price": "1"}]
    body = {"key": "default", "rates": rates, "effective_at": past}
    refused = await api.post("/v1/rate-cards", body)
    assert (refused.status, refused.code) == (422, "invalid_effective_at")
    await publish(api, rates)
    tomorrow = now + timedelta(days=1)
    await publish(api, [{"meter": "tokens", "unit_price": "2"}], effective_at=wire_time(tomorrow))
    assert amounts(await consume(api, use("tokens", 1))) == ["1"]
    await api.clock(tomorrow)
    assert amounts(await consume(api, use("tokens", 1))) == ["2"]
    late = await consume(api, use("tokens", 1), effective_at=wire_time(now + timedelta(hours=5)))
    assert amounts(late) == ["1"]


TOKEN = {"meter": "tokens", "unit_price": "1"}


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"key": "no spaces"}, "invalid_rate_card", "/key"),
        ({"asset": "USD"}, "invalid_asset", "/asset"),
        ({"rates": []}, "invalid_value", "/rates"),
        ({"rates": [{**TOKEN, "meter": "none"}]}, "invalid_rate", "/rates/0/meter"),
        ({"rates": [{**TOKEN, "unit_price": 1}]}, "invalid_value", "/rates/0/unit_price"),
        ({"rates": [TOKEN, TOKEN]}, "ambiguous_rates", "/rates/1/match"),
    ],
)
async def test_card_that_is_wrong_is_refused_at_its_place(
    api: Api, change: dict[str, Any], code: str, pointer: str
) -> None:
    good = {"key": "default", "rates": [{"meter": "tokens", "unit_price": "1"}]}
    answer = await api.post("/v1/rate-cards", {**good, **change})
    assert (answer.status, answer.code) == (422, code), answer
    assert answer.body["errors"][0]["pointer"] == pointer
    assert (await api.get("/v1/rate-cards")).body["data"] == []


async def test_list_of_cards_is_paged_by_key_the_latest_first(api: Api) -> None:
    for key in ("b", "a", "b"):
        await publish(api, [{"meter": "tokens", "unit_price": "1"}], key=key)
    found: list[tuple[str, int]] = []
    path = "/v1/rate-cards?limit=2"
    while path:
        page = (await api.get(path)).body
        found += [(card["key"], card["version"]) for card in page["data"]]
        path = page["has_more"] and f"/v1/rate-cards?limit=2&cursor={page['next_cursor']}"
    assert found == [("a", 1), ("b", 2), ("b", 1)]


async def test_another_process_prices_by_the_new_version_at_once(
    running: Running, database: Database
) -> None:
    pool = await open_pool(database.dsn, size=5, statement_cache=STATEMENT_CACHE)
    try:
        async with serving(pool) as other:
            for price in range(1, 6):
                await publish(running.api, [{"meter": "tokens", "unit_price": str(price)}])
                quoted = await other.api.post(
                    "/v1/quote", {"customer_id": "acme", "usage": [use("tokens", 1)]}, key=None
                )
                assert quoted.body["total"] == str(price)
                answers = await asyncio.gather(
                    *(consume(one.api, use("tokens", 1)) for one in (other, running) * 3)
                )
                assert {answer.body["amount"] for answer in answers} == {str(price)}
    finally:
        await pool.close()
