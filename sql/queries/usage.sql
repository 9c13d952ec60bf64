-- Usage: rollups by window and group.
--
-- $5 are the edges of the windows: `width_bucket` numbers the one that a grain lies in. $6 are the
-- places (from 0) of the dimensions that are grouped by, $7 and $8 those that are filtered and
-- their values. One row for each window and group, each window, each group, and the whole;
-- `level` is 0, 1, 2, 3 in that order.

-- usage_rollups --
-- All aggregations but `unique`. $9 is the most rows.
WITH kept AS (
    SELECT
        width_bucket(r.grain, $5::timestamptz[]) AS place,
        CASE
            WHEN cardinality($6::integer[]) = 0 THEN '[]'
            ELSE (
                SELECT json_agg(r.dims::json -> d.at ORDER BY d.place)::text
                FROM unnest($6::integer[]) WITH ORDINALITY AS d (at, place)
            )
        END AS dims,
        r.events,
        r.total,
        r.least,
        r.greatest,
        r.latest_at,
        r.latest_id,
        r.latest_source,
        r.latest_value
    FROM rollups AS r
    WHERE
        r.customer_no = $1::bigint
        AND r.meter_no = $2::integer
        AND r.grain >= $3::timestamptz
        AND r.grain < $4::timestamptz
        AND NOT EXISTS (
            SELECT 1
            FROM unnest($7::integer[], $8::text[]) AS f (at, value)
            WHERE (r.dims::json ->> f.at) IS DISTINCT FROM f.value
        )
)

SELECT
    grouping(dims) + 2 * grouping(place) AS level,
    place,
    dims,
    sum(events)::bigint AS events,
    sum(total) AS total,
    min(least) AS least,
    max(greatest) AS greatest,
    (array_agg(latest_value ORDER BY latest_at DESC, latest_id DESC, latest_source DESC))[1]
        AS latest_value,
    NULL::bigint AS distinct_values
FROM kept
GROUP BY GROUPING SETS ((place, dims), (place), (dims), ())
ORDER BY level, place, dims
LIMIT $9::bigint;

-- usage_values --
-- The same for `unique`: a value counts once in each window, each group, and the whole.
WITH kept AS (
    SELECT
        width_bucket(r.grain, $5::timestamptz[]) AS place,
        CASE
            WHEN cardinality($6::integer[]) = 0 THEN '[]'
            ELSE (
                SELECT json_agg(r.dims::json -> d.at ORDER BY d.place)::text
                FROM unnest($6::integer[]) WITH ORDINALITY AS d (at, place)
            )
        END AS dims,
        r.value,
        r.events
    FROM rollup_values AS r
    WHERE
        r.customer_no = $1::bigint
        AND r.meter_no = $2::integer
        AND r.grain >= $3::timestamptz
        AND r.grain < $4::timestamptz
        AND NOT EXISTS (
            SELECT 1
            FROM unnest($7::integer[], $8::text[]) AS f (at, value)
            WHERE (r.dims::json ->> f.at) IS DISTINCT FROM f.value
        )
)

SELECT
    grouping(dims) + 2 * grouping(place) AS level,
    place,
    dims,
    sum(events)::bigint AS events,
    NULL::numeric AS total,
    NULL::numeric AS least,
    NULL::numeric AS greatest,
    NULL::numeric AS latest_value,
    count(DISTINCT value) AS distinct_values
FROM kept
GROUP BY GROUPING SETS ((place, dims), (place), (dims), ())
ORDER BY level, place, dims
LIMIT $9::bigint;

-- event_months_read --
-- Every month whose raw events are kept, in order.
SELECT month FROM event_months ORDER BY month;

-- events_count --
-- Whether a customer has more than $5 events of a type between two times.
SELECT count(*)
FROM (
    SELECT 1
    FROM events
    WHERE
        customer_no = $1::bigint
        AND time >= $3::timestamptz
        AND time < $4::timestamptz
        AND type = $2::text
    LIMIT $5::bigint
) AS seen;

-- events_per_grain --
-- How many events of a type a customer has in each quarter of an hour of [$3, $4), in order.
SELECT date_bin('15 minutes', time, '1970-01-01 00:00:00+00') AS grain, count(*) AS events
FROM events
WHERE
    customer_no = $1::bigint
    AND time >= $3::timestamptz
    AND time < $4::timestamptz
    AND type = $2::text
GROUP BY grain
ORDER BY grain;

-- customers_of_meter --
-- Customers of whom a meter has, or may have, something to count; from number $3 on, at most $4.
SELECT customer_no
FROM (
    SELECT customer_no FROM events WHERE type = $2::text AND customer_no >= $3::bigint
    UNION
    SELECT customer_no FROM rollups WHERE meter_no = $1::integer AND customer_no >= $3::bigint
    UNION
    SELECT customer_no FROM meter_rejects WHERE meter_no = $1::integer AND customer_no >= $3::bigint
) AS found
ORDER BY customer_no
LIMIT $4::bigint;

-- rollups_clear --
-- Empties what a meter counted of a customer between two times.
WITH rolled AS (
    DELETE FROM rollups
    WHERE
        customer_no = $1::bigint
        AND meter_no = $2::integer
        AND grain >= $3::timestamptz
        AND grain < $4::timestamptz
),

distinct_values AS (
    DELETE FROM rollup_values
    WHERE
        customer_no = $1::bigint
        AND meter_no = $2::integer
        AND grain >= $3::timestamptz
        AND grain < $4::timestamptz
)

DELETE FROM meter_rejects
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND time >= $3::timestamptz
    AND time < $4::timestamptz;

-- meter_rebuilt --
-- A meter counts a customer's older events too, up to $3.
INSERT INTO meter_rebuilds AS r (customer_no, meter_no, through)
VALUES ($1::bigint, $2::integer, $3::timestamptz)
ON CONFLICT (customer_no, meter_no) DO UPDATE SET through = greatest(r.through, excluded.through);

-- rollups_between --
-- What a meter counted of a customer between two times.
SELECT
    grain, dims, events, total, least, greatest, latest_at, latest_id, latest_source, latest_value
FROM rollups
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain >= $3::timestamptz
    AND grain < $4::timestamptz;

-- rollup_values_between --
-- The distinct values that a meter counted of a customer between two times.
SELECT grain, dims, value, events
FROM rollup_values
WHERE
    customer_no = $1::bigint
    AND meter_no = $2::integer
    AND grain >= $3::timestamptz
    AND grain < $4::timestamptz;

-- usage_settings --
-- For the open transaction of a command that reads whole months: the time to do so.
SELECT
    set_config('statement_timeout', $1::text, true),
    set_config('idle_in_transaction_session_timeout', '0', true),
    set_config('enable_seqscan', 'on', true);

-- events_of_month --
-- Every raw event between two times with its latest correction, in order.
SELECT
    d.customer_id, e.source, e.id, e.type, e.time, e.received_at, e.data, e.extensions,
    array(
        SELECT m.meter FROM unnest(e.meters) AS n (no) INNER JOIN meters AS m ON n.no = m.meter_no
    ) AS meters,
    c.correction_id, c.action, c.data AS corrected
FROM events AS e
INNER JOIN customer_directory AS d ON e.customer_no = d.customer_no
LEFT JOIN
    corrections AS c
    ON
        e.customer_no = c.customer_no
        AND e.time = c.time
        AND e.source = c.source
        AND e.id = c.id
        AND c.is_latest
WHERE e.time >= $1::timestamptz AND e.time < $2::timestamptz
ORDER BY e.customer_no, e.time, e.source, e.id;

-- rollups_without_events --
-- Whether a meter counted something of a customer in a time whose raw events were dropped.
SELECT count(*) > 0
FROM rollups AS r
LEFT JOIN
    event_months AS m
    ON date_trunc('month', r.grain AT TIME ZONE 'UTC')::date = m.month
WHERE
    r.customer_no = $1::bigint
    AND r.meter_no = $2::integer
    AND r.grain >= $3::timestamptz
    AND r.grain < $4::timestamptz
    AND m.month IS NULL;
