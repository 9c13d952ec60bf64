"""API keys: what is stored, who is let in, and when a key stops working."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from drawdown.cli import run
from ledger import customers
from meter import auth
from meter.auth import Key, Keys, create_key, create_token, list_keys, new_key, revoke_key
from meter.problems import ProblemError
from sql.pool import Pool, transaction
from tests.servers import Database, connected

pytestmark = pytest.mark.usefixtures("_sandbox")


@pytest.fixture
async def _sandbox(database: Database) -> None:
    async with connected(database.dsn) as conn:
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
        await customers.make(conn, ["alice", "bob"], signup_due=False)


@pytest.fixture
async def keys(pool: Pool) -> AsyncGenerator[Keys]:
    made = Keys(pool)
    yield made
    await made.close()


async def make(pool: Pool, *scopes: str, **members: Any) -> tuple[Key, bytes]:
    """A key and the header that carries it."""
    async with transaction(pool) as conn:
        key, secret = await create_key(
            conn, name="test", scopes=scopes or ["usage:write"], **members
        )
    return key, f"Bearer {secret}".encode()


async def refused(keys: Keys, header: bytes | None) -> str:
    with pytest.raises(ProblemError) as caught:
        await keys.authenticate(header)
    assert caught.value.status == 401
    return caught.value.code


async def advance(pool: Pool, seconds: float) -> None:
    async with transaction(pool) as conn:
        assert await customers.advance_clock(conn, timedelta(seconds=seconds)) is not None


async def test_key_is_stored_as_its_hash_only(pool: Pool, database: Database) -> None:
    _, header = await make(pool)
    secret = header.removeprefix(b"Bearer ")
    async with connected(database.superuser_dsn) as conn:
        [row] = await conn.fetch("SELECT k.*, k::text AS everything FROM api_keys AS k")
    assert row["hash"] == sha256(secret).digest()
    assert secret.decode() not in row["everything"]
    assert secret.startswith(b"ddk_")
    assert len(secret) == len("ddk_") + 43  # 256 bits in base 64


async def test_authenticate_good_key_gives_who_it_is(pool: Pool, keys: Keys) -> None:
    made, header = await make(pool, "usage:write", "usage:read")
    assert keys.cached(header) is None
    key = await keys.authenticate(header)
    assert (key.key_no, key.kind, key.name) == (made.key_no, "key", "test")
    assert key.scopes == {"usage:write", "usage:read"}
    assert key.customer_no is key.customer_id is None
    assert keys.cached(header) is key
    assert await keys.authenticate(b"bearer  " + header.removeprefix(b"Bearer ")) is key


async def test_authenticate_bound_key_names_its_customer(pool: Pool, keys: Keys) -> None:
    async with transaction(pool) as conn:
        number = (await customers.find(conn, ["alice"]))["alice"]
    _, header = await make(pool, customer_no=number, customer_id="alice")
    key = await keys.authenticate(header)
    assert (key.customer_no, key.customer_id) == (number, "alice")


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic ZGRrOg==",
        b"Bearer ddk_" + b"A" * 43,
        b"Bearer \xff\x00" + b"x" * 5_000,
    ],
)
async def test_authenticate_without_a_known_key_is_401(keys: Keys, header: bytes | None) -> None:
    assert await refused(keys, header) == "unauthenticated"
    assert keys.cached(header) is None


async def test_authenticate_all_but_the_last_character_is_as_unknown_as_any(
    pool: Pool, keys: Keys
) -> None:
    _, header = await make(pool)
    other = header[:-1] + (b"A" if header[-1:] != b"A" else b"B")
    assert await refused(keys, other) == "unauthenticated"


async def test_revoked_key_is_refused_once_forgotten(pool: Pool, keys: Keys) -> None:
    key, header = await make(pool)
    await keys.authenticate(header)
    async with transaction(pool) as conn:
        [answer], _ = await list_keys(conn, limit=10)
        first = await revoke_key(conn, answer.id)
    assert first is not None
    assert first.revoked_at is not None
    assert keys.cached(header) is not None  # for some seconds, in processes that are not told
    keys.forget()
    assert keys.cached(header) is None
    assert await refused(keys, header) == "key_revoked"
    async with transaction(pool) as conn:
        assert await revoke_key(conn, answer.id) == first  # again: nothing changes
        assert await revoke_key(conn, "key_nothing") is None
        assert await revoke_key(conn, f"{answer.id[:-1]}Z") is None
    assert key.key_no > 0


async def test_cached_key_is_looked_up_again_after_its_time(
    pool: Pool, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, header = await make(pool)
    now = 1_000.0
    monkeypatch.setattr(auth, "monotonic", lambda: now)
    await keys.authenticate(header)
    now += auth.CACHE_SECONDS
    assert keys.cached(header) is not None
    now += 0.001
    assert keys.cached(header) is None


async def test_key_is_not_cached_past_its_end(
    pool: Pool, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transaction(pool) as conn:
        ends = await customers.now(conn) + timedelta(seconds=2)
    _, header = await make(pool, expires_at=ends)
    now = 1_000.0
    monkeypatch.setattr(auth, "monotonic", lambda: now)
    await keys.authenticate(header)
    now += 2.001
    assert keys.cached(header) is None
    await advance(pool, 3)
    assert await refused(keys, header) == "key_revoked"


async def test_token_is_bound_and_dies_with_its_parent(pool: Pool, keys: Keys) -> None:
    parent, header = await make(pool, "admin")
    async with transaction(pool) as conn:
        number = (await customers.find(conn, ["bob"]))["bob"]
        made = await create_token(
            conn, parent=parent, customer_no=number, scopes=["customers:read"], expires_in=60
        )
        [answer], _ = await list_keys(conn, limit=10)  # without the token
    token = f"Bearer {made.token}".encode()
    assert made.token.startswith("ddt_")
    key = await keys.authenticate(token)
    assert (key.kind, key.customer_id, key.scopes) == ("token", "bob", {"customers:read"})
    async with transaction(pool) as conn:
        await revoke_key(conn, answer.id)
    keys.forget()
    assert await refused(keys, token) == await refused(keys, header) == "key_revoked"


async def test_token_ends_by_itself_on_the_service_clock(pool: Pool, keys: Keys) -> None:
    parent, _ = await make(pool, "admin")
    async with transaction(pool) as conn:
        number = (await customers.find(conn, ["bob"]))["bob"]
        made = await create_token(
            conn, parent=parent, customer_no=number, scopes=["usage:read"], expires_in=60
        )
    token = f"Bearer {made.token}".encode()
    await advance(pool, 59)
    await keys.authenticate(token)
    await advance(pool, 2)
    keys.forget()
    assert await refused(keys, token) == "key_revoked"


@pytest.mark.parametrize(
    ("scopes", "bound"),
    [
        ([], False),
        (["usage:wrong"], False),
        (["usage:read", "books:read"], True),
        (["catalog:read"], True),
        (["admin"], True),
    ],
)
async def test_create_key_with_wrong_scopes_is_422(
    pool: Pool, scopes: list[str], bound: bool
) -> None:
    async with transaction(pool) as conn:
        number = (await customers.find(conn, ["alice"]))["alice"] if bound else None
        with pytest.raises(ProblemError, match="422 invalid_scopes"):
            await create_key(conn, name="x", scopes=scopes, customer_no=number)


@pytest.mark.parametrize("scopes", [[], ["usage:write"], ["customers:read", "admin"]])
async def test_create_token_with_more_than_a_token_may_is_422(
    pool: Pool, scopes: list[str]
) -> None:
    parent, _ = await make(pool, "admin")
    async with transaction(pool) as conn:
        with pytest.raises(ProblemError, match="422 invalid_scopes"):
            await create_token(conn, parent=parent, customer_no=1, scopes=scopes, expires_in=60)


async def test_create_token_with_more_than_its_parent_is_422(pool: Pool) -> None:
    parent, _ = await make(pool, "customers:write", "usage:read")
    async with transaction(pool) as conn:
        with pytest.raises(ProblemError, match="lacks customers:read"):
            await create_token(
                conn,
                parent=parent,
                customer_no=1,
                scopes=["usage:read", "customers:read"],
                expires_in=60,
            )


async def test_create_key_that_has_ended_is_422(pool: Pool) -> None:
    async with transaction(pool) as conn:
        now = await customers.now(conn)
        with pytest.raises(ProblemError, match="422 invalid_expires_at"):
            await create_key(conn, name="x", scopes=["admin"], expires_at=now)


async def test_list_keys_walks_newest_first(pool: Pool) -> None:
    async with transaction(pool) as conn:
        made = [(await new_key(conn, name=f"k{n}", scopes=["admin"])).id for n in range(5)]
        page, after = await list_keys(conn, limit=2)
        seen = [key.id for key in page]
        while after is not None:
            page, after = await list_keys(conn, limit=2, after=after)
            seen += [key.id for key in page]
    assert seen == made[::-1]


async def test_many_requests_with_one_new_key_look_it_up_once(pool: Pool, keys: Keys) -> None:
    _, header = await make(pool)
    found = await asyncio.gather(*(keys.authenticate(header) for _ in range(50)))
    assert len({id(key) for key in found}) == 1


async def test_caller_that_goes_away_leaves_the_others_their_answer(pool: Pool, keys: Keys) -> None:
    _, header = await make(pool)
    first, second = (asyncio.create_task(keys.authenticate(header)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).name == "test"


async def test_last_used_is_stored_afterwards(pool: Pool, keys: Keys) -> None:
    _, header = await make(pool)
    await make(pool)
    await keys.authenticate(header)
    assert keys.cached(header)
    async with transaction(pool) as conn:
        before, _ = await list_keys(conn, limit=10)
    await keys.write_used()
    async with transaction(pool) as conn:
        after, _ = await list_keys(conn, limit=10)
    assert [key.last_used_at for key in before] == [None, None]
    assert [key.last_used_at is None for key in after] == [True, False]


# The command


@pytest.fixture
def _environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    monkeypatch.delenv("DRAWDOWN_OWNER_DATABASE_URL", raising=False)


async def command(*arguments: str) -> int:
    """A command line, which has an event loop of its own."""
    return await asyncio.to_thread(run, ["keys", *arguments])


@pytest.mark.usefixtures("_environment")
async def test_keys_command_create_list_revoke(
    keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("create", "backend", "--scope", "usage:write", "--customer", "bob") == 0
    out, err = capsys.readouterr()
    secret = out.strip()
    assert secret.startswith("ddk_")
    assert secret not in err
    assert (await keys.authenticate(f"Bearer {secret}".encode())).customer_id == "bob"

    assert await command("list", "--json") == 0
    out, _ = capsys.readouterr()
    [shown] = json.loads(out)
    assert (shown["name"], shown["scopes"]) == ("backend", ["usage:write"])
    assert secret not in out

    assert await command("revoke", shown["id"]) == 0
    keys.forget()
    assert await refused(keys, f"Bearer {secret}".encode()) == "key_revoked"
    capsys.readouterr()
    assert await command("list") == 0
    assert "revoked" in capsys.readouterr().out


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "x", "--scope", "admin", "--customer", "bob"], 1, "can't hold admin"),
        (["create", "x", "--scope", "admin", "--customer", "nobody"], 1, "no customer"),
        (["create", "x", "--scope", "everything"], 2, "everything"),
        (["create", "x"], 2, "scope"),
        (["create", " ", "--scope", "admin"], 2, "NAME"),
        (["revoke", "key_x"], 1, "no API key has the id key_x"),
    ],
)
async def test_keys_command_mistakes_are_one_line(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
