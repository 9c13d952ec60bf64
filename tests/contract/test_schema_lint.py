"""Rules of the schema that no reviewer has to remember, each shown to find what breaks it."""

from collections.abc import AsyncGenerator

import asyncpg
import pytest

from sql.migrate import APP_ROLE
from sql.pool import Connection
from tests.servers import Database, connected

# The customer's number comes first in every key of a table that has it: the schema shards by it.
EXEMPT = {
    "customer_directory": "finds the number by the caller's id; small, on every shard",
    "purchase_objects": "finds the purchase by an id of Stripe's; small, on every shard",
    "stripe_calls": "found by the name that Stripe's idempotency keys come from; small",
    "profiles": "found by the id of the customer at Stripe, too",
    "api_keys": "found by the hash of the secret, before the customer is known; small",
}

# Foreign keys cost a look-up and a lock for each row written. Hot tables have none: what they would
# promise is proved by `drawdown verify`.
FOREIGN_KEYS = {
    "profiles_customer_no_fkey": "written when a customer is made or renamed, never by a charge",
    "api_keys_parent_no_fkey": "written when a token is made",
}

MAY_DELETE = {
    "api_keys": "customer tokens live minutes; the expired are forgotten",
    "notes": "texts are erased on request",
    "requests": "refusals are forgotten after a while",
    "stripe_events": "deliveries hold names and addresses; forgotten after a while",
    "job_leases": "what a job leaves behind",
    "job_runs": "old runs are forgotten",
    "event_guards": "identities of events are forgotten when no duplicate can come any more",
    "rollups": "counted from events: what a correction leaves empty goes",
    "rollup_values": "the same",
    "meter_rejects": "a replaced event may be read after all",
    "unrated_events": "what was priced is done",
    "unrated_windows": "the same",
    "unreported_usage": "what was looked at is done",
}

KEYS = """
SELECT c.relname AS table_name, i.relname AS key, a.attname AS first_column
FROM pg_index AS x
INNER JOIN pg_class AS c ON x.indrelid = c.oid
INNER JOIN pg_class AS i ON x.indexrelid = i.oid
LEFT JOIN pg_attribute AS a ON c.oid = a.attrelid AND x.indkey[0] = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND x.indisunique
UNION ALL
SELECT c.relname, k.conname, a.attname
FROM pg_constraint AS k
INNER JOIN pg_class AS c ON k.conrelid = c.oid
INNER JOIN pg_attribute AS a ON c.oid = a.attrelid AND k.conkey[1] = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND k.contype = 'f'
"""

SHARDED = """
SELECT c.relname
FROM pg_class AS c
INNER JOIN pg_attribute AS a ON c.oid = a.attrelid
WHERE
    c.relnamespace = 'public'::regnamespace
    AND c.relkind IN ('r', 'p')
    AND a.attname = 'customer_no'
    AND NOT a.attisdropped
"""

WITHOUT_KEY = """
SELECT c.relname
FROM pg_class AS c
WHERE
    c.relnamespace = 'public'::regnamespace
    AND c.relkind IN ('r', 'p')
    AND NOT EXISTS (SELECT FROM pg_index AS x WHERE x.indrelid = c.oid AND x.indisprimary)
"""

PRIVILEGES = """
SELECT c.relname, p.privilege
FROM pg_class AS c
CROSS JOIN
    unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
    AS p (privilege)
WHERE
    c.relnamespace = 'public'::regnamespace
    AND c.relkind IN ('r', 'p')
    AND (
        has_table_privilege($1, c.oid, p.privilege)
        OR (
            p.privilege NOT IN ('DELETE', 'TRUNCATE', 'TRIGGER')
            AND has_any_column_privilege($1, c.oid, p.privilege)
        )
    )
"""


async def misplaced_keys(conn: Connection) -> set[tuple[str, str]]:
    """The (table, key) pairs of tables with a customer where another column comes first."""
    sharded = {row["relname"] for row in await conn.fetch(SHARDED)}
    return {
        (row["table_name"], row["key"])
        for row in await conn.fetch(KEYS)
        if row["table_name"] in sharded and row["first_column"] != "customer_no"
    }


async def privileges(conn: Connection) -> set[tuple[str, str]]:
    """What the service's role may do beyond reading, as (table, privilege)."""
    rows = await conn.fetch(PRIVILEGES, APP_ROLE)
    return {(row["relname"], row["privilege"]) for row in rows}


@pytest.fixture
async def owner(shared_database: Database) -> AsyncGenerator[Connection]:
    """The owner of the schema, in a transaction that is rolled back."""
    async with connected(shared_database.owner_dsn) as conn:
        transaction = conn.transaction()
        await transaction.start()
        yield conn
        await transaction.rollback()


async def test_customer_comes_first_in_every_key(owner: Connection) -> None:
    found = await misplaced_keys(owner)

    assert {key for key in found if key[0] not in EXEMPT} == set()
    assert {table for table, _ in found} == EXEMPT.keys(), "an exemption that nothing needs"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("lost (no bigint PRIMARY KEY, customer_no bigint)", "lost_pkey"),
        ("lost (customer_no bigint PRIMARY KEY, key text UNIQUE)", "lost_key_key"),
        (
            "lost (customer_no bigint PRIMARY KEY, asset text REFERENCES assets)",
            "lost_asset_fkey",
        ),
    ],
)
async def test_key_without_the_customer_first_is_found(
    owner: Connection, table: str, key: str
) -> None:
    await owner.execute(f"CREATE TABLE {table}")

    assert ("lost", key) in await misplaced_keys(owner)


async def test_unique_index_on_an_expression_is_found(owner: Connection) -> None:
    await owner.execute("CREATE UNIQUE INDEX stray ON customers (lower(customer_id))")

    assert ("customers", "stray") in await misplaced_keys(owner)


async def test_every_table_has_a_primary_key(owner: Connection) -> None:
    assert await owner.fetch(WITHOUT_KEY) == []

    await owner.execute("CREATE TABLE heap (customer_no bigint)")
    assert [row["relname"] for row in await owner.fetch(WITHOUT_KEY)] == ["heap"]


async def test_foreign_keys_are_only_those_with_a_reason(owner: Connection) -> None:
    rows = await owner.fetch(
        "SELECT conname FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
    )

    assert {row["conname"] for row in rows} == FOREIGN_KEYS.keys()


async def test_service_may_delete_only_where_there_is_a_reason(owner: Connection) -> None:
    granted = await privileges(owner)

    assert {table for table, privilege in granted if privilege == "DELETE"} == MAY_DELETE.keys()
    assert {privilege for _, privilege in granted} == {"INSERT", "UPDATE", "DELETE"}


async def test_service_may_only_add_to_history(owner: Connection) -> None:
    history = {"journals", "transfers"}
    granted = await privileges(owner)

    assert {p for p in granted if p[0] in history} == {(table, "INSERT") for table in history}

    await owner.execute("GRANT UPDATE (kind) ON journals TO drawdown_app")
    assert ("journals", "UPDATE") in await privileges(owner)


async def test_service_owns_nothing_and_makes_nothing(owner: Connection) -> None:
    assert (
        await owner.fetchval(
            "SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) = $1", APP_ROLE
        )
        == 0
    )
    assert (
        await owner.fetchval(
            "SELECT has_schema_privilege($1, 'public', 'CREATE')"
            " OR pg_has_role($1, pg_get_userbyid(nspowner), 'MEMBER')"
            " FROM pg_namespace WHERE nspname = 'public'",
            APP_ROLE,
        )
        is False
    )


CHANGES = [
    "UPDATE journals SET kind = 'void'",
    "DELETE FROM journals",
    "TRUNCATE journals",
    "UPDATE transfers SET amount = 1",
    "DELETE FROM transfers",
    "TRUNCATE transfers",
]


@pytest.mark.parametrize("change", CHANGES)
async def test_history_changed_by_its_owner_is_refused_by_the_trigger(
    owner: Connection, change: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="append-only") as refused:
        await owner.execute(change)

    assert refused.value.constraint_name == "journals_append_only"


@pytest.mark.parametrize("change", CHANGES)
async def test_history_changed_by_the_service_is_refused(conn: Connection, change: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with conn.transaction():
            await conn.execute(change)
