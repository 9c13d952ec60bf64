"""What once went wrong at the edge: refused requests that wrote, ids that starved others, processes
that knew different assets.
"""

import asyncio
from urllib.parse import quote

import pytest

from meter.service import Config
from sql.pool import Pool
from tests.http import FRESH, serving

UNKNOWN_AT_ONCE = 1_500


async def test_put_customer_that_is_refused_makes_no_customer(pool: Pool) -> None:
    async with serving(pool) as running:
        api = running.api
        refused = await api.put("/v1/customers/acme", {"overage": {"policy": "owe"}})
        assert (refused.status, refused.code) == (422, "invalid_overage")
        assert (await api.get("/v1/customers/acme")).status == 404


@pytest.mark.parametrize("name", ["Nowhere/City", "Europe", "../x", "x" * 64, "Europe/Rome\n"])
async def test_put_customer_with_an_unknown_time_zone_is_422(pool: Pool, name: str) -> None:
    async with serving(pool) as running:
        refused = await running.api.put("/v1/customers/acme", {"time_zone": name})
        assert (refused.status, refused.code) == (422, "invalid_time_zone")


@pytest.mark.parametrize("key", ["run/file/1/capture", "a//b", "x/", "/x", "%41", "a?b#c", ".."])
async def test_request_is_found_by_any_key_it_may_have(pool: Pool, key: str) -> None:
    async with serving(pool) as running:
        api = running.api
        await api.customer()
        await api.grant("10")
        body = {"customer_id": "acme", "amount": "1"}
        assert (await api.post("/v1/consume", body, key=key)).status == 201
        found = await api.get(f"/v1/customers/acme/requests/{quote(key, safe='')}")
        assert (found.status, found.body["operation"]) == (200, "consume")


async def test_many_unknown_customers_leave_connections_to_the_others(pool: Pool) -> None:
    async with serving(pool) as running:
        api = running.api
        await api.customer()
        await api.grant("10")

        async def consume_of(customer_id: str) -> int:
            body = {"customer_id": customer_id, "amount": "1"}
            return (await api.post("/v1/consume", body)).status

        strangers = [asyncio.create_task(consume_of(f"no-{i}")) for i in range(UNKNOWN_AT_ONCE)]
        assert await consume_of("acme") == 201
        assert set(await asyncio.gather(*strangers)) == {404}


async def test_batch_of_new_customers_makes_each_once(pool: Pool) -> None:
    async with serving(pool, Config(is_sandbox=True, create_customers=True)) as running:
        operations = [
            {
                "op": "grant",
                "key": f"k-{i}",
                "customer_id": f"c-{i % 50}",
                "amount": "2",
                "category": "promotional",
            }
            for i in range(100)
        ]
        answer = await running.api.post("/v1/batch", {"operations": operations}, key=None)
        assert {result["status"] for result in answer.body["results"]} == {201}
        assert (await running.api.posted("c-49"))[0] == "4"


async def test_batch_with_ids_of_nobody_answers_each(pool: Pool) -> None:
    async with serving(pool) as running:
        api = running.api
        await api.customer()
        hold = await api.grant("5") and await api.reserve("5")
        nobody = [f"hld_{10**9 + i:016X}{1:016X}" for i in range(20)]
        operations = [
            {"op": "void", "key": f"k-{i}", "hold_id": hold_id}
            for i, hold_id in enumerate([*nobody, hold["id"]])
        ]
        answer = await api.post("/v1/batch", {"operations": operations}, key=None)
        statuses = [result["status"] for result in answer.body["results"]]
        assert statuses == [404] * len(nobody) + [200]


async def test_asset_made_by_another_process_can_be_used_at_once(pool: Pool) -> None:
    async with serving(pool) as one, serving(pool) as other:
        await one.api.customer()
        assert (await one.api.put("/v1/assets/points", {"scale": 2})).status == 201
        await other.api.grant("7", asset="points")
        assert (await one.api.balance(asset="points"))["posted"] == "7"


async def test_amounts_read_with_an_outdated_scale_are_not_posted(pool: Pool) -> None:
    async with serving(pool) as one:
        await one.api.customer()
        await one.api.put("/v1/assets/points", {"scale": 0})
        async with serving(pool) as other:
            assert (await one.api.put("/v1/assets/points", {"scale": 2})).status == 200
            body = {
                "customer_id": "acme",
                "amount": "5",
                "asset": "points",
                "category": "promotional",
            }
            first = await other.api.post("/v1/grants", body, key="k")
            assert (first.status, first.code) == (503, "busy")
            again = await other.api.post("/v1/grants", body, key="k")
            assert (again.status, again.body["amount"]) == (201, "5")
        assert (await one.api.balance(asset="points"))["posted"] == "5"


async def test_scale_of_credits_is_fixed_once_a_limit_counts_them(pool: Pool) -> None:
    async with serving(pool) as running:
        api = running.api
        await api.customer(overage={"policy": "owe", "limit": "20"})
        refused = await api.send("PUT", "/v1/assets/credits", {"scale": 0}, key=FRESH)
        assert (refused.status, refused.code) == (409, "asset_in_use")
        assert (await api.get("/v1/customers/acme")).body["overage"]["limit"] == "20"
