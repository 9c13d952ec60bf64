"""API keys and customer tokens: making, ending, and knowing them again.

A secret is random and never stored: only its SHA-256 is, and that is what it is looked up by. So
the time of a look-up tells nothing about how much of a secret is right.
"""

import asyncio
import secrets
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from time import monotonic
from typing import Final, Literal

import structlog
from asyncpg import Record
from msgspec import Struct
from msgspec.structs import replace

from ledger import customers
from ledger.ids import parse_id, public_id
from meter.problems import ProblemError
from meter.scopes import check_scopes, check_token_scopes
from sql import queries
from sql.errors import DatabaseFault
from sql.pool import Connection, Pool, transaction

SECRET_BYTES: Final = 32
CACHE_SECONDS: Final = 5.0
"""How long another process may go on accepting a revoked key for reads. Charges check it again."""
CACHED_MAX: Final = 10_000
LOOKUPS_MAX: Final = 2
"""Connections that callers with unknown keys can keep busy; the rest of the pool stays free."""
USED_SECONDS: Final = 30.0
"""How far `last_used_at` may lag behind."""

Kind = Literal["key", "token"]

log = structlog.get_logger()


class Key(Struct, frozen=True, kw_only=True):
    """Who asks: an API key, or a short-lived token of one customer."""

    key_no: int
    kind: Kind
    scopes: frozenset[str]
    customer_no: int | None
    """The one customer it is bound to; None: all."""
    customer_id: str | None
    expires_at: datetime | None
    name: str
    created_at: datetime | None = None
    """Known of a key that was just made."""


class KeyAnswer(Struct, frozen=True, kw_only=True):
    """A key as it is shown."""

    id: str
    name: str
    scopes: list[str]
    customer_id: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class NewKeyAnswer(KeyAnswer, frozen=True, kw_only=True):
    """A key in the answer that made it: with its secret, which is never shown again."""

    key: str


class TokenAnswer(Struct, frozen=True):
    """A customer token and its end."""

    token: str
    expires_at: datetime


async def create_key(
    conn: Connection,
    *,
    name: str,
    scopes: Iterable[str],
    customer_no: int | None = None,
    customer_id: str | None = None,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """Make a key, bound to an existing customer or to none. The second is its secret.

    Raises ProblemError 422: `invalid_scopes`, `invalid_expires_at`.
    """
    key = Key(
        key_no=0,
        kind="key",
        scopes=check_scopes(scopes, is_bound=customer_no is not None),
        customer_no=customer_no,
        customer_id=customer_id,
        expires_at=expires_at,
        name=name,
    )
    return await _make(conn, key, None)


async def new_key(
    conn: Connection,
    *,
    name: str,
    scopes: Iterable[str],
    customer_no: int | None = None,
    customer_id: str | None = None,
    expires_at: datetime | None = None,
) -> NewKeyAnswer:
    """`create_key`, as the answer that shows the secret."""
    key, secret = await create_key(
        conn,
        name=name,
        scopes=scopes,
        customer_no=customer_no,
        customer_id=customer_id,
        expires_at=expires_at,
    )
    assert key.created_at is not None, "it was just made"
    return NewKeyAnswer(
        id=public_id("key", key.customer_no or 0, key.key_no),
        name=key.name,
        scopes=sorted(key.scopes),
        customer_id=key.customer_id,
        created_at=key.created_at,
        expires_at=key.expires_at,
        key=secret,
    )


async def create_token(
    conn: Connection,
    *,
    parent: Key,
    customer_no: int,
    scopes: Iterable[str],
    expires_in: int,
) -> TokenAnswer:
    """Make a token of one customer for `expires_in` seconds. It ends with its parent key.

    Raises ProblemError 422 `invalid_scopes`.
    """
    expires_at = await customers.now(conn) + timedelta(seconds=expires_in)
    token = Key(
        key_no=0,
        kind="token",
        scopes=check_token_scopes(scopes, parent),
        customer_no=customer_no,
        customer_id=None,
        expires_at=expires_at,
        name=parent.name,
    )
    _, secret = await _make(conn, token, parent.key_no)
    return TokenAnswer(secret, expires_at)


async def _make(conn: Connection, key: Key, parent_no: int | None) -> tuple[Key, str]:
    """Store a key that has no number yet, under a new secret."""
    secret = ("ddk_" if key.kind == "key" else "ddt_") + secrets.token_urlsafe(SECRET_BYTES)
    row = await conn.fetchrow(
        queries.key_make,
        _digest(secret.encode()),
        key.kind,
        key.name,
        sorted(key.scopes),
        key.customer_no,
        parent_no,
        key.expires_at,
    )
    if row is None:
        raise ProblemError(
            422, "invalid_expires_at", "expires_at must lie in the future.", pointer="/expires_at"
        )
    return replace(key, key_no=row["key_no"], created_at=row["created_at"]), secret


async def list_keys(
    conn: Connection, *, limit: int, after: int | None = None
) -> tuple[list[KeyAnswer], int | None]:
    """Keys, newest first, without tokens; and the position to go on from."""
    rows = await conn.fetch(queries.keys_list, after, limit + 1)
    more = rows[limit - 1]["key_no"] if len(rows) > limit else None
    return [_answer(row) for row in rows[:limit]], more


async def revoke_key(conn: Connection, key_id: str) -> KeyAnswer | None:
    """End a key, and with it its tokens; ending it again changes nothing. None: no such key."""
    found = parse_id("key", key_id)
    if found is None:
        return None
    row = await conn.fetchrow(queries.key_revoke, found[1])
    return None if row is None else _answer(row)


def _answer(row: Record) -> KeyAnswer:
    return KeyAnswer(
        id=public_id("key", row["customer_no"] or 0, row["key_no"]),
        name=row["name"],
        scopes=row["scopes"],
        customer_id=row["customer_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )


def _digest(secret: bytes) -> bytes:
    return sha256(secret).digest()


class _Known(Struct, frozen=True):
    key: Key
    until: float
    """On the monotonic clock."""


class Keys:
    """Knows the keys that were used lately. One per process; `close` it at the end."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: dict[bytes, _Known] = {}
        self._lookups: dict[bytes, asyncio.Task[Key]] = {}
        self._free = asyncio.Semaphore(LOOKUPS_MAX)
        self._age = 0
        self._used: set[int] = set()
        self._writer: asyncio.Task[None] | None = None

    def cached(self, authorization: bytes | None) -> Key | None:
        """The key of an `Authorization` header, if it was found good a moment ago."""
        if authorization is None or authorization[:7] != b"Bearer ":
            return None
        known = self._known.get(sha256(authorization[7:]).digest())
        if known is None or known.until < monotonic():
            return None
        self._used.add(known.key.key_no)
        return known.key

    async def authenticate(self, authorization: bytes | None) -> Key:
        """The key of an `Authorization` header.

        Raises ProblemError 401 (`unauthenticated`, `key_revoked`) and DatabaseFault.
        """
        scheme, _, secret = (authorization or b"").partition(b" ")
        secret = secret.strip()
        if scheme.lower() != b"bearer" or not secret:
            raise ProblemError(
                401, "unauthenticated", "Send an API key: Authorization: Bearer ddk_…"
            )
        key = self.cached(b"Bearer " + secret)
        if key is not None:
            return key
        digest = _digest(secret)
        lookup = self._lookups.get(digest)
        if lookup is None:
            # Many requests with one key look it up once.
            lookup = self._lookups[digest] = asyncio.create_task(self._look_up(digest))
            lookup.add_done_callback(lambda task: self._looked_up(digest, task))
        # One caller that goes away must not take the others' answer along.
        key = await asyncio.shield(lookup)
        self._used.add(key.key_no)
        return key

    def forget(self) -> None:
        """Look every key up again: one was revoked here, or the test clock moved."""
        self._known.clear()
        # Look-ups under way may have read the state before: they answer, but are not kept.
        self._age += 1
        self._lookups.clear()

    async def write_used(self) -> None:
        """Store `last_used_at` of the keys used since the last time. Raises DatabaseFault."""
        if used := sorted(self._used):
            self._used.clear()
            async with transaction(self._pool) as conn:
                await conn.execute(queries.keys_used, used)

    async def close(self) -> None:
        """Stop, and store what is known of uses. Without the database that is lost, no more."""
        if self._writer is not None:
            self._writer.cancel()
            with suppress(asyncio.CancelledError):
                await self._writer
        with suppress(DatabaseFault):
            await self.write_used()

    def _looked_up(self, digest: bytes, lookup: asyncio.Task[Key]) -> None:
        if self._lookups.get(digest) is lookup:
            del self._lookups[digest]
        if not lookup.cancelled():
            lookup.exception()  # told to whoever still waits; if nobody does, it is no news

    async def _look_up(self, digest: bytes) -> Key:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_now_and_then())
        age, now = self._age, monotonic()
        async with self._free, transaction(self._pool) as conn:
            row = await conn.fetchrow(queries.key_find, digest)
        if row is None:
            raise ProblemError(401, "unauthenticated", "No API key of this installation is this.")
        seconds_left: float | None = row["seconds_left"]
        if seconds_left == 0:
            raise ProblemError(
                401,
                "key_revoked",
                "This API key was revoked or has expired. Use another one.",
            )
        key = Key(
            key_no=row["key_no"],
            kind=row["kind"],
            scopes=frozenset(row["scopes"]),
            customer_no=row["customer_no"],
            customer_id=row["customer_id"],
            expires_at=row["expires_at"],
            name=row["name"],
        )
        good_for = CACHE_SECONDS if seconds_left is None else min(seconds_left, CACHE_SECONDS)
        if age == self._age:
            if len(self._known) >= CACHED_MAX:
                self._known.clear()
            self._known[digest] = _Known(key, now + good_for)
        return key

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(USED_SECONDS)
            try:
                await self.write_used()
            except DatabaseFault as fault:
                # Told again with the next use; nobody's request depends on it.
                log.warning("keys_used_not_written", error=str(fault))
