-- Usage that missed its invoice: what of it the subscription's next invoice bills, and why not.

-- late_usage_write_off --
-- What has missed its invoice is billed by no other.
UPDATE report_rows SET not_billed = 'written_off'
WHERE status = 'missed_invoice' AND not_billed IS NULL;

-- late_usage_ended --
-- What has missed its invoice of subscriptions that have ended: there is no next one.
UPDATE report_rows AS r SET not_billed = 'no_next_invoice'
FROM report_items AS i
LEFT JOIN
    subscriptions AS s
    ON i.customer_no = s.customer_no AND i.subscription_id = s.subscription_id AND s.is_live
WHERE
    r.status = 'missed_invoice'
    AND r.not_billed IS NULL
    AND r.customer_no = i.customer_no
    AND r.item_no = i.item_no
    AND s.subscription_id IS NULL
RETURNING r.identifier;

-- late_usage_periods --
-- Periods with usage that has missed their invoice, after ($4, $5, $6) and at most $3: those in
-- which the fate of every piece is known, and of which no item was made in the last $2 (now: $1).
-- And the version of the plan whose prices they have.
WITH late AS (
    SELECT DISTINCT
        w.customer_no,
        w.item_no,
        w.period_start
    FROM report_rows AS r
    INNER JOIN
        report_windows AS w
        ON
            r.customer_no = w.customer_no
            AND r.item_no = w.item_no
            AND r.window_at = w.starts_at
    WHERE
        r.status = 'missed_invoice'
        AND r.not_billed IS NULL
        AND (w.customer_no, w.item_no, w.period_start)
        > ($4::bigint, $5::bigint, $6::timestamptz)
)

SELECT
    l.customer_no,
    l.item_no,
    l.period_start,
    c.customer_id,
    i.event_name,
    i.subscription_id,
    i.stripe_customer_id,
    m.meter,
    x.plan,
    x.version
FROM late AS l
INNER JOIN report_items AS i ON l.customer_no = i.customer_no AND l.item_no = i.item_no
INNER JOIN customers AS c ON l.customer_no = c.customer_no
LEFT JOIN meters AS m ON i.meter_no = m.meter_no
LEFT JOIN LATERAL (
    -- A period that was never looked at has the price of the next one that was.
    SELECT
        a.plan,
        a.version
    FROM report_periods AS p
    INNER JOIN plan_item_prices AS a ON p.price_id = a.price_id
    WHERE
        p.customer_no = l.customer_no
        AND p.item_no = l.item_no
        AND p.starts_at >= l.period_start
        AND a.event_name = i.event_name
    ORDER BY p.starts_at
    LIMIT 1
) AS x ON true
WHERE
    NOT EXISTS (
        SELECT 1
        FROM report_windows AS w
        INNER JOIN
            report_rows AS r
            ON
                w.customer_no = r.customer_no
                AND w.item_no = r.item_no
                AND w.starts_at = r.window_at
        LEFT JOIN stripe_calls AS k ON r.call_name = k.name
        WHERE
            w.customer_no = l.customer_no
            AND w.item_no = l.item_no
            AND w.period_start = l.period_start
            AND (
                r.status IN ('due', 'sending', 'unknown', 'sent')
                OR k.created_at > $1::timestamptz - $2::interval
            )
    )
ORDER BY l.customer_no, l.item_no, l.period_start
LIMIT $3::integer;

-- late_usage_pieces --
-- What has missed the invoice of a period and is not decided, in order.
SELECT
    r.window_at,
    w.ends_at,
    r.seq,
    r.part,
    r.value,
    r.identifier
FROM report_rows AS r
INNER JOIN
    report_windows AS w
    ON
        r.customer_no = w.customer_no AND r.item_no = w.item_no AND r.window_at = w.starts_at
WHERE
    r.customer_no = $1::bigint
    AND r.item_no = $2::bigint
    AND w.period_start = $3::timestamptz
    AND r.status = 'missed_invoice'
    AND r.not_billed IS NULL
ORDER BY r.window_at, r.seq, r.part
LIMIT $4::integer;

-- late_usage_billed --
-- How much of a period is billed by its invoice, and by items since.
SELECT
    coalesce(sum(w.settled), 0)
    + coalesce(
        sum((
            SELECT sum(r.value)
            FROM report_rows AS r
            WHERE
                r.customer_no = w.customer_no
                AND r.item_no = w.item_no
                AND r.window_at = w.starts_at
                AND r.status IN ('confirmed', 'billed', 'next_invoice')
        )), 0
    ) AS billed
FROM report_windows AS w
WHERE
    w.customer_no = $1::bigint AND w.item_no = $2::bigint AND w.period_start = $3::timestamptz;

-- late_usage_carry --
-- These pieces are billed by the item that a call makes.
UPDATE report_rows AS r SET
    status = 'next_invoice', call_name = $3::text, settled_at = service_now_v1()
FROM unnest($4::timestamptz[], $5::integer[], $6::integer[]) AS d (window_at, seq, part)
WHERE
    r.customer_no = $1::bigint
    AND r.item_no = $2::bigint
    AND r.window_at = d.window_at
    AND r.seq = d.seq
    AND r.part = d.part
    AND r.status = 'missed_invoice'
    AND r.not_billed IS NULL;

-- late_usage_no_price --
-- What these pieces cost is not known.
UPDATE report_rows AS r SET not_billed = 'no_price'
FROM unnest($3::timestamptz[], $4::integer[], $5::integer[]) AS d (window_at, seq, part)
WHERE
    r.customer_no = $1::bigint
    AND r.item_no = $2::bigint
    AND r.window_at = d.window_at
    AND r.seq = d.seq
    AND r.part = d.part
    AND r.status = 'missed_invoice';

-- late_usage_refused --
-- Stripe does not make an item, for a reason: what it was to bill has missed its invoice again.
UPDATE report_rows SET status = 'missed_invoice', not_billed = 'refused', error = $3::text
WHERE customer_no = $1::bigint AND call_name = $2::text AND status = 'next_invoice'
RETURNING identifier;
