"""Packs: credits that are bought once, in versions; and their products and prices at Stripe."""

import hashlib
import re
from typing import Any, Final

import msgspec
from asyncpg import Record
from msgspec import Struct

from meter import stripe_calls
from meter.stripe_calls import Host, StripeCall
from sql import queries
from sql.pool import Connection, transaction

PACK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
"""It is a part of Stripe's ids."""


STEP_WORDS: Final = "Of a currency with three decimals Stripe takes amounts that end in 0."


def step_of(scale: int) -> int:
    """The least amount of a currency that Stripe moves, in its smallest unit."""
    return 10 if scale == 3 else 1


class Pack(Struct, frozen=True, kw_only=True):
    """One version of a pack. Credits in the asset's smallest unit, prices in the currency's."""

    pack: str
    version: int
    name: str
    asset: str
    credits: int
    bonus: int
    bonus_expires_in: int | None
    expires_in: int | None
    priority: int
    prices: dict[str, int]
    tax_code: str | None
    tax_behavior: str | None
    is_active: bool
    metadata: str
    created_at: Any = None

    @property
    def product(self) -> str:
        """The version, as purchases name it."""
        return f"{self.pack}@{self.version}"


def _read(row: Record) -> Pack:
    members = dict(row)
    members["prices"] = msgspec.json.decode(members["prices"], type=dict[str, int])
    return Pack(**members)


async def listed(conn: Connection) -> list[Pack]:
    """The latest version of every pack, by key."""
    return [_read(row) for row in await conn.fetch(queries.packs_read, None)]


async def latest(conn: Connection, pack: str) -> Pack | None:
    """The latest version of a pack."""
    row = await conn.fetchrow(queries.packs_read, pack)
    return None if row is None else _read(row)


async def version(conn: Connection, product: str) -> Pack:
    """The version that a purchase names. There is none that was never made."""
    pack, _, number = product.rpartition("@")
    row = await conn.fetchrow(queries.pack_version, pack, int(number))
    assert row is not None, product
    return _read(row)


async def put(conn: Connection, wanted: Pack) -> tuple[Pack, bool]:
    """Make a version, unless the latest is the same; the latest, and whether the pack is new."""
    await conn.execute(queries.pack_lock, wanted.pack)
    known = await latest(conn, wanted.pack)
    if known is not None:
        same = msgspec.structs.replace(wanted, version=known.version, created_at=known.created_at)
        if same == known and list(same.prices) == list(known.prices):
            return known, False
    await conn.execute(
        queries.pack_add,
        wanted.pack,
        wanted.name,
        wanted.asset,
        wanted.credits,
        wanted.bonus,
        wanted.bonus_expires_in,
        wanted.expires_in,
        wanted.priority,
        msgspec.json.encode(wanted.prices).decode(),
        wanted.tax_code,
        wanted.tax_behavior,
        wanted.is_active,
        wanted.metadata,
    )
    made = await latest(conn, wanted.pack)
    assert made is not None, "it was just made"
    return made, known is None


def _look(pack: Pack) -> str:
    """A short word for what a product says: another name or tax code is another product."""
    said = msgspec.json.encode([pack.name, pack.tax_code])
    return f"{pack.pack}-{hashlib.sha256(said).hexdigest()[:10]}"


def product_id(host: Host, pack: Pack) -> str:
    """Stripe's id of a pack's product, which is ours to choose."""
    return f"dd_{host.installation_id}_{_look(pack)}"


async def price_at_stripe(host: Host, pack: Pack, currency: str) -> str:
    """The id of a pack's price at Stripe, made if it is not there. Raises StripeFault.

    Neither ever changes: what is said or costs otherwise is another one.
    """
    product = StripeCall(
        name=f"product-{_look(pack)}",
        kind="product",
        params={
            "id": product_id(host, pack),
            "name": pack.name,
            **({} if pack.tax_code is None else {"tax_code": pack.tax_code}),
        },
    )
    amount, behavior = pack.prices[currency], pack.tax_behavior
    price = StripeCall(
        name=f"price-{_look(pack)}-{currency}-{amount}-{behavior or 'unspecified'}",
        kind="price",
        params={
            "product": product_id(host, pack),
            "currency": currency.lower(),
            "unit_amount": amount,
            **({} if behavior is None else {"tax_behavior": behavior}),
        },
    )
    for call in (product, price):
        async with transaction(host.pool) as conn:
            await stripe_calls.note(conn, call)
        made = await stripe_calls.send(host, call.name)
    return made.object_id
