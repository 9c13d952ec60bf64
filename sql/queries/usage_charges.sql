-- Usage that is charged: what its price depends on, and the lines it leaves.

-- usage_load --
-- What pricing needs of locked customers: the catalog's version, their zone and rate card ($1), the
-- counters whose period holds a time of theirs ($2, $3), and facts that are charged ($4, $5, $6).
SELECT
    (SELECT catalog_version FROM installation) AS catalog_version,
    (
        SELECT array_agg(row(customer_no, time_zone, coalesce(rate_card, plan_rate_card)))
        FROM profiles
        WHERE customer_no = any($1::text::bigint[])
    ) AS profiles,
    (
        SELECT
            array_agg(row(
                c.customer_no, c.counter, c.period_start,
                trunc(c.quantity * 1000000000000000000)::text, c.carry, c.dimensions
            ))
        FROM unnest($2::text::bigint[], $3::timestamptz[]) AS k (customer_no, at)
        INNER JOIN
            price_counters AS c
            ON k.customer_no = c.customer_no AND c.period_end > k.at AND c.period_start <= k.at
    ) AS counters,
    (
        SELECT array_agg(row(l.customer_no, l.source, l.event_id, l.meter_no, l.seq))
        FROM unnest($4::text::bigint[], $5::text[], $6::text[]) AS k (customer_no, source, event_id)
        INNER JOIN
            charge_lines AS l
            ON k.customer_no = l.customer_no AND k.source = l.source AND k.event_id = l.event_id
    ) AS charged;

-- counter_charges_load --
-- The latest charges of counters ($1, $2, $3), newest first, at most $4 of each.
SELECT k.customer_no, k.counter, k.period_start, l.seq
FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS k (customer_no, counter, period_start)
CROSS JOIN LATERAL (
    SELECT DISTINCT seq
    FROM charge_lines
    WHERE
        charge_lines.customer_no = k.customer_no
        AND charge_lines.counter = k.counter
        AND charge_lines.period_start = k.period_start
        AND charge_lines.amount > 0
    ORDER BY seq DESC
    LIMIT $4::integer
) AS l
ORDER BY k.customer_no, l.seq DESC;

-- charge_lines_make --
-- New charge lines.
INSERT INTO charge_lines (
    customer_no, seq, line, meter_no, quantity, dimensions, rate_card, rate_version, rate_no, asset,
    amount, counter, period_start, period_end, total_before, source, event_id, event_at, revision
)
SELECT *
FROM unnest(
    $1::text::bigint[], $2::text::bigint[], $3::text::integer[], $4::text::integer[],
    $5::text::numeric[], $6::text::text[], $7::text::text[], $8::text::integer[],
    $9::text::integer[],
    $10::text::text[], $11::text::bigint[], $12::text::text[], $13::text::timestamptz[],
    $14::text::timestamptz[], $15::text::numeric[], $16::text::text[], $17::text::text[],
    $18::text::timestamptz[],
    $19::text::integer[]
);

-- price_counters_move --
-- Where counters stand now.
INSERT INTO price_counters (
    customer_no, period_end, period_start, counter, quantity, carry, dimensions
)
SELECT *
FROM unnest(
    $1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::text[]::numeric[],
    $6::bigint[], $7::text[]
)
ON CONFLICT (customer_no, period_end, period_start, counter)
DO UPDATE SET quantity = excluded.quantity, carry = excluded.carry;

-- charge_lines_read --
-- The lines of charges of one customer.
SELECT
    l.seq, l.line, l.meter_no, m.meter, trunc(l.quantity * 1000000000000000000)::text AS quantity,
    l.dimensions, l.rate_card, l.rate_version, l.rate_no, l.asset, l.amount, l.counter,
    l.period_start, l.period_end, trunc(l.total_before * 1000000000000000000)::text AS total_before,
    l.source, l.event_id, l.event_at, l.revision
FROM charge_lines AS l
INNER JOIN meters AS m ON l.meter_no = m.meter_no
WHERE l.customer_no = $1::bigint AND l.seq = any($2::bigint[])
ORDER BY l.seq, l.line;

-- event_lines_read --
-- The lines of a fact: those that name it, and the one ($4, $5) that made it. Oldest first.
SELECT
    l.seq, l.line, l.meter_no, m.meter, trunc(l.quantity * 1000000000000000000)::text AS quantity,
    l.dimensions, l.rate_card, l.rate_version, l.rate_no, l.asset, l.amount, l.counter,
    l.period_start, l.period_end, trunc(l.total_before * 1000000000000000000)::text AS total_before,
    l.source, l.event_id, l.event_at, l.revision
FROM charge_lines AS l
INNER JOIN meters AS m ON l.meter_no = m.meter_no
WHERE
    l.customer_no = $1::bigint
    AND (
        (l.source = $2::text AND l.event_id = $3::text)
        OR (l.seq = $4::bigint AND l.line = $5::integer)
    )
ORDER BY l.seq, l.line;

-- rate_cards_read --
-- Every version of every rate card, in the order they were published.
SELECT rate_card, version, asset, effective_at, created_at, rates
FROM rate_cards
ORDER BY rate_card, version;

-- rate_card_publish --
-- A new version, effective from $3, or from now.
INSERT INTO rate_cards (rate_card, version, asset, effective_at, created_at, rates)
SELECT
    $1::text,
    coalesce((SELECT max(c.version) FROM rate_cards AS c WHERE c.rate_card = $1::text), 0) + 1,
    $2::text,
    greatest(coalesce($3::timestamptz, t.now), t.now),
    t.now,
    $4::text
FROM (SELECT service_now_v1() AS now) AS t
RETURNING rate_card, version, asset, effective_at, created_at, rates;

-- request_of_business --
-- A request of the whole business that has its answer: its key is in the scope of no customer.
SELECT operation, fingerprint, status, body
FROM requests
WHERE customer_no = 0 AND key = $1::text;

-- request_remember --
-- The answer to a request of the whole business.
INSERT INTO requests (
    customer_no, key, operation, fingerprint, status, body, trace_id, created_at
)
VALUES (
    0, $1::text, $2::text, $3::bytea, $4::smallint, $5::bytea, $6::text, service_now_v1()
);

-- unrated_events_due --
-- Events that are still to be charged, by customer. Not those dated ahead, nor those without a
-- price that were tried a moment ago.
SELECT customer_no, meter_no, source, id, time
FROM unrated_events
WHERE
    time <= (SELECT service_now_v1())
    AND (not_before IS NULL OR not_before <= (SELECT service_now_v1()))
ORDER BY customer_no, meter_no, source, id
LIMIT $1::integer;

-- meters_waiting --
-- How much of these meters waits to be priced, and why; of each at most $2 events and $2 windows.
SELECT k.meter_no, w.refusal, count(*) AS waiting
FROM unnest($1::text::integer[]) AS k (meter_no)
CROSS JOIN LATERAL (
    (SELECT e.refusal FROM unrated_events AS e WHERE e.meter_no = k.meter_no LIMIT $2::integer)
    UNION ALL
    (SELECT q.refusal FROM unrated_windows AS q WHERE q.meter_no = k.meter_no LIMIT $2::integer)
) AS w
GROUP BY k.meter_no, w.refusal
ORDER BY k.meter_no, w.refusal NULLS FIRST;

-- unrated_events_done --
-- These events are charged.
DELETE FROM unrated_events AS e
USING unnest($1::bigint[], $2::integer[], $3::text[], $4::text[])
    AS v (customer_no, meter_no, source, id)
WHERE
    e.customer_no = v.customer_no
    AND e.meter_no = v.meter_no
    AND e.source = v.source
    AND e.id = v.id;

-- unrated_events_later --
-- These events could not be charged ($5: why) and are tried again in $6.
UPDATE unrated_events AS e
SET refusal = v.refusal, not_before = service_now_v1() + $6::interval
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[])
    AS v (customer_no, meter_no, source, id, refusal)
WHERE
    e.customer_no = v.customer_no
    AND e.meter_no = v.meter_no
    AND e.source = v.source
    AND e.id = v.id;

-- unrated_windows_due --
-- Quarters of an hour whose window may have closed, by customer and meter.
SELECT customer_no, meter_no, grain, version
FROM unrated_windows
WHERE not_before IS NULL OR not_before <= (SELECT service_now_v1())
ORDER BY customer_no, meter_no, grain
LIMIT $1::integer;

-- unrated_windows_done --
-- The windows of these quarters are charged, unless something has changed in them since.
DELETE FROM unrated_windows AS w
USING unnest($1::bigint[], $2::integer[], $3::timestamptz[], $4::bigint[])
    AS v (customer_no, meter_no, grain, version)
WHERE
    w.customer_no = v.customer_no
    AND w.meter_no = v.meter_no
    AND w.grain = v.grain
    AND w.version = v.version;

-- unrated_windows_later --
-- The windows of these quarters are not charged ($5: why) and are looked at again at $6, or in $7.
UPDATE unrated_windows AS w
SET refusal = $5::text, not_before = coalesce($6::timestamptz, service_now_v1() + $7::interval)
FROM unnest($1::bigint[], $2::integer[], $3::timestamptz[], $4::bigint[])
    AS v (customer_no, meter_no, grain, version)
WHERE
    w.customer_no = v.customer_no
    AND w.meter_no = v.meter_no
    AND w.grain = v.grain
    AND w.version = v.version;

-- lines_customers --
-- The next customers after $1 that have charge lines, or customer $3 alone, at most $2.
WITH RECURSIVE walk AS (
    (
        SELECT l.customer_no
        FROM charge_lines AS l
        WHERE
            l.customer_no > $1::bigint
            AND ($3::bigint IS NULL OR l.customer_no = $3::bigint)
        ORDER BY l.customer_no
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT l.customer_no
        FROM charge_lines AS l
        WHERE l.customer_no > w.customer_no AND $3::bigint IS NULL
        ORDER BY l.customer_no
        LIMIT 1
    )
    FROM walk AS w
    WHERE w.customer_no IS NOT NULL
),

found AS (
    SELECT customer_no
    FROM walk
    WHERE customer_no IS NOT NULL
    LIMIT $2::integer
)

SELECT c.customer_no, c.customer_id, p.time_zone
FROM found AS f
INNER JOIN customers AS c ON f.customer_no = c.customer_no
INNER JOIN profiles AS p ON f.customer_no = p.customer_no
ORDER BY c.customer_no;

-- lines_of_card --
-- The charge lines of customer $1 by rate card $2 in asset $3, of usage in [$4, $5). No line is
-- older than its usage, so those before the first journal created from $4 on are not looked at.
SELECT
    m.meter, l.dimensions, trunc(l.quantity * 1000000000000000000)::text, l.amount, l.event_at
FROM charge_lines AS l
INNER JOIN meters AS m ON l.meter_no = m.meter_no
WHERE
    l.customer_no = $1::bigint
    AND l.seq > journal_seq_at_v1($1::bigint, $4::timestamptz - interval '1 microsecond')
    AND l.rate_card = $2::text
    AND l.asset = $3::text
    AND l.event_at >= $4::timestamptz
    AND l.event_at < $5::timestamptz
ORDER BY l.seq, l.line;
