-- The way of one hour's usage of a customer, to what Stripe was told of it and its invoice.

-- why_events_read --
-- How many raw events came of an hour ($2), by type; of the first $3 events.
SELECT
    e.type,
    count(*) AS events
FROM (
    SELECT type
    FROM events
    WHERE
        customer_no = $1::bigint
        AND time >= $2::timestamptz
        AND time < $2::timestamptz + interval '1 hour'
    LIMIT $3::integer
) AS e
GROUP BY e.type
ORDER BY events DESC, e.type;

-- why_meters_read --
-- What each meter counted in an hour ($2), and what it could not read; at most $3 meters. Only a
-- count or a sum has a quantity.
SELECT
    m.meter,
    r.events,
    x.rejects,
    x.reason,
    CASE m.aggregation WHEN 'count' THEN r.events WHEN 'sum' THEN r.total END AS quantity
FROM meters AS m
LEFT JOIN LATERAL (
    SELECT
        coalesce(sum(u.events), 0) AS events,
        coalesce(sum(u.total), 0) AS total
    FROM rollups AS u
    WHERE
        u.customer_no = $1::bigint
        AND u.meter_no = m.meter_no
        AND u.grain >= $2::timestamptz
        AND u.grain < $2::timestamptz + interval '1 hour'
) AS r ON true
LEFT JOIN LATERAL (
    SELECT
        count(*) AS rejects,
        min(j.reason) AS reason
    FROM meter_rejects AS j
    WHERE
        j.customer_no = $1::bigint
        AND j.meter_no = m.meter_no
        AND j.time >= $2::timestamptz
        AND j.time < $2::timestamptz + interval '1 hour'
) AS x ON true
WHERE r.events > 0 OR x.rejects > 0
ORDER BY m.meter
LIMIT $3::integer;

-- why_charges_read --
-- What was charged beyond the wallet in an hour ($2) and is billed, or was taken back of it: the
-- latest $3, each with the sum of all.
SELECT
    b.seq, b.amount, b.effective_at, j.kind,
    count(*) OVER () AS charges,
    sum(b.amount) OVER () AS total
FROM billed_usage AS b
INNER JOIN journals AS j ON b.customer_no = j.customer_no AND b.seq = j.seq
WHERE
    b.customer_no = $1::bigint
    AND b.effective_at >= $2::timestamptz
    AND b.effective_at < $2::timestamptz + interval '1 hour'
ORDER BY b.effective_at DESC, b.seq DESC
LIMIT $3::integer;

-- why_items_read --
-- What is or was reported of a customer: the latest $2.
SELECT event_name, starts_at, ends_at
FROM report_items
WHERE customer_no = $1::bigint
ORDER BY item_no DESC
LIMIT $2::integer;

-- why_parts_read --
-- The parts of an hour ($2) that lie in one period of one item each (of name $3, if it is given):
-- what was measured, whether it is to be measured again, and what Stripe had counted of the hour.
-- Of an item whose period is not known, one row without.
SELECT
    i.item_no,
    i.event_name,
    i.subscription_id,
    m.meter,
    i.report_unit,
    coalesce(i.flush_at > s.starts_at, false) AS is_flushed,
    s.starts_at,
    s.ends_at,
    p.ends_at AS period_end,
    p.closed_at,
    p.invoice_id,
    round(w.amount / coalesce(i.report_unit, 1), 12) AS measured,
    u.hour IS NOT NULL AS is_marked,
    c.counted,
    c.seen_at
FROM report_items AS i
LEFT JOIN meters AS m ON i.meter_no = m.meter_no
LEFT JOIN
    report_periods AS p
    ON
        i.customer_no = p.customer_no
        AND i.item_no = p.item_no
        AND p.starts_at < $2::timestamptz + interval '1 hour'
        AND p.ends_at > $2::timestamptz
LEFT JOIN LATERAL (
    SELECT
        greatest($2::timestamptz, p.starts_at, i.starts_at) AS starts_at,
        least($2::timestamptz + interval '1 hour', p.ends_at, i.ends_at) AS ends_at
    WHERE p.starts_at IS NOT NULL
) AS s ON true
LEFT JOIN
    report_windows AS w
    ON i.customer_no = w.customer_no AND i.item_no = w.item_no AND s.starts_at = w.starts_at
LEFT JOIN
    unreported_usage AS u
    ON i.customer_no = u.customer_no AND i.meter_no = u.meter_no AND u.hour = $2::timestamptz
LEFT JOIN
    report_sums AS c
    ON
        i.customer_no = c.customer_no
        AND i.stripe_meter_id = c.stripe_meter_id
        AND i.stripe_customer_id = c.stripe_customer_id
        AND c.hour = $2::timestamptz
WHERE
    i.customer_no = $1::bigint
    AND ($3::text IS NULL OR i.event_name = $3::text)
    AND i.starts_at < $2::timestamptz + interval '1 hour'
    AND (i.ends_at IS NULL OR i.ends_at > greatest($2::timestamptz, i.starts_at))
    AND (s.starts_at IS NULL OR s.starts_at < s.ends_at)
ORDER BY i.event_name, s.starts_at, i.item_no;

-- why_states_read --
-- Where the pieces of an hour ($2) of some items ($3) stand, by the part of it that they tell and
-- their state: how much it is, and of the last of them why, and when it is tried again.
SELECT
    item_no,
    window_at,
    status,
    sum(value) AS value,
    max(seq) AS last_seq,
    (array_agg(error ORDER BY seq DESC, part DESC))[1] AS error,
    max(not_before) AS not_before
FROM report_rows
WHERE
    customer_no = $1::bigint
    AND item_no = any($3::bigint[])
    AND window_at >= $2::timestamptz
    AND window_at < $2::timestamptz + interval '1 hour'
GROUP BY item_no, window_at, status;

-- why_pieces_read --
-- The pieces of an hour ($2) of some items ($3): the latest $4.
SELECT item_no, identifier, value, status, created_at, sent_at, error
FROM report_rows
WHERE
    customer_no = $1::bigint
    AND item_no = any($3::bigint[])
    AND window_at >= $2::timestamptz
    AND window_at < $2::timestamptz + interval '1 hour'
ORDER BY created_at DESC, item_no DESC, window_at DESC, seq DESC, part DESC
LIMIT $4::integer;

-- why_paused_read --
-- Jobs that the clock does not run now, of some.
SELECT job
FROM job_leases
WHERE job = any($1::text[]) AND paused_at IS NOT NULL
ORDER BY job;
