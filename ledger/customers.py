"""Customers: the caller's id and our number, for ever; profiles; assets; the installation."""

import secrets
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from asyncpg import Record
from msgspec import Raw, Struct

from ledger.amounts import format_amount
from ledger.answers import Metadata, OverageAnswer
from sql import queries
from sql.pool import Connection


class CustomerAnswer(Struct, frozen=True, kw_only=True):
    """A customer as it is shown."""

    customer_id: str
    name: str | None
    email: str | None
    time_zone: str
    currency: str | None
    rate_card: str | None
    """What its usage is priced by; null: its plan's rate card, else `default`."""
    stripe_customer_id: str | None
    """Who it is at Stripe; null until something is sold."""
    stripe_subscription_id: str | None
    """Of its first live subscription, or of the last one that ended."""
    subscription_status: str | None
    """As Stripe has it: active, trialing, past_due, …; null: there never was one."""
    plan_tier: str | None
    top_up_trouble: str | None
    """What keeps automatic top-up from charging: declined, authentication or no_card."""
    overage: OverageAnswer
    over_limit: bool
    """Whether it owes more than its overage policy allows: usage events are never refused."""
    status: str
    metadata: Metadata
    created_at: datetime
    updated_at: datetime
    erased_at: datetime | None
    """Since when its personal fields are gone for good; null: they are not."""


class AssetAnswer(Struct, frozen=True):
    code: str
    scale: int
    is_money: bool
    created_at: datetime


class Installation(Struct, frozen=True):
    """What is stored of this database's one business."""

    installation_id: str
    mode: str | None
    books_time_zone: str
    cursor_secret: bytes
    clock_offset: timedelta


async def find(conn: Connection, customer_ids: list[str]) -> dict[str, int]:
    """Our number of each id that exists."""
    rows = await conn.fetch(queries.customers_find, customer_ids)
    return {row[0]: row[1] for row in rows}


async def make(conn: Connection, customer_ids: list[str], *, signup_due: bool) -> dict[str, int]:
    """Make those that do not exist; their numbers. `signup_due`: they get the sign-up grant."""
    rows = await conn.fetch(queries.customers_make, customer_ids, signup_due)
    return {row[0]: row[1] for row in rows}


class StripeCustomerTaken(Exception):
    """Another customer is this one at Stripe."""


class CustomerErased(Exception):
    """The customer's personal fields were erased, and no new ones are taken in."""


async def put_profile(conn: Connection, customer_no: int, members: dict[str, Any]) -> None:
    """Set the members given (name … stripe_customer_id, metadata as JSON text).

    Raises StripeCustomerTaken and CustomerErased.
    """
    try:
        await _put_profile(conn, customer_no, members)
    except asyncpg.UniqueViolationError as error:
        raise StripeCustomerTaken from error


async def _put_profile(conn: Connection, customer_no: int, members: dict[str, Any]) -> None:
    changed = await conn.fetchval(
        queries.profile_put,
        customer_no,
        members.get("name"),
        members.get("email"),
        members.get("time_zone"),
        members.get("currency"),
        members.get("metadata"),
        list(members),
        members.get("rate_card"),
        members.get("stripe_customer_id"),
    )
    if changed is None:
        raise CustomerErased


async def read(conn: Connection, customer_no: int, scale: int) -> CustomerAnswer | None:
    """One customer; `scale` is that of `credits`, which the overage limit counts."""
    row = await conn.fetchrow(queries.profile_read, customer_no)
    return None if row is None else _answer(row, scale)


async def listed(
    conn: Connection,
    scale: int,
    *,
    query: str | None,
    status: str | None,
    only: int | None,
    after: int | None,
    limit: int,
) -> tuple[list[CustomerAnswer], int | None]:
    """Customers, newest first, and the position to go on from."""
    rows = await conn.fetch(queries.profiles_list, query, status, only, after, limit + 1)
    more = rows[limit - 1][0] if len(rows) > limit else None
    return [_answer(row, scale) for row in rows[:limit]], more


def _answer(row: Record, scale: int) -> CustomerAnswer:
    limit = row["overage_limit"]
    return CustomerAnswer(
        customer_id=row["customer_id"],
        name=row["name"],
        email=row["email"],
        time_zone=row["time_zone"],
        currency=row["currency"],
        rate_card=row["rate_card"],
        stripe_customer_id=row["stripe_customer_id"],
        stripe_subscription_id=row["subscription_id"],
        subscription_status=row["subscription_status"],
        plan_tier=row["plan_tier"],
        top_up_trouble=row["top_up_trouble"],
        overage=OverageAnswer(
            row["overage_policy"], None if limit is None else format_amount(limit, scale)
        ),
        over_limit=row["over_limit"],
        status="open" if row["closed_at"] is None else "closed",
        metadata=Raw(row["metadata"].encode()),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        erased_at=row["erased_at"],
    )


async def assets(conn: Connection) -> list[AssetAnswer]:
    return [AssetAnswer(*row) for row in await conn.fetch(queries.assets_read)]


async def put_asset(conn: Connection, code: str, scale: int) -> tuple[AssetAnswer, bool] | None:
    """Make an asset or change an unused one: (asset, is new). None: in use with another scale."""
    # A statement of its own: the next one's snapshot sees whom this one waited for.
    await conn.execute(queries.asset_lock, code)
    row = await conn.fetchrow(queries.asset_put, code, scale)
    return None if row is None else (AssetAnswer(*tuple(row)[:4]), row[4])


async def installation(conn: Connection) -> Installation | None:
    row = await conn.fetchrow(queries.installation_read)
    return None if row is None else Installation(*tuple(row)[:5])


async def make_installation(conn: Connection, *, mode: str | None, books_time_zone: str) -> None:
    """Store what is fixed at the first start of a database. A later call changes nothing."""
    await conn.execute(
        queries.installation_make,
        f"ins_{secrets.token_hex(8)}",
        mode,
        books_time_zone,
        secrets.token_bytes(32),
    )


async def fix_mode(conn: Connection, mode: str) -> str:
    """The mode of these books, which is `mode` from now on if they had none."""
    return await conn.fetchval(queries.installation_mode_fix, mode)


async def now(conn: Connection) -> datetime:
    """The service's time: the database's, plus the sandbox's offset."""
    return await conn.fetchval(queries.clock_read)


async def advance_clock(conn: Connection, by: timedelta) -> datetime | None:
    """Move the sandbox's clock ahead; the new time. None outside sandbox mode."""
    return await conn.fetchval(queries.clock_advance, by)
