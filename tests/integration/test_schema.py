"""`sql/schema.sql` is what the migrations make: two databases, one catalog."""

from collections.abc import AsyncGenerator

import pytest

from sql.migrate import MIGRATIONS, ensure_roles
from sql.pool import Connection
from tests.servers import Database, Databases, connected

# Not compared: the migrator's own table, and the order of columns (a migration adds at the end).
CATALOG = """
WITH ours AS (
    SELECT c.*
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'schema_migrations%'
)

SELECT
    'relation ' || relname AS name,
    concat_ws(' ', relkind, relpersistence, relrowsecurity, reloptions::text,
              pg_get_userbyid(relowner), obj_description(oid)) AS definition
FROM ours
UNION ALL
SELECT
    'column ' || c.relname || '.' || a.attname,
    concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
              a.attgenerated, l.collname, pg_get_expr(d.adbin, d.adrelid))
FROM ours AS c
INNER JOIN pg_attribute AS a ON c.oid = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON a.attrelid = d.adrelid AND a.attnum = d.adnum
LEFT JOIN pg_collation AS l ON a.attcollation = l.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm')
UNION ALL
SELECT 'constraint ' || c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint AS k
INNER JOIN ours AS c ON k.conrelid = c.oid
UNION ALL
SELECT 'index ' || relname, pg_get_indexdef(oid)
FROM ours
WHERE relkind IN ('i', 'I')
UNION ALL
SELECT 'view ' || relname, pg_get_viewdef(oid)
FROM ours
WHERE relkind IN ('v', 'm')
UNION ALL
SELECT 'sequence ' || c.relname, (to_jsonb(s) - 'last_value')::text
FROM ours AS c
INNER JOIN pg_sequences AS s ON c.relname = s.sequencename
WHERE c.relkind = 'S' AND s.schemaname = 'public'
UNION ALL
SELECT 'trigger ' || c.relname || '.' || t.tgname, pg_get_triggerdef(t.oid) || t.tgenabled::text
FROM pg_trigger AS t
INNER JOIN ours AS c ON t.tgrelid = c.oid
WHERE NOT t.tgisinternal
UNION ALL
SELECT 'function ' || oid::regprocedure, pg_get_functiondef(oid)
FROM pg_proc
WHERE pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'type ' || oid::regtype, typtype::text || pg_get_userbyid(typowner)
FROM pg_type
WHERE typnamespace = 'public'::regnamespace AND typtype IN ('d', 'e', 'r')
UNION ALL
SELECT 'extension ' || extname, extversion
FROM pg_extension
UNION ALL
SELECT
    'privilege ' || p.what || ' ' || coalesce(pg_get_userbyid(nullif(a.grantee, 0)), 'public')
    || ' ' || a.privilege_type,
    a.is_grantable::text
FROM
    (
        SELECT relname::text AS what, relacl AS acl FROM ours
        UNION ALL
        SELECT c.relname || '.' || t.attname, t.attacl
        FROM ours AS c
        INNER JOIN pg_attribute AS t ON c.oid = t.attrelid
        UNION ALL
        SELECT oid::regprocedure::text, proacl
        FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'schema', nspacl FROM pg_namespace WHERE nspname = 'public'
    ) AS p
CROSS JOIN LATERAL aclexplode(p.acl) AS a
UNION ALL
SELECT 'row ' || asset, concat_ws(' ', scale, is_money)
FROM assets
"""


async def catalog(conn: Connection) -> dict[str, str]:
    """Everything that a database of ours consists of, by kind and name."""
    rows = await conn.fetch(CATALOG)
    found = {row["name"]: row["definition"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
async def by_schema(databases: Databases) -> AsyncGenerator[Database]:
    """A database made from `schema.sql` alone."""
    made = databases.unmade()
    async with connected(databases.url) as superuser:
        await ensure_roles(superuser, made.name)
    async with connected(made.owner_dsn) as owner:
        await owner.execute((MIGRATIONS.parent / "schema.sql").read_text("utf-8"))
    yield made
    await databases.drop(made)


async def test_schema_file_makes_the_same_database_as_the_migrations(
    by_schema: Database, shared_database: Database
) -> None:
    async with connected(by_schema.owner_dsn) as one, connected(shared_database.owner_dsn) as other:
        schema, migrated = await catalog(one), await catalog(other)

    assert schema == migrated
    assert len(schema) > 500  # tables, columns, keys, privileges, assets: it did look


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("ALTER TABLE lots SET (fillfactor = 70)", "relation lots"),
        ("COMMENT ON TABLE lots IS 'parcels'", "relation lots"),
        ("ALTER TABLE lots ALTER amount TYPE numeric", "column lots.amount"),
        ("ALTER TABLE notes ALTER reason SET NOT NULL", "column notes.reason"),
        ("ALTER TABLE customers ALTER last_no SET DEFAULT 1", "column customers.last_no"),
        ('ALTER TABLE notes ALTER reason TYPE text COLLATE "C"', "column notes.reason"),
        ("ALTER TABLE notes ADD extra integer", "column notes.extra"),
        (
            "ALTER TABLE accounts DROP CONSTRAINT accounts_available_floor",
            "constraint accounts.accounts_available_floor",
        ),
        ("DROP INDEX lots_burn_order", "index lots_burn_order"),
        (
            "CREATE OR REPLACE VIEW account_balances AS"
            " SELECT customer_no, asset, 'wallet' AS account, wallet_debits AS debits,"
            " wallet_credits AS credits FROM accounts",
            "view account_balances",
        ),
        (
            "ALTER TABLE job_runs ALTER run_no SET INCREMENT BY 2",
            "sequence job_runs_run_no_seq",
        ),
        (
            "DROP TRIGGER transfers_append_only ON transfers",
            "trigger transfers.transfers_append_only",
        ),
        (
            "ALTER TABLE journals DISABLE TRIGGER journals_append_only",
            "trigger journals.journals_append_only",
        ),
        (
            "CREATE OR REPLACE FUNCTION service_now_v1() RETURNS timestamptz LANGUAGE sql"
            " AS 'SELECT now()'",
            "function service_now_v1()",
        ),
        ("CREATE TYPE mood AS ENUM ('good')", "type mood"),
        ("GRANT UPDATE ON journals TO drawdown_app", "privilege journals drawdown_app UPDATE"),
        (
            "GRANT UPDATE (kind) ON journals TO drawdown_app",
            "privilege journals.kind drawdown_app UPDATE",
        ),
        ("REVOKE SELECT ON lots FROM drawdown_app", "privilege lots drawdown_app SELECT"),
        ("UPDATE assets SET scale = 3 WHERE asset = 'JPY'", "row JPY"),
    ],
    ids=lambda text: text.replace(" ", "-") if len(text) < 50 else "",
)
async def test_catalog_of_a_changed_database_differs(
    by_schema: Database, change: str, name: str
) -> None:
    async with connected(by_schema.owner_dsn) as owner:
        before = await catalog(owner)
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute(change)
        after = await catalog(owner)
        await transaction.rollback()

    assert before.get(name) != after.get(name)
