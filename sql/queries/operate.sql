-- What the operator's commands ask: tables as a backup sees them, facts for the doctor.

-- copy_settings --
-- For the open transaction: values as text in one form whatever the login's settings are, and time
-- for whole tables.
SELECT
    set_config('timezone', 'UTC', true),
    set_config('datestyle', 'ISO, YMD', true),
    set_config('intervalstyle', 'postgres', true),
    set_config('bytea_output', 'hex', true),
    set_config('extra_float_digits', '1', true),
    set_config('statement_timeout', '0', true),
    set_config('idle_in_transaction_session_timeout', '0', true),
    set_config('lock_timeout', '60s', true),
    set_config('enable_seqscan', 'on', true);

-- migrations_lock --
-- No migration can be committed until the open transaction ends. Waits for one that runs, but not
-- for long. Takes no snapshot.
SET LOCAL lock_timeout = '5s';

LOCK TABLE schema_migrations IN SHARE MODE;

-- installation_lock --
-- Nobody can make this database his installation until the open transaction ends.
LOCK TABLE installation IN EXCLUSIVE MODE;

-- schema_exists --
-- Whether any migration was ever applied here.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- migration_last --
-- The last migration that was applied.
SELECT number, name, checksum FROM schema_migrations ORDER BY number DESC LIMIT 1;

-- tables_read --
-- Every table of ours but that of migrations: the columns that are stored, the tables it refers to
-- (events need the partitions that rows of event_months make), and the statements that read all of
-- it in the order of its primary key, ask whether it has a row, and empty it.
SELECT
    c.relname::text AS name,
    stored.columns,
    array(
        SELECT p.relname::text
        FROM pg_constraint AS f
        INNER JOIN pg_class AS p ON f.confrelid = p.oid
        WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid <> c.oid
        UNION ALL
        SELECT 'event_months' WHERE c.relname = 'events'
    ) AS parents,
    format('SELECT %s FROM %I ORDER BY %s', stored.list, c.relname, key.list) AS read_all,
    format('SELECT EXISTS (SELECT 1 FROM %I)', c.relname) AS has_rows,
    format('DELETE FROM %I', c.relname) AS clear
FROM pg_class AS c
CROSS JOIN LATERAL (
    SELECT
        array_agg(a.attname::text ORDER BY a.attnum) AS columns,
        string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS list
    FROM pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
) AS stored
CROSS JOIN LATERAL (
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.place) AS list
    FROM pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
    INNER JOIN pg_attribute AS a ON k.attnum = a.attnum
    WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid
) AS key
WHERE
    c.relnamespace = current_schema()::regnamespace
    AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition
    AND c.relname <> 'schema_migrations'
ORDER BY c.relname;

-- sequences_read --
-- Every sequence that was used, and its last number.
SELECT sequencename::text AS name, last_value
FROM pg_sequences
WHERE schemaname = current_schema() AND last_value IS NOT NULL
ORDER BY sequencename;

-- sequence_set --
-- The next number of a sequence comes after $2.
SELECT setval($1::text::regclass, $2::bigint);

-- sequences_behind --
-- Identity columns whose sequence would give a number again. Only the owner can tell.
SELECT s.name
FROM (
    SELECT
        'customer_directory' AS name,
        pg_get_serial_sequence('customer_directory', 'customer_no') AS sequence,
        (SELECT max(customer_no) FROM customer_directory) AS highest
    UNION ALL
    SELECT
        'api_keys',
        pg_get_serial_sequence('api_keys', 'key_no'),
        (SELECT max(key_no) FROM api_keys)
    UNION ALL
    SELECT
        'job_runs',
        pg_get_serial_sequence('job_runs', 'run_no'),
        (SELECT max(run_no) FROM job_runs)
    UNION ALL
    SELECT
        'meters',
        pg_get_serial_sequence('meters', 'meter_no'),
        (SELECT max(meter_no) FROM meters)
) AS s
WHERE s.highest > coalesce(pg_sequence_last_value(s.sequence::regclass), 0);

-- epoch_grow --
-- After a restore: what is told to the outside from now on is told under a new epoch.
UPDATE installation SET epoch = epoch + 1 RETURNING epoch;

-- sandbox_keys_revoke --
-- Revokes the keys that earlier starts of a sandbox made under one name.
UPDATE api_keys SET revoked_at = service_now_v1()
WHERE name = $1::text AND kind = 'key' AND revoked_at IS NULL;

-- logins_read --
-- Who is connected, and what that login may: one that owns the tables is not held back.
SELECT
    current_user::text AS login,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
    coalesce((
        SELECT pg_has_role(current_user, c.relowner, 'MEMBER')
        FROM pg_class AS c
        WHERE c.oid = to_regclass('journals')
    ), false) AS is_owner;

-- connections_read --
-- How many connections the server allows to ordinary logins, and how many clients it has now.
SELECT
    current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', true)::integer, 0) AS allowed,
    (
        SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
    )::integer AS used;

-- real_clock_read --
-- The database's own time, without a sandbox's offset.
SELECT clock_timestamp();

-- epoch_read --
-- How often this installation was restored, plus one. No row before the first start.
SELECT epoch FROM installation;
