-- Events: their identities, the events, what meters count of them.
--
-- Whoever writes gives rows in the order of their keys: two writers of the same rows then queue
-- and never deadlock.

-- events_open --
-- The service's time; makes the partitions that these months lack.
SELECT service_now_v1(), event_months_make_v1($1::date[]);

-- event_guards_claim --
-- Claims identities; those that somebody has already are left out. Waits for a writer of the same.
-- $7 is how many there are: which were claimed is only told where some were not.
WITH claimed AS (
    INSERT INTO event_guards (customer_no, source, id, content_hash, time, received_at)
    SELECT
        s.*,
        $6::timestamptz AS received_at
    FROM unnest(
        $1::text::bigint[], $2::text::text[], $3::text::text[], $4::bytea[], $5::timestamptz[]
    ) AS s
    ON CONFLICT DO NOTHING
    RETURNING customer_no, source, id
)

SELECT
    count(*) AS claimed,
    CASE WHEN count(*) < $7::bigint THEN array_agg(customer_no) END AS nos,
    CASE WHEN count(*) < $7::bigint THEN array_agg(source) END AS sources,
    CASE WHEN count(*) < $7::bigint THEN array_agg(id) END AS ids
FROM claimed;

-- event_guards_read --
-- What is known of identities that could not be claimed.
SELECT g.customer_no, g.source, g.id, g.content_hash, g.time
FROM unnest($1::text::bigint[], $2::text::text[], $3::text::text[]) AS s (customer_no, source, id)
INNER JOIN
    event_guards AS g
    ON s.customer_no = g.customer_no AND s.source = g.source AND s.id = g.id;

-- events_store --
-- Stores events. Their identities were claimed.
INSERT INTO events (
    customer_no, source, id, time, received_at, type, data, extensions, meters
)
SELECT
    customer_no, source, id, time, $9::timestamptz, type, data, extensions, meters::integer[]
FROM unnest(
    $1::text::bigint[], $2::text::text[], $3::text::text[], $4::text::timestamptz[],
    $5::text::text[], $6::text::text[], $7::text::text[], $8::text::text[]
) AS s (customer_no, source, id, time, type, data, extensions, meters);

-- events_find --
-- Stored events by identity and time.
SELECT
    e.customer_no, e.source, e.id, e.time, e.received_at, e.type, e.data, e.extensions, e.meters
FROM
    unnest($1::text::bigint[], $2::text::text[], $3::text::text[], $4::timestamptz[]) AS s (
        customer_no, source, id, time
    )
INNER JOIN
    events AS e
    ON s.customer_no = e.customer_no AND s.time = e.time AND s.source = e.source AND s.id = e.id;

-- events_search --
-- Events of one identity between two times, where no guard tells the time. Newest first.
SELECT
    customer_no, source, id, time, received_at, type, data, extensions, meters
FROM events
WHERE
    customer_no = $1::bigint
    AND time >= $4::timestamptz
    AND time <= $5::timestamptz
    AND source = $2::text
    AND id = $3::text
ORDER BY time DESC;

-- rollups_add --
-- Adds to rollups, and makes those that are new.
INSERT INTO rollups AS r (
    customer_no, meter_no, grain, dims, events, total, least, greatest,
    latest_at, latest_id, latest_source, latest_value
)
SELECT * FROM unnest(
    $1::text::bigint[], $2::text::integer[], $3::text::timestamptz[], $4::text::text[],
    $5::text::bigint[], $6::text::numeric[],
    $7::text::numeric[], $8::text::numeric[], $9::text::timestamptz[], $10::text::text[],
    $11::text::text[], $12::text::numeric[]
)
ON CONFLICT (customer_no, meter_no, grain, dims) DO UPDATE SET
    events = r.events + excluded.events,
    total = r.total + excluded.total,
    least = least(r.least, excluded.least),
    greatest = greatest(r.greatest, excluded.greatest),
    latest_at = greatest(r.latest_at, excluded.latest_at),
    latest_id = CASE
        WHEN
            (excluded.latest_at, excluded.latest_id, excluded.latest_source)
            > (r.latest_at, r.latest_id, r.latest_source)
            THEN excluded.latest_id
        ELSE r.latest_id
    END,
    latest_source = CASE
        WHEN
            (excluded.latest_at, excluded.latest_id, excluded.latest_source)
            > (r.latest_at, r.latest_id, r.latest_source)
            THEN excluded.latest_source
        ELSE r.latest_source
    END,
    latest_value = CASE
        WHEN
            (excluded.latest_at, excluded.latest_id, excluded.latest_source)
            > (r.latest_at, r.latest_id, r.latest_source)
            THEN excluded.latest_value
        ELSE r.latest_value
    END;

-- rollup_values_add --
-- Adds to the distinct values of `unique`.
INSERT INTO rollup_values AS v (customer_no, meter_no, grain, dims, value, events)
SELECT * FROM unnest(
    $1::text::bigint[], $2::text::integer[], $3::timestamptz[], $4::text::text[], $5::text::text[],
    $6::text::bigint[]
)
ON CONFLICT (customer_no, meter_no, grain, dims, value) DO UPDATE SET
    events = v.events + excluded.events;

-- meter_rejects_add --
-- Notes events that a meter could not read.
INSERT INTO meter_rejects (customer_no, meter_no, time, source, id, reason, received_at)
SELECT * FROM unnest(
    $1::text::bigint[], $2::text::integer[], $3::timestamptz[], $4::text::text[], $5::text::text[],
    $6::text::text[],
    $7::timestamptz[]
)
ON CONFLICT DO NOTHING;

-- unrated_events_add --
-- Notes events that are still to be priced.
INSERT INTO unrated_events (customer_no, meter_no, source, id, time, received_at)
SELECT * FROM unnest(
    $1::text::bigint[], $2::text::integer[], $3::text::text[], $4::text::text[], $5::timestamptz[],
    $6::timestamptz[]
)
ON CONFLICT DO NOTHING;

-- unrated_windows_add --
-- Notes quarters of an hour in which something changed that is priced by window.
INSERT INTO unrated_windows AS w (customer_no, meter_no, grain)
SELECT * FROM unnest($1::text::bigint[], $2::text::integer[], $3::timestamptz[])
ON CONFLICT (customer_no, meter_no, grain) DO UPDATE SET
    version = w.version + 1, not_before = NULL;

-- meters_used --
-- Marks meters as used; answers those that were not yet.
UPDATE meters SET is_used = true
WHERE meter_no = any($1::integer[]) AND NOT is_used
RETURNING meter_no;

-- events_in_force --
-- Events by identity and time as they count now: with the data of their latest correction.
SELECT
    e.customer_no, e.source, e.id, e.time, e.received_at, e.type, coalesce(c.data, e.data) AS data,
    e.extensions, e.meters, coalesce(c.action = 'cancel', false) AS is_cancelled,
    coalesce(c.number, 0) AS corrections_count
FROM
    unnest($1::text::bigint[], $2::text::text[], $3::text::text[], $4::timestamptz[]) AS s (
        customer_no, source, id, time
    )
INNER JOIN
    events AS e
    ON s.customer_no = e.customer_no AND s.time = e.time AND s.source = e.source AND s.id = e.id
LEFT JOIN
    corrections AS c
    ON
        e.customer_no = c.customer_no
        AND e.time = c.time
        AND e.source = c.source
        AND e.id = c.id
        AND c.is_latest;

-- events_between --
-- A customer's events of a type between two times as they count now, in order.
SELECT
    e.customer_no, e.source, e.id, e.time, e.received_at, e.type, coalesce(c.data, e.data) AS data,
    e.extensions, e.meters, false AS is_cancelled
FROM events AS e
LEFT JOIN
    corrections AS c
    ON
        e.customer_no = c.customer_no
        AND e.time = c.time
        AND e.source = c.source
        AND e.id = c.id
        AND c.is_latest
WHERE
    e.customer_no = $1::bigint
    AND e.time >= $3::timestamptz
    AND e.time < $4::timestamptz
    AND e.type = $2::text
    AND c.action IS DISTINCT FROM 'cancel'
ORDER BY e.time, e.source, e.id;

-- correction_read --
-- A correction by the caller's name for it.
SELECT source, id, action, data, created_at
FROM corrections
WHERE customer_no = $1::bigint AND correction_id = $2::text;

-- correction_latest --
-- What counts of an event now, if it was ever corrected.
SELECT number, action, data
FROM corrections
WHERE
    customer_no = $1::bigint
    AND time = $2::timestamptz
    AND source = $3::text
    AND id = $4::text
    AND is_latest;

-- correction_outdate --
-- The latest correction of an event is followed by another one.
UPDATE corrections SET is_latest = false
WHERE
    customer_no = $1::bigint
    AND time = $2::timestamptz
    AND source = $3::text
    AND id = $4::text
    AND is_latest;

-- correction_add --
-- The latest correction of an event.
INSERT INTO corrections (
    customer_no, correction_id, source, id, time, number, action, data, created_at
)
VALUES (
    $1::bigint, $2::text, $3::text, $4::text, $5::timestamptz, $6::integer, $7::text, $8::text,
    $9::timestamptz
);

-- rollup_lock --
-- One rollup, which stays as it is until the transaction ends.
SELECT events
FROM rollups
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain = $3::timestamptz
    AND dims = $4::text
FOR UPDATE;

-- rollup_take --
-- Takes one event out of a rollup that has more of them.
UPDATE rollups SET events = events - 1, total = total - $5::numeric
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain = $3::timestamptz
    AND dims = $4::text;

-- rollup_extremes --
-- Sets what can't be taken out of a rollup, counted anew.
UPDATE rollups SET
    least = $5::numeric,
    greatest = $6::numeric,
    latest_at = $7::timestamptz,
    latest_id = $8::text,
    latest_source = $9::text,
    latest_value = $10::numeric
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain = $3::timestamptz
    AND dims = $4::text;

-- rollup_drop --
-- A rollup that counts nothing any more.
DELETE FROM rollups
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain = $3::timestamptz
    AND dims = $4::text;

-- rollup_value_lock --
-- One distinct value, which stays as it is until the transaction ends.
SELECT events
FROM rollup_values
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain = $3::timestamptz
    AND dims = $4::text
    AND value = $5::text
FOR UPDATE;

-- rollup_value_take --
-- Takes one event away from a distinct value that more of them have.
UPDATE rollup_values SET events = events - 1
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain = $3::timestamptz
    AND dims = $4::text
    AND value = $5::text;

-- rollup_value_drop --
-- A distinct value that no event has any more.
DELETE FROM rollup_values
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain = $3::timestamptz
    AND dims = $4::text
    AND value = $5::text;

-- meter_reject_drop --
-- A meter does not reject an event any more.
DELETE FROM meter_rejects
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND time = $3::timestamptz
    AND source = $4::text
    AND id = $5::text;

-- meter_rebuilds_read --
-- Up to which time each meter counts a customer's events that are older than itself.
SELECT meter_no, through FROM meter_rebuilds WHERE customer_no = $1::bigint;

-- event_guard_read --
-- When an event happened and when it came; no row: it never came, or over 35 days ago.
SELECT time, received_at
FROM event_guards
WHERE customer_no = $1::bigint AND source = $2::text AND id = $3::text;

-- event_meters_read --
-- What waits of an event to be charged, and why; and which meters could not read it ($4 is its
-- time), and why.
SELECT m.meter, u.refusal AS reason, 'waiting' AS what
FROM unrated_events AS u
INNER JOIN meters AS m ON u.meter_no = m.meter_no
WHERE u.customer_no = $1::bigint AND u.source = $2::text AND u.id = $3::text
UNION ALL
SELECT m.meter, r.reason, 'rejected' AS what
FROM meter_rejects AS r
INNER JOIN meters AS m ON r.meter_no = m.meter_no
WHERE
    r.customer_no = $1::bigint
    AND r.time = $4::timestamptz
    AND r.source = $2::text
    AND r.id = $3::text
ORDER BY what, meter;
