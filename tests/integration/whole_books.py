"""Books with every kind of fact in them, and a row in every table that this release fills."""

from datetime import datetime, timedelta

import msgspec

from ledger import customers, periods
from ledger.load_purchases import PurchaseRef, link
from ledger.requests import Recurrence, Rollover
from meter import stripe_calls, stripe_news
from meter.stripe_calls import StripeCall
from sql import queries
from sql.columns import columns
from sql.pool import Connection
from tests.integration.player import Player
from tests.metering import pay_for_something, use_something
from tests.servers import Database, connected


async def play(database: Database, rounds: int = 1) -> None:
    """Books with something in every table that this release fills."""
    async with connected(database.dsn) as conn:
        for _ in range(rounds):
            player = await Player.enter(conn)
            await player.policy("owe", 50)
            await player.grant(20, paid=True)
            late = await player.grant(10, ends=await player.now() + timedelta(days=1))
            month = Recurrence("month", rollover=Rollover(5))
            await player.grant(30, recurrence=month, priority=10)
            hold = await player.reserve(15, reference="a\ttab, a\nline, a \\ and ü")
            assert hold is not None
            await player.capture(hold, 5, final=False)
            await player.extend(hold, add="1")
            charge = await player.consume(70)
            assert charge is not None
            await player.reverse(charge, 3)
            assert await player.reserve(1_000) is None
            await player.wait(40 * 86_400)
            await player.settle()
            await player.policy("bill", None)
            await player.consume(200)
            await player.policy("owe", 50)
            await player.void_grant(late)
            await player.grant(25)
            purchase = await player.buy()
            await link(conn, f"pi_{player.no}", PurchaseRef(player.no, purchase))
            await player.freeze(purchase)
            await player.told(purchase, refunded=250)
            await customers.put_profile(conn, player.no, {"name": "Zoë", "email": "z@example.com"})
            await use_something(conn, [player.no])
            await pay_for_something(conn, [player.no])
            await sell_something(conn, player.no)
            await player.recognise()
        await conn.execute(
            "INSERT INTO job_runs (job, started_at, counts)"
            " VALUES ('sweep', clock_timestamp(), '{\"customers\": 1}')"
        )


async def close_the_first_month(database: Database) -> None:
    """All is recognised, and nobody else writes: closing needs no more."""
    async with connected(database.dsn) as conn:
        first = await conn.fetchval("SELECT min(book_date) FROM journals")
        month = f"{first:%Y-%m}"
        assert await periods.check(conn, month) is None
        await periods.begin(conn, month)
        assert await periods.summarise(conn, month, reason=None, failures=0)


async def sell_something(conn: Connection, customer_no: int) -> None:
    """What is sold and to whom, a call to Stripe, a delivery, and an object that it marks."""
    await conn.execute(
        queries.pack_add,
        *("starter", "A pack", "credits", 10, 0, None, None, 50, '{"USD":100}', None, None),
        *(True, "{}"),
    )
    month = timedelta(days=30)
    now = await customers.now(conn)
    await conn.execute(
        queries.plan_add,
        *("pro", "A plan", "pro", "credits", "USD", 2_000, "month", None, 10, 0, "renewal", 50),
        *(False, None, None, None, True, "{}", "[]", "null", None, 5, 60, "new"),
    )
    await conn.execute(queries.plan_item_link, f"price_u{customer_no}", "pro", 1, "calls", "mtr")
    await conn.execute(queries.plan_price_link, f"price_{customer_no}", "pro", 1)
    await conn.execute(queries.invoice_intent_link, customer_no, "in_1", "pi_1")
    await conn.execute(
        queries.subscription_put,
        *(customer_no, f"sub_{customer_no}", "active", "pro", 1, 1, f"price_{customer_no}", "{}"),
        *(now, now + month, now),
    )
    await report_something(conn, customer_no, now)
    await conn.execute(
        queries.top_up_put, customer_no, True, "credits", 5, None, "starter", None, None, None
    )
    await conn.execute(queries.top_up_begin, customer_no, 1, "top-up", "pm_1", "a\ttab", "USD", 100)
    params = {"metadata": {"user_id": "a\ttab"}}
    name = f"customer-{customer_no}"
    await stripe_calls.note(
        conn, StripeCall(name=name, kind="customer", params=params, customer_no=customer_no)
    )
    event = stripe_news.read_event(
        msgspec.json.encode(
            {
                "id": f"evt_{customer_no}",
                "type": "customer.deleted",
                "created": int(now.timestamp()),
                "data": {"object": {"id": f"cus_{customer_no}"}},
            }
        )
    )
    await stripe_news.keep(conn, b'{"raw": "\\n"}', event, is_live=False)
    await conn.execute(queries.stripe_cursor_move, "events", now)


async def report_something(conn: Connection, customer_no: int, now: datetime) -> None:
    """Usage that is billed, and a piece of it that is to be told."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    item = await conn.fetchrow(
        queries.report_item_begin,
        *(customer_no, f"sub_{customer_no}", None, 10, "calls", "mtr", "cus", hour),
    )
    assert item is not None
    place = customer_no, item["item_no"]
    await conn.execute(queries.report_period_put, *place, hour, hour + timedelta(days=30), "price")
    window = (*place, hour, hour + timedelta(hours=1), hour, "25")
    await conn.execute(queries.report_windows_put, *columns([window], "iittts"))
    piece = (*place, hour, 1, 1, "2", f"dd_{customer_no}", "due")
    await conn.execute(queries.report_rows_add, *columns([piece], "iitiisss"))
    await conn.execute(queries.report_sums_put, customer_no, "cus", "mtr", [hour], ["2.5"])
    await conn.execute(queries.report_mark, *([value] for value in (*place, hour)))
