"""What a period of a plan leaves unused and stays; and plans that take subscribers along."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs import move_plans
from meter import plans
from meter.stripe_port import StripeFault
from meter.sub_actions import Doing
from sql.pool import Pool
from tests.shop import Shop, shop

ENDS = datetime(2030, 2, 1, 12, tzinfo=UTC)
KEEPS: dict[str, Any] = {"rollover": {"max": "500", "expires_in": 40 * 86_400}}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        yield made


async def lots(sale: Shop) -> list[tuple[str, str | None]]:
    """What the customer's lots have left, and until when, in burn order."""
    found = (await sale.api.balance())["lots"]
    return [(one["remaining"], one["expires_at"]) for one in found]


async def to_next_period(sale: Shop) -> None:
    await sale.walk(ENDS + timedelta(hours=2))
    await sale.apply()


# What stays


async def test_unused_credit_stays_up_to_the_limit_and_runs_out_later(sale: Shop) -> None:
    await sale.plan(**KEEPS)
    await sale.subscribe()
    await sale.api.consume("1000")
    await to_next_period(sale)

    assert await lots(sale) == [
        ("3000", "2030-03-01T12:00:00Z"),
        ("500", "2030-03-13T12:00:00Z"),
    ]
    [expiry] = (await sale.api.get("/v1/journals?customer_id=acme&kind=expiry")).body["data"]
    assert (expiry["effective_at"], expiry["transfers"][0]["amount"]) == (
        "2030-02-01T12:00:00Z",
        "1500",
    )

    await sale.walk(datetime(2030, 3, 14, tzinfo=UTC))
    await sale.apply()
    assert await lots(sale) == [  # kept once; the second month's rest was kept on 1 March
        ("3000", "2030-04-01T12:00:00Z"),
        ("500", "2030-04-10T12:00:00Z"),
    ]


async def test_what_a_hold_has_pinned_counts_first(sale: Shop) -> None:
    await sale.plan(**KEEPS)
    await sale.subscribe()
    await sale.walk(ENDS - timedelta(hours=1))
    hold = await sale.api.reserve("300", expires_in=86_400)
    await to_next_period(sale)
    assert (await lots(sale))[1] == ("500", "2030-03-13T12:00:00Z")

    voided = await sale.api.post(f"/v1/holds/{hold['id']}/void", {})

    assert voided.body["balance"]["available"] == "3500"


@pytest.mark.parametrize(
    ("used", "held", "available"),
    [
        ("0", "499", "3500"),
        ("2000", "500", "3500"),
        ("1000", "600", "3000"),
        ("2700", "300", "3000"),
    ],
)
async def test_held_credit_stays_within_the_limit_unless_all_is_held(
    sale: Shop, used: str, held: str, available: str
) -> None:
    await sale.plan(**KEEPS)
    await sale.subscribe()
    if used != "0":
        await sale.api.consume(used)
    await sale.walk(ENDS - timedelta(hours=1))
    hold = await sale.api.reserve(held, expires_in=86_400)
    await to_next_period(sale)

    voided = await sale.api.post(f"/v1/holds/{hold['id']}/void", {})

    assert voided.body["balance"]["available"] == available


async def test_late_usage_never_takes_what_ran_out_at_the_end(sale: Shop) -> None:
    await sale.plan(**KEEPS)
    await sale.subscribe()
    await sale.api.consume("1000")
    await to_next_period(sale)
    await sale.walk(datetime(2030, 2, 10, tzinfo=UTC))
    body = {"customer_id": "acme", "amount": "4500", "effective_at": "2030-02-05T00:00:00Z"}

    refused = await sale.api.post("/v1/consume", body)
    taken = await sale.api.post("/v1/consume", {**body, "amount": "3500"})

    assert (refused.status, refused.body["available"]) == (402, "3500")
    assert taken.status == 201, taken


@pytest.mark.parametrize(("resumes", "kept"), [(False, []), (True, ["3000", "500"])])
async def test_nothing_stays_when_the_subscription_ends(
    sale: Shop, resumes: bool, kept: list[str]
) -> None:
    await sale.plan(**KEEPS)
    await sale.subscribe()
    await sale.act("cancel", when="period_end")
    if resumes:
        await sale.act("resume")
    await to_next_period(sale)

    assert [remaining for remaining, _ in await lots(sale)] == kept


async def test_refund_of_the_month_takes_what_stayed(sale: Shop) -> None:
    await sale.plan(**KEEPS)
    await sale.subscribe()
    await sale.api.consume("1000")
    await to_next_period(sale)
    listed = (await sale.api.get("/v1/purchases?customer_id=acme")).body["data"]
    first = min(listed, key=lambda one: one["created_at"])

    asked = await sale.refund(first)
    await sale.job("stripe_outbox")
    await sale.apply()

    assert asked.status == 202, asked
    now = await sale.purchase(first)
    assert (now["refunded"], now["lots"][0]["remaining"]) == (
        "3.33",
        "0.5",
    )  # 3.33 of 20.00 stand for 499.5
    assert [remaining for remaining, _ in await lots(sale)] == ["3000", "0.5"]


async def test_report_of_a_month_says_the_same_after_its_lots_were_kept(sale: Shop) -> None:
    await sale.plan(**KEEPS)
    await sale.subscribe()
    asked = "/v1/reports/lots?from=2030-01-01&to=2030-02-01&format=csv"
    await sale.walk(ENDS - timedelta(hours=1))
    before = await sale.api.get(asked)
    await to_next_period(sale)

    after = await sale.api.get(asked)

    assert after.raw == before.raw
    assert b"2030-02-01T12:00:00" in after.raw


async def test_months_of_a_year_keep_theirs_for_ever_and_per_seat(sale: Shop) -> None:
    await sale.plan(
        "year",
        price={"amount": "120.00", "currency": "USD"},
        interval="year",
        credits="100",
        credits_every="month",
        rollover={"max": "30"},
    )
    await sale.subscribe("year", quantity=2)
    await sale.walk(datetime(2030, 3, 2, tzinfo=UTC))
    await sale.apply()

    found = [one for one in await lots(sale) if one[1] in (None, "2030-04-01T12:00:00Z")]
    assert found == [("200", "2030-04-01T12:00:00Z"), ("60", None), ("60", None)]


async def test_rollover_without_credits_is_refused(sale: Shop) -> None:
    body = {
        "name": "P",
        "tier": "p",
        "price": {"amount": "1.00", "currency": "USD"},
        "interval": "month",
    }
    refused = await sale.api.put("/v1/plans/p", {**body, **KEEPS})
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/rollover")
    made = await sale.api.put("/v1/plans/p", {**body, **KEEPS, "credits": "5"})
    assert (made.body["rollover"], made.body["apply_to"]) == (KEEPS["rollover"], "new")


# Who moves


async def subscription(sale: Shop) -> Any:
    return (await sale.api.get("/v1/customers/acme/subscription")).body


async def dearer(sale: Shop, **members: Any) -> None:
    price = {"amount": "25.00", "currency": "USD"}
    await sale.plan(price=price, credits="4000", apply_to="next_period", **members)


async def test_subscribers_follow_when_their_period_ends(sale: Shop) -> None:
    await sale.plan()
    await sale.subscribe()
    await dearer(sale)

    assert (await sale.job("move_plans"))["moved"] == 1
    assert (await sale.job("move_plans"))["moved"] == 0

    one = await subscription(sale)
    assert (one["version"], one["has_scheduled_change"]) == (1, True)
    await to_next_period(sale)
    assert (await subscription(sale))["version"] == 2
    listed = (await sale.api.get("/v1/purchases?customer_id=acme")).body["data"]
    assert [(one["captured"], one["credits"]) for one in listed] == [
        ("25", "4000"),
        ("20", "3000"),
    ]
    assert (await sale.job("move_plans"))["moved"] == 0


async def test_only_a_version_that_says_so_takes_anybody_along(sale: Shop) -> None:
    await sale.plan()
    await sale.subscribe()
    await sale.plan(credits="4000")
    assert (await sale.job("move_plans"))["moved"] == 0
    await dearer(sale)
    await sale.plan(credits="5000")  # a later one, for new subscribers only
    assert (await sale.job("move_plans"))["moved"] == 1
    await to_next_period(sale)
    assert (await subscription(sale))["version"] == 3


@pytest.mark.parametrize("kind", ["500_before", "reset_after"])
@pytest.mark.parametrize("step", ["", "/*"])
async def test_fault_on_the_way_moves_once(sale: Shop, kind: str, step: str) -> None:
    await sale.plan()
    await sale.subscribe()
    await dearer(sale)
    fault = {"method": "POST", "path": f"/v1/subscription_schedules{step}", "kind": kind}
    await sale.control("faults", **fault, count=4)
    first = await sale.job("move_plans")
    assert first["failed"] == 1
    await sale.lift_faults()
    await sale.sleep(timedelta(minutes=10))

    assert (await sale.job("move_plans"))["moved"] == 1
    assert len(await sale.state("subscription_schedule")) == 1
    await to_next_period(sale)
    assert (await subscription(sale))["version"] == 2


async def test_change_that_a_customer_makes_meanwhile_wins(
    sale: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sale.plan()
    await sale.plan("basic", price={"amount": "5.00", "currency": "USD"}, credits="10")
    await sale.subscribe()
    await dearer(sale)
    move = move_plans._move  # pyright: ignore[reportPrivateUsage]

    async def slowly(doing: Doing, subscription_id: str, version: int) -> bool:
        await sale.act("change", plan="basic", when="period_end")
        return await move(doing, subscription_id, version)

    monkeypatch.setattr(move_plans, "_move", slowly)
    assert (await sale.job("move_plans"))["moved"] == 0
    await to_next_period(sale)
    assert (await subscription(sale))["plan"] == "basic"


async def test_what_can_not_be_priced_is_parked_and_stops_nobody(
    sale: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sale.plan()
    await sale.subscribe()
    await dearer(sale)

    async def refuse(*_: object) -> list[str]:
        raise StripeFault("refused", "The meter does something else.")

    with monkeypatch.context() as patched:
        patched.setattr(plans, "item_prices_at_stripe", refuse)
        assert await sale.job("move_plans") == {"moved": 0, "failed": 0, "parked": 1}
    assert await sale.job("move_plans") == {"moved": 0, "failed": 0, "parked": 0}


async def test_who_leaves_or_changes_anyway_is_left_alone(sale: Shop) -> None:
    await sale.plan()
    await sale.subscribe()
    await dearer(sale)
    await sale.act("cancel", when="period_end")
    assert (await sale.job("move_plans"))["moved"] == 0
    await sale.act("resume")
    assert (await sale.job("move_plans"))["moved"] == 1
    await sale.act("resume")  # takes the move back: not again in this period
    assert (await sale.job("move_plans"))["moved"] == 0
    await to_next_period(sale)
    assert (await subscription(sale))["version"] == 1
    assert (await sale.job("move_plans"))["moved"] == 1
