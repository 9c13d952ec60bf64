-- Usage told to Stripe: what is reported of whom, what was measured, and every piece that was told.

-- billed_before_read --
-- What was billed to a customer before the billing period that began at $2.
SELECT (
    coalesce((
        SELECT billed_debits - billed_credits
        FROM accounts
        WHERE customer_no = $1::bigint AND asset = 'credits'
    ), 0)
    - coalesce((
        SELECT sum(amount)
        FROM billed_usage
        WHERE customer_no = $1::bigint AND effective_at >= $2::timestamptz
    ), 0)
) AS billed_before;

-- report_items_open --
-- What is reported of a customer now.
SELECT item_no, subscription_id, event_name, starts_at
FROM report_items
WHERE customer_no = $1::bigint AND ends_at IS NULL
ORDER BY item_no;

-- report_item_begin --
-- One more thing is reported of a customer, since its subscription has it.
INSERT INTO report_items (
    customer_no, item_no, subscription_id, meter_no, report_unit, event_name, stripe_meter_id,
    stripe_customer_id, starts_at
)
SELECT
    $1::bigint,
    coalesce(max(item_no), 0) + 1,
    $2::text,
    CASE
        WHEN $3::text IS NULL THEN 0
        ELSE (SELECT meter_no FROM meters WHERE meter = $3::text)
    END,
    $4::bigint,
    $5::text,
    $6::text,
    $7::text,
    $8::timestamptz
FROM report_items
WHERE customer_no = $1::bigint
RETURNING item_no, meter_no, starts_at;

-- report_item_end --
-- Something is reported no more from $3 on, a whole second: what was used in it still is, unless a
-- period ends there. Nothing after that is of its periods.
WITH ended AS (
    UPDATE report_items AS i SET
        ends_at = greatest(
            i.starts_at,
            CASE
                WHEN EXISTS (
                    SELECT 1
                    FROM report_periods AS p
                    WHERE
                        p.customer_no = i.customer_no
                        AND p.item_no = i.item_no
                        AND p.ends_at = $3::timestamptz
                ) THEN $3::timestamptz
                ELSE date_trunc('second', $3::timestamptz) + interval '1 second'
            END
        )
    WHERE i.customer_no = $1::bigint AND i.item_no = $2::bigint AND i.ends_at IS NULL
    RETURNING i.customer_no, i.item_no, i.ends_at
)

UPDATE report_periods AS p SET ends_at = e.ends_at
FROM ended AS e
WHERE
    p.customer_no = e.customer_no
    AND p.item_no = e.item_no
    AND p.starts_at < e.ends_at
    AND p.ends_at > e.ends_at;

-- report_period_last --
-- The last period that is known of an item.
SELECT starts_at, ends_at
FROM report_periods
WHERE customer_no = $1::bigint AND item_no = $2::bigint
ORDER BY starts_at DESC
LIMIT 1;

-- report_period_put --
-- A period of an item and its price; one that another begins in ends there.
WITH cut AS (
    UPDATE report_periods SET ends_at = $3::timestamptz
    WHERE
        customer_no = $1::bigint
        AND item_no = $2::bigint
        AND starts_at < $3::timestamptz
        AND ends_at > $3::timestamptz
)

INSERT INTO report_periods AS p (customer_no, item_no, starts_at, ends_at, price_id)
VALUES ($1::bigint, $2::bigint, $3::timestamptz, $4::timestamptz, $5::text)
ON CONFLICT (customer_no, item_no, starts_at) DO UPDATE SET
    ends_at = excluded.ends_at, price_id = excluded.price_id
WHERE
    p.closed_at IS NULL
    AND (p.ends_at, p.price_id) IS DISTINCT FROM (excluded.ends_at, excluded.price_id);

-- report_item_mark --
-- All that was used since an item began is to be looked at.
INSERT INTO unreported_usage AS u (customer_no, meter_no, hour)
SELECT DISTINCT
    $1::bigint AS customer_no,
    $2::integer AS meter_no,
    date_trunc('hour', x.at, 'UTC') AS hour
FROM (
    SELECT grain AS at
    FROM rollups
    WHERE
        customer_no = $1::bigint
        AND meter_no = $2::integer
        AND grain >= $3::timestamptz - interval '15 minutes'
    UNION ALL
    SELECT effective_at AS at
    FROM billed_usage
    WHERE
        customer_no = $1::bigint AND $2::integer = 0 AND effective_at >= $3::timestamptz
) AS x
ORDER BY hour
ON CONFLICT (customer_no, meter_no, hour) DO UPDATE SET version = u.version + 1;

-- report_marks --
-- Hours to be looked at after ($4, $5, $6), in that order, at most $3: those that ended $2 ago,
-- those of periods that have ended and can still be billed, and those that are to be told at once.
SELECT u.hour, u.customer_no, u.meter_no, u.version
FROM unreported_usage AS u
WHERE
    (u.hour, u.customer_no, u.meter_no) > ($4::timestamptz, $5::bigint, $6::integer)
    AND (
        u.hour <= $1::timestamptz - $2::interval - interval '1 hour'
        OR (
            u.hour < $1::timestamptz
            AND EXISTS (
                SELECT 1
                FROM report_items AS i
                INNER JOIN
                    report_periods AS p
                    ON i.customer_no = p.customer_no AND i.item_no = p.item_no
                WHERE
                    i.customer_no = u.customer_no
                    AND i.meter_no = u.meter_no
                    AND p.closed_at IS NULL
                    AND p.ends_at > u.hour
                    AND (p.ends_at <= $1::timestamptz OR i.flush_at > u.hour)
            )
        )
    )
ORDER BY u.hour, u.customer_no, u.meter_no
LIMIT $3::integer;

-- report_fresh --
-- Hours of which all is plain, up to $3 of the oldest: measured, cut and no longer marked, at once.
-- Plain is an hour of a meter, ended $2 ago and not long ago, that lies whole in one item and one
-- open period, was never measured, and comes to more than nothing in at most $6 digits. $4: the
-- prefix of identifiers; $5: how old usage may be. How many hours those were.
WITH marks AS MATERIALIZED (
    SELECT u.customer_no, u.meter_no, u.hour, u.version
    FROM unreported_usage AS u
    WHERE
        u.meter_no > 0
        AND u.hour <= $1::timestamptz - $2::interval - interval '1 hour'
        AND u.hour >= $1::timestamptz - $5::interval
    ORDER BY u.hour, u.customer_no, u.meter_no
    LIMIT $3::integer
),

lying AS (
    SELECT
        m.customer_no,
        m.meter_no,
        m.hour,
        m.version,
        i.item_no,
        p.starts_at AS period_start,
        p.closed_at IS NULL
        AND i.flush_at IS NULL
        AND greatest(i.starts_at, p.starts_at) <= m.hour
        AND least(i.ends_at, p.ends_at) >= m.hour + interval '1 hour' AS is_whole,
        count(*) OVER (PARTITION BY m.customer_no, m.meter_no, m.hour) AS parts
    FROM marks AS m
    INNER JOIN
        report_items AS i
        ON
            m.customer_no = i.customer_no
            AND m.meter_no = i.meter_no
            AND i.starts_at < m.hour + interval '1 hour'
            AND (i.ends_at IS NULL OR i.ends_at > m.hour)
    LEFT JOIN
        report_periods AS p
        ON
            i.customer_no = p.customer_no
            AND i.item_no = p.item_no
            AND p.starts_at < m.hour + interval '1 hour'
            AND p.ends_at > m.hour
),

measured AS (
    SELECT
        l.customer_no,
        l.meter_no,
        l.hour,
        l.version,
        l.item_no,
        l.period_start,
        trim_scale(sum(CASE WHEN x.aggregation = 'count' THEN r.events ELSE r.total END)) AS amount
    FROM lying AS l
    INNER JOIN meters AS x ON l.meter_no = x.meter_no
    INNER JOIN
        rollups AS r
        ON
            l.customer_no = r.customer_no
            AND l.meter_no = r.meter_no
            AND r.grain >= l.hour
            AND r.grain < l.hour + interval '1 hour'
    LEFT JOIN
        report_windows AS w
        ON
            l.customer_no = w.customer_no
            AND l.item_no = w.item_no
            AND w.starts_at >= l.hour
            AND w.starts_at < l.hour + interval '1 hour'
    WHERE l.is_whole AND l.parts = 1 AND w.customer_no IS NULL
    GROUP BY l.customer_no, l.meter_no, l.hour, l.version, l.item_no, l.period_start
),

plain AS MATERIALIZED (
    SELECT *
    FROM measured
    WHERE
        amount > 0
        AND scale(amount) <= 12
        AND length(replace(amount::text, '.', '')) <= $6::integer
),

windows AS (
    INSERT INTO report_windows (customer_no, item_no, starts_at, ends_at, period_start, amount)
    SELECT customer_no, item_no, hour, hour + interval '1 hour', period_start, amount
    FROM plain
),

pieces AS (
    INSERT INTO report_rows (
        customer_no, item_no, window_at, seq, part, value, identifier, status, created_at
    )
    SELECT
        customer_no,
        item_no,
        hour,
        1,
        1,
        amount,
        concat_ws(
            '_', $4::text, customer_no, item_no, extract(EPOCH FROM hour)::bigint, 1, 1
        ),
        'due',
        $1::timestamptz
    FROM plain
),

done AS (
    DELETE FROM unreported_usage AS u
    USING plain AS p
    WHERE
        u.customer_no = p.customer_no
        AND u.meter_no = p.meter_no
        AND u.hour = p.hour
        AND u.version = p.version
)

SELECT count(*) FROM plain;

-- report_pieces --
-- The pieces of hours that lie in one period of one item each, and what was used in them; of an
-- hour of no item one row without one, of one whose period is not known one without a period.
SELECT
    m.customer_no,
    m.meter_no,
    m.hour,
    i.item_no,
    coalesce(i.flush_at > s.starts_at, false) AS is_flushed,
    p.starts_at AS period_start,
    p.ends_at AS period_end,
    s.starts_at,
    s.ends_at,
    CASE
        WHEN s.starts_at IS NULL THEN NULL
        WHEN m.meter_no = 0 THEN (
            SELECT coalesce(sum(b.amount), 0)
            FROM billed_usage AS b
            WHERE
                b.customer_no = m.customer_no
                AND b.effective_at >= s.starts_at
                AND b.effective_at < s.ends_at
        )
        ELSE (
            SELECT
                coalesce(
                    sum(CASE WHEN x.aggregation = 'count' THEN r.events ELSE r.total END), 0
                )
            FROM rollups AS r
            INNER JOIN meters AS x ON r.meter_no = x.meter_no
            WHERE
                r.customer_no = m.customer_no
                AND r.meter_no = m.meter_no
                AND r.grain >= s.starts_at
                AND r.grain < s.ends_at
        )
    END AS amount,
    (
        SELECT count(*) > 0
        FROM report_rows AS r
        WHERE
            r.customer_no = m.customer_no
            AND r.item_no = i.item_no
            AND r.window_at = s.starts_at
            AND r.status IN ('sending', 'unknown')
    ) AS is_busy
FROM
    unnest($1::text::bigint[], $2::text::integer[], $3::text::timestamptz[]) AS m (
        customer_no, meter_no, hour
    )
LEFT JOIN
    report_items AS i
    ON
        m.customer_no = i.customer_no
        AND m.meter_no = i.meter_no
        AND i.starts_at < m.hour + interval '1 hour'
        AND (i.ends_at IS NULL OR i.ends_at > greatest(m.hour, i.starts_at))
LEFT JOIN
    report_periods AS p
    ON
        i.customer_no = p.customer_no
        AND i.item_no = p.item_no
        AND p.starts_at < m.hour + interval '1 hour'
        AND p.ends_at > m.hour
LEFT JOIN LATERAL (
    SELECT
        greatest(m.hour, p.starts_at, i.starts_at) AS starts_at,
        least(m.hour + interval '1 hour', p.ends_at, i.ends_at) AS ends_at
    WHERE p.starts_at IS NOT NULL
) AS s ON true
WHERE s.starts_at IS NULL OR s.starts_at < s.ends_at
ORDER BY m.hour, m.customer_no, m.meter_no, s.starts_at;

-- report_windows_put --
-- What was measured.
INSERT INTO report_windows AS w (customer_no, item_no, starts_at, ends_at, period_start, amount)
SELECT * FROM unnest(
    $1::text::bigint[], $2::text::bigint[], $3::text::timestamptz[], $4::text::timestamptz[],
    $5::text::timestamptz[], $6::text::numeric[]
)
ON CONFLICT (customer_no, item_no, starts_at) DO UPDATE SET
    ends_at = excluded.ends_at, period_start = excluded.period_start, amount = excluded.amount;

-- report_marks_done --
-- Hours that were looked at, unless something has changed in them since.
DELETE FROM unreported_usage AS u
USING unnest(
    $1::text::bigint[], $2::text::integer[], $3::text::timestamptz[], $4::text::bigint[]
) AS d (customer_no, meter_no, hour, version)
WHERE
    u.customer_no = d.customer_no
    AND u.meter_no = d.meter_no
    AND u.hour = d.hour
    AND u.version = d.version;

-- report_deltas --
-- Of windows of meters ($1 … $3) what is to be told beside what was: twelve decimals at most.
SELECT
    w.customer_no, w.item_no, w.starts_at, w.ends_at,
    round(w.amount, 12) - w.settled - coalesce(r.told, 0) AS delta,
    coalesce(r.last_seq, 0) AS last_seq,
    coalesce(r.has_due, false) AS has_due,
    p.closed_at IS NOT NULL AS is_closed
FROM unnest($1::text::bigint[], $2::text::bigint[], $3::text::timestamptz[]) AS d (
    customer_no, item_no, starts_at
)
INNER JOIN
    report_windows AS w
    ON
        d.customer_no = w.customer_no AND d.item_no = w.item_no AND d.starts_at = w.starts_at
INNER JOIN
    report_periods AS p
    ON
        w.customer_no = p.customer_no
        AND w.item_no = p.item_no
        AND w.period_start = p.starts_at
LEFT JOIN LATERAL (
    SELECT
        coalesce(sum(x.value) FILTER (WHERE x.is_counted AND x.status <> 'due'), 0) AS told,
        coalesce(sum(x.value) FILTER (WHERE x.is_counted), 0) AS promised,
        max(x.seq) AS last_seq,
        bool_or(x.status = 'due') AS has_due
    FROM report_rows AS x
    WHERE x.customer_no = w.customer_no AND x.item_no = w.item_no AND x.window_at = w.starts_at
) AS r ON true
WHERE round(w.amount, 12) - w.settled <> coalesce(r.promised, 0);

-- report_overage_deltas --
-- The same of whole periods ($1 … $3) of usage beyond the wallet: in whole units of the running
-- total, and what is left over in the last window once the period has ended ($4: now), or where all
-- is to be told at once.
WITH wanted AS (
    SELECT
        w.customer_no,
        w.item_no,
        w.starts_at,
        w.ends_at,
        w.settled,
        w.period_start,
        p.closed_at,
        i.report_unit,
        sum(w.amount) OVER (
            PARTITION BY w.customer_no, w.item_no, w.period_start ORDER BY w.starts_at
        ) AS upto,
        (p.ends_at <= $4::timestamptz OR coalesce(i.flush_at > w.starts_at, false))
        AND lead(w.starts_at) OVER (
            PARTITION BY w.customer_no, w.item_no, w.period_start ORDER BY w.starts_at
        ) IS NULL AS is_last
    FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS d (
        customer_no, item_no, period_start
    )
    INNER JOIN
        report_windows AS w
        ON
            d.customer_no = w.customer_no
            AND d.item_no = w.item_no
            AND d.period_start = w.period_start
    INNER JOIN
        report_periods AS p
        ON
            w.customer_no = p.customer_no
            AND w.item_no = p.item_no
            AND w.period_start = p.starts_at
    INNER JOIN report_items AS i ON w.customer_no = i.customer_no AND w.item_no = i.item_no
),

units AS (
    SELECT
        *,
        CASE
            WHEN is_last THEN round(upto / report_unit, 12)
            ELSE div(upto, report_unit)
        END AS units_upto
    FROM wanted
),

targets AS (
    SELECT
        u.customer_no,
        u.item_no,
        u.starts_at,
        u.ends_at,
        u.closed_at,
        u.units_upto
        - coalesce(
            lag(u.units_upto) OVER (
                PARTITION BY u.customer_no, u.item_no, u.period_start ORDER BY u.starts_at
            ), 0
        ) - u.settled AS target
    FROM units AS u
)

SELECT
    t.customer_no, t.item_no, t.starts_at, t.ends_at,
    t.target - coalesce(r.told, 0) AS delta,
    coalesce(r.last_seq, 0) AS last_seq,
    coalesce(r.has_due, false) AS has_due,
    t.closed_at IS NOT NULL AS is_closed,
    coalesce(r.is_busy, false) AS is_busy
FROM targets AS t
LEFT JOIN LATERAL (
    SELECT
        coalesce(sum(x.value) FILTER (WHERE x.is_counted AND x.status <> 'due'), 0) AS told,
        coalesce(sum(x.value) FILTER (WHERE x.is_counted), 0) AS promised,
        max(x.seq) AS last_seq,
        bool_or(x.status = 'due') AS has_due,
        bool_or(x.status IN ('sending', 'unknown')) AS is_busy
    FROM report_rows AS x
    WHERE x.customer_no = t.customer_no AND x.item_no = t.item_no AND x.window_at = t.starts_at
) AS r ON true
WHERE t.target <> coalesce(r.promised, 0);

-- report_rows_supersede --
-- What was to be told of these windows and has not been: another piece takes its place.
UPDATE report_rows AS r SET status = 'superseded', settled_at = service_now_v1()
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS d (customer_no, item_no, window_at)
WHERE
    r.customer_no = d.customer_no
    AND r.item_no = d.item_no
    AND r.window_at = d.window_at
    AND r.status = 'due';

-- report_rows_add --
-- Pieces of usage to be told, or listed as what can't be told any more.
INSERT INTO report_rows (
    customer_no, item_no, window_at, seq, part, value, identifier, status, created_at
)
SELECT
    v.*,
    service_now_v1() AS created_at
FROM unnest(
    $1::text::bigint[], $2::text::bigint[], $3::text::timestamptz[], $4::text::integer[],
    $5::text::integer[], $6::text::numeric[], $7::text::text[], $8::text::text[]
) AS v;

-- report_mark --
-- An hour is to be looked at again.
INSERT INTO unreported_usage AS u (customer_no, meter_no, hour)
SELECT DISTINCT
    i.customer_no,
    i.meter_no,
    date_trunc('hour', d.window_at, 'UTC') AS hour
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS d (customer_no, item_no, window_at)
INNER JOIN report_items AS i ON d.customer_no = i.customer_no AND d.item_no = i.item_no
ORDER BY customer_no, meter_no, hour
ON CONFLICT (customer_no, meter_no, hour) DO UPDATE SET version = u.version + 1;

-- report_flush --
-- What a customer has used up to now is to be told at once, with what is left over of a unit; how
-- much is reported of it.
WITH flushed AS (
    UPDATE report_items SET flush_at = service_now_v1()
    WHERE customer_no = $1::bigint AND ends_at IS NULL
    RETURNING customer_no, item_no, meter_no
),

marked AS (
    INSERT INTO unreported_usage AS u (customer_no, meter_no, hour)
    SELECT DISTINCT
        f.customer_no,
        f.meter_no,
        date_trunc('hour', w.starts_at, 'UTC') AS hour
    FROM flushed AS f
    INNER JOIN LATERAL (
        SELECT max(x.starts_at) AS starts_at
        FROM report_windows AS x
        WHERE x.customer_no = f.customer_no AND x.item_no = f.item_no
    ) AS w ON w.starts_at IS NOT NULL
    WHERE f.meter_no = 0
    ON CONFLICT (customer_no, meter_no, hour) DO UPDATE SET version = u.version + 1
)

SELECT count(*)::integer AS items FROM flushed;

-- report_is_flushed --
-- Whether Stripe has been told all that a customer has used up to when that was asked for.
SELECT
    NOT EXISTS (
        SELECT 1 FROM report_rows WHERE customer_no = $1::bigint AND is_open
    )
    AND NOT EXISTS (
        SELECT 1
        FROM unreported_usage AS u
        INNER JOIN
            report_items AS i
            ON u.customer_no = i.customer_no AND u.meter_no = i.meter_no
        WHERE
            u.customer_no = $1::bigint
            AND i.ends_at IS NULL
            AND u.hour < i.flush_at
            AND i.starts_at < u.hour + interval '1 hour'
    ) AS is_flushed;

-- report_periods_ended --
-- Ended periods of usage beyond the wallet whose rest was not told yet.
SELECT p.customer_no, p.item_no, p.starts_at
FROM report_periods AS p
INNER JOIN report_items AS i ON p.customer_no = i.customer_no AND p.item_no = i.item_no
WHERE
    p.closed_at IS NULL
    AND NOT p.is_final
    AND p.ends_at <= $1::timestamptz
    AND i.meter_no = 0
ORDER BY p.ends_at, p.customer_no, p.item_no
LIMIT $2::integer;

-- report_periods_final --
-- The rest of these periods was told.
UPDATE report_periods AS p SET is_final = true
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS d (customer_no, item_no, starts_at)
WHERE
    p.customer_no = d.customer_no AND p.item_no = d.item_no AND p.starts_at = d.starts_at;

-- report_rows_take --
-- Takes pieces to be told, the oldest first, at most $2; what may have been told less than $3 ago
-- is told again under the same identifier.
UPDATE report_rows AS r SET
    status = 'sending',
    first_sent_at = coalesce(r.first_sent_at, $1::timestamptz),
    attempts = r.attempts + 1
FROM (
    SELECT customer_no, item_no, window_at, seq, part
    FROM report_rows
    WHERE
        is_open
        AND (not_before IS NULL OR not_before <= $1::timestamptz)
        AND (first_sent_at IS NULL OR first_sent_at > $1::timestamptz - $3::interval)
    ORDER BY created_at, customer_no, item_no, window_at, seq, part
    LIMIT $2::integer
) AS x
INNER JOIN report_items AS i ON x.customer_no = i.customer_no AND x.item_no = i.item_no
WHERE
    r.customer_no = x.customer_no
    AND r.item_no = x.item_no
    AND r.window_at = x.window_at
    AND r.seq = x.seq
    AND r.part = x.part
RETURNING
    r.customer_no, r.item_no, r.window_at, r.seq, r.part, r.value, r.identifier, r.attempts,
    r.first_sent_at = $1::timestamptz AS is_first, i.event_name, i.stripe_customer_id;

-- report_row_settle --
-- What has become of a piece: its state, why, and when it is tried again. What is due was not sent.
UPDATE report_rows SET
    status = $6::text,
    first_sent_at = CASE WHEN $6::text <> 'due' THEN first_sent_at END,
    error = $7::text,
    not_before = $8::timestamptz,
    sent_at = CASE WHEN $6::text = 'sent' THEN service_now_v1() ELSE sent_at END,
    settled_at = CASE
        WHEN $6::text IN ('due', 'unknown', 'sent') THEN NULL
        ELSE service_now_v1()
    END
WHERE
    customer_no = $1::bigint
    AND item_no = $2::bigint
    AND window_at = $3::timestamptz
    AND seq = $4::integer
    AND part = $5::integer
    AND status = 'sending';

-- report_row_reject --
-- A piece that was told is not counted by Stripe, for a reason.
UPDATE report_rows SET
    status = 'rejected', error = $6::text, settled_at = service_now_v1(), not_before = NULL
WHERE
    customer_no = $1::bigint
    AND item_no = $2::bigint
    AND window_at = $3::timestamptz
    AND seq = $4::integer
    AND part = $5::integer
    AND status IN ('sending', 'sent', 'unknown', 'confirmed')
RETURNING seq;

-- report_rejected_again --
-- Hours of pieces that were rejected $2 ago are measured again, once for each, and at most $3 times
-- for a window: somebody may have mended what was wrong. Answers how many.
WITH again AS (
    UPDATE report_rows AS r SET not_before = $1::timestamptz
    WHERE
        r.status = 'rejected'
        AND r.not_before IS NULL
        AND r.settled_at <= $1::timestamptz - $2::interval
        AND r.seq <= $3::integer
    RETURNING r.customer_no, r.item_no, r.window_at
),

marked AS (
    INSERT INTO unreported_usage AS u (customer_no, meter_no, hour)
    SELECT DISTINCT
        i.customer_no,
        i.meter_no,
        date_trunc('hour', a.window_at, 'UTC') AS hour
    FROM again AS a
    INNER JOIN report_items AS i ON a.customer_no = i.customer_no AND a.item_no = i.item_no
    ON CONFLICT (customer_no, meter_no, hour) DO UPDATE SET version = u.version + 1
    RETURNING hour
)

SELECT count(*)::integer AS hours FROM marked;

-- report_hours --
-- Hours of what was told at least $2 ago and is not confirmed, or whose fate is unknown for $3: at
-- most $4, after customer $5.
SELECT
    i.customer_no,
    i.stripe_customer_id,
    i.stripe_meter_id,
    min(date_trunc('hour', r.window_at, 'UTC')) AS since,
    max(date_trunc('hour', r.window_at, 'UTC')) + interval '1 hour' AS until
FROM report_rows AS r
INNER JOIN report_items AS i ON r.customer_no = i.customer_no AND r.item_no = i.item_no
WHERE
    r.customer_no > $5::bigint
    AND (
        (r.status = 'sent' AND r.sent_at <= $1::timestamptz - $2::interval)
        OR (r.is_open AND r.first_sent_at <= $1::timestamptz - $3::interval)
    )
GROUP BY i.customer_no, i.stripe_customer_id, i.stripe_meter_id
ORDER BY i.customer_no, i.stripe_meter_id
LIMIT $4::integer;

-- report_told --
-- By hour what was told of a customer under one meter of Stripe: surely, and perhaps; and since
-- when the latest is known to be sent.
SELECT
    date_trunc('hour', w.starts_at, 'UTC') AS hour,
    coalesce(sum(r.sure), 0) + sum(w.settled) AS sure,
    coalesce(sum(r.perhaps), 0) AS perhaps,
    coalesce(bool_or(r.is_young), false) AS is_young,
    max(r.sent_at) AS sent_at,
    min(w.starts_at) AS first_window,
    (array_agg(w.item_no ORDER BY w.starts_at))[1] AS first_item
FROM report_items AS i
INNER JOIN report_windows AS w ON i.customer_no = w.customer_no AND i.item_no = w.item_no
LEFT JOIN LATERAL (
    SELECT
        sum(x.value) FILTER (
            WHERE
            x.status IN ('sent', 'confirmed', 'billed')
            OR (x.status IN ('missed_invoice', 'next_invoice') AND x.sent_at IS NOT NULL)
        ) AS sure,
        sum(x.value) FILTER (
            WHERE x.status IN ('sending', 'unknown') AND x.first_sent_at <= $6::timestamptz
        ) AS perhaps,
        bool_or(x.status IN ('sending', 'unknown') AND x.first_sent_at > $6::timestamptz)
            AS is_young,
        max(x.sent_at) FILTER (WHERE x.status = 'sent') AS sent_at
    FROM report_rows AS x
    WHERE x.customer_no = w.customer_no AND x.item_no = w.item_no AND x.window_at = w.starts_at
) AS r ON true
WHERE
    i.customer_no = $1::bigint
    AND i.stripe_customer_id = $2::text
    AND i.stripe_meter_id = $3::text
    AND w.starts_at >= $4::timestamptz
    AND w.starts_at < $5::timestamptz
GROUP BY date_trunc('hour', w.starts_at, 'UTC')
ORDER BY hour;

-- report_sums_put --
-- What Stripe has counted of hours.
INSERT INTO report_sums AS s (
    customer_no, stripe_customer_id, stripe_meter_id, hour, counted, seen_at
)
SELECT
    $1::bigint,
    $2::text,
    $3::text,
    v.hour,
    v.counted::numeric,
    service_now_v1()
FROM unnest($4::timestamptz[], $5::text[]) AS v (hour, counted)
ON CONFLICT (customer_no, stripe_meter_id, stripe_customer_id, hour) DO UPDATE SET
    counted = excluded.counted, seen_at = excluded.seen_at;

-- report_hour_settle --
-- Pieces of an hour ($4) in state $5, told by then ($7), get the state $6; what is confirmed of a
-- closed period is billed, unless it was told after that; if it may have been told before as well,
-- that is not sure.
UPDATE report_rows AS r SET
    status = CASE
        WHEN $6::text <> 'confirmed' OR p.closed_at IS NULL THEN $6::text
        WHEN coalesce(r.sent_at, r.first_sent_at) >= p.closed_at THEN 'missed_invoice'
        ELSE 'billed'
    END,
    not_billed = CASE
        WHEN
            $6::text = 'confirmed' AND r.first_sent_at < p.closed_at AND r.sent_at >= p.closed_at
            THEN 'unsure'
    END,
    settled_at = service_now_v1(),
    not_before = NULL
FROM report_items AS i
INNER JOIN report_windows AS w ON i.customer_no = w.customer_no AND i.item_no = w.item_no
INNER JOIN
    report_periods AS p
    ON
        w.customer_no = p.customer_no
        AND w.item_no = p.item_no
        AND w.period_start = p.starts_at
WHERE
    r.customer_no = i.customer_no
    AND r.item_no = i.item_no
    AND r.window_at = w.starts_at
    AND i.customer_no = $1::bigint
    AND i.stripe_customer_id = $2::text
    AND i.stripe_meter_id = $3::text
    AND r.window_at >= $4::timestamptz
    AND r.window_at < $4::timestamptz + interval '1 hour'
    AND r.status = any($5::text[])
    AND r.first_sent_at <= $7::timestamptz
RETURNING r.customer_no, r.item_no, r.window_at, r.value;

-- report_window_settle --
-- What Stripe has counted in a window of pieces that it has not counted as told.
UPDATE report_windows SET settled = settled + $4::numeric
WHERE customer_no = $1::bigint AND item_no = $2::bigint AND starts_at = $3::timestamptz;

-- report_periods_unclosed --
-- Ended periods whose invoice may still change, to be looked at now ($1), by subscription.
SELECT
    i.customer_no,
    i.subscription_id,
    p.ends_at
FROM report_periods AS p
INNER JOIN report_items AS i ON p.customer_no = i.customer_no AND p.item_no = i.item_no
WHERE
    p.closed_at IS NULL
    AND p.ends_at <= $1::timestamptz
    AND (p.look_at IS NULL OR p.look_at <= $1::timestamptz)
GROUP BY i.customer_no, i.subscription_id, p.ends_at
ORDER BY p.ends_at, i.customer_no
LIMIT $2::integer;

-- report_period_close --
-- The periods of a subscription that ended at $3 are billed by an invoice that can't change any
-- more ($4, since $5); or it can (NULL), and that is looked at again at $6.
UPDATE report_periods AS p SET
    invoice_id = coalesce($4::text, p.invoice_id),
    closed_at = $5::timestamptz,
    look_at = $6::timestamptz
FROM report_items AS i
WHERE
    p.customer_no = i.customer_no
    AND p.item_no = i.item_no
    AND i.customer_no = $1::bigint
    AND i.subscription_id = $2::text
    AND p.ends_at = $3::timestamptz
    AND p.closed_at IS NULL
RETURNING p.customer_no, p.item_no, p.starts_at, p.ends_at;

-- report_rows_billed --
-- What was confirmed of periods that are closed is on their invoice; what was told after that ($5),
-- or is still to be told, is not; if it may have been told before as well, that is not sure.
UPDATE report_rows AS r SET
    status = CASE
        WHEN r.status = 'due' OR r.sent_at >= $5::timestamptz THEN 'missed_invoice' ELSE 'billed'
    END,
    not_billed = CASE
        WHEN r.first_sent_at < $5::timestamptz AND r.sent_at >= $5::timestamptz THEN 'unsure'
    END,
    settled_at = service_now_v1()
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[]) AS d (
    customer_no, item_no, starts_at, ends_at
)
WHERE
    r.customer_no = d.customer_no
    AND r.item_no = d.item_no
    AND r.window_at >= d.starts_at
    AND r.window_at < d.ends_at
    AND (
        r.status IN ('confirmed', 'due')
        OR (r.status = 'sent' AND r.sent_at >= $5::timestamptz)
    )
RETURNING r.identifier, r.status;

-- report_due_next --
-- When something of usage is to be told, compared or billed late next, after $1 ($2: the grace, $3:
-- how long after it was told, $4: after the last item); NULL: nothing is known to be.
SELECT min(x.at) AS due_at
FROM (
    SELECT hour + interval '1 hour' + $2::interval AS at FROM unreported_usage
    UNION ALL
    SELECT ends_at AS at FROM report_periods WHERE closed_at IS NULL
    UNION ALL
    SELECT look_at AS at FROM report_periods WHERE closed_at IS NULL
    UNION ALL
    SELECT not_before AS at FROM report_rows WHERE is_open
    UNION ALL
    SELECT sent_at + $3::interval AS at FROM report_rows WHERE status = 'sent'
    UNION ALL
    SELECT c.created_at + $4::interval AS at
    FROM report_rows AS m
    INNER JOIN report_rows AS r ON m.customer_no = r.customer_no AND m.item_no = r.item_no
    INNER JOIN stripe_calls AS c ON r.call_name = c.name
    WHERE m.status = 'missed_invoice' AND m.not_billed IS NULL
) AS x
WHERE x.at > $1::timestamptz;

-- report_work --
-- Whether there is usage to tell; and something told to compare, a period to close, or usage that
-- missed its invoice.
SELECT
    EXISTS (
        SELECT 1
        FROM unreported_usage
        WHERE hour + interval '1 hour' + $2::interval <= $1::timestamptz
    )
    OR EXISTS (
        SELECT 1 FROM report_periods WHERE closed_at IS NULL AND ends_at <= $1::timestamptz
    )
    OR EXISTS (
        SELECT 1
        FROM report_rows
        WHERE is_open AND (not_before IS NULL OR not_before <= $1::timestamptz)
    ) AS is_to_tell,
    EXISTS (
        SELECT 1
        FROM report_rows
        WHERE status = 'sent' AND sent_at <= $1::timestamptz - $3::interval
    )
    OR EXISTS (
        SELECT 1
        FROM report_periods
        WHERE
            closed_at IS NULL
            AND ends_at <= $1::timestamptz
            AND (look_at IS NULL OR look_at <= $1::timestamptz)
    )
    OR EXISTS (
        SELECT 1 FROM report_rows WHERE status = 'missed_invoice' AND not_billed IS NULL
    ) AS is_to_compare;

-- usage_reports_read --
-- Pieces of usage told to Stripe, the latest first, before ($5 … $9).
SELECT
    r.customer_no, c.customer_id, r.item_no, r.window_at, r.seq, r.part, r.value, r.identifier,
    r.status, r.created_at, r.sent_at, r.error, r.not_billed, i.event_name, i.subscription_id,
    m.meter, w.ends_at AS window_end, p.invoice_id, x.object_id AS invoice_item_id
FROM report_rows AS r
INNER JOIN report_items AS i ON r.customer_no = i.customer_no AND r.item_no = i.item_no
INNER JOIN customers AS c ON r.customer_no = c.customer_no
INNER JOIN
    report_windows AS w
    ON
        r.customer_no = w.customer_no AND r.item_no = w.item_no AND r.window_at = w.starts_at
LEFT JOIN
    report_periods AS p
    ON
        w.customer_no = p.customer_no
        AND w.item_no = p.item_no
        AND w.period_start = p.starts_at
LEFT JOIN meters AS m ON i.meter_no = m.meter_no
LEFT JOIN stripe_calls AS x ON r.call_name = x.name
WHERE
    ($1::bigint IS NULL OR r.customer_no = $1::bigint)
    AND ($2::text IS NULL OR r.status = $2::text)
    AND ($3::timestamptz IS NULL OR r.window_at >= $3::timestamptz)
    AND ($4::timestamptz IS NULL OR r.window_at < $4::timestamptz)
    AND (
        $5::timestamptz IS NULL
        OR (r.window_at, r.customer_no, r.item_no, r.seq, r.part)
        < ($5::timestamptz, $6::bigint, $7::bigint, $8::integer, $9::integer)
    )
ORDER BY r.window_at DESC, r.customer_no DESC, r.item_no DESC, r.seq DESC, r.part DESC
LIMIT $10::integer;

-- reconciliation_read --
-- By day of UTC, customer and name: what was used, what was told of it or can't be, and what Stripe
-- had counted when it was last asked. Of [$1, $2), of one customer if $3; what differs comes first,
-- at most $4.
WITH windows AS (
    SELECT
        w.customer_no,
        w.item_no,
        w.starts_at,
        date_trunc('day', w.starts_at, 'UTC') AS day,
        date_trunc('hour', w.starts_at, 'UTC') AS hour,
        round(w.amount / coalesce(i.report_unit, 1), 12) AS used,
        i.event_name,
        i.meter_no,
        i.stripe_meter_id,
        i.stripe_customer_id
    FROM report_windows AS w
    INNER JOIN report_items AS i ON w.customer_no = i.customer_no AND w.item_no = i.item_no
    WHERE
        w.starts_at >= $1::timestamptz
        AND w.starts_at < $2::timestamptz
        AND ($3::bigint IS NULL OR w.customer_no = $3::bigint)
),

told AS (
    SELECT
        w.*,
        coalesce(r.sure, 0) AS sure,
        coalesce(r.pending, 0) AS pending,
        coalesce(r.sent, 0) AS sent,
        r.sent_at,
        coalesce(r.missed, 0) AS missed,
        coalesce(r.carried_over, 0) AS carried_over,
        coalesce(r.missed_told, 0) AS missed_told,
        coalesce(r.carried_told, 0) AS carried_told,
        coalesce(r.unreportable, 0) AS unreportable,
        coalesce(r.rejected, 0) AS rejected,
        r.oldest_at
    FROM windows AS w
    LEFT JOIN LATERAL (
        SELECT
            sum(x.value) FILTER (WHERE x.status IN ('confirmed', 'billed')) AS sure,
            sum(x.value) FILTER (WHERE x.is_open) AS pending,
            sum(x.value) FILTER (WHERE x.status = 'sent') AS sent,
            max(x.sent_at) FILTER (WHERE x.status = 'sent') AS sent_at,
            -- What was told late Stripe may have counted, and it differs only if it has not.
            sum(x.value) FILTER (WHERE x.status = 'missed_invoice' AND x.sent_at IS NULL)
                AS missed,
            sum(x.value) FILTER (WHERE x.status = 'next_invoice' AND x.sent_at IS NULL)
                AS carried_over,
            sum(x.value) FILTER (WHERE x.status = 'missed_invoice' AND x.sent_at IS NOT NULL)
                AS missed_told,
            sum(x.value) FILTER (WHERE x.status = 'next_invoice' AND x.sent_at IS NOT NULL)
                AS carried_told,
            sum(x.value) FILTER (WHERE x.status = 'unreportable') AS unreportable,
            sum(x.value) FILTER (WHERE x.status = 'rejected') AS rejected,
            min(x.created_at) FILTER (
                WHERE x.status NOT IN ('confirmed', 'billed', 'superseded', 'next_invoice')
            ) AS oldest_at
        FROM report_rows AS x
        WHERE x.customer_no = w.customer_no AND x.item_no = w.item_no AND x.window_at = w.starts_at
    ) AS r ON true
),

days AS (
    SELECT
        t.day,
        t.customer_no,
        t.event_name,
        t.meter_no,
        sum(t.used) AS used,
        sum(t.sure) AS sure,
        sum(t.pending) AS pending,
        sum(t.sent) AS sent,
        max(t.sent_at) AS sent_at,
        sum(t.missed) AS missed,
        sum(t.carried_over) AS carried_over,
        sum(t.missed_told) AS missed_told,
        sum(t.carried_told) AS carried_told,
        sum(t.unreportable) AS unreportable,
        sum(t.rejected) AS rejected,
        min(t.oldest_at) AS oldest_at,
        count(*) FILTER (WHERE u.hour IS NOT NULL) AS marks,
        t.stripe_meter_id,
        t.stripe_customer_id
    FROM told AS t
    LEFT JOIN
        unreported_usage AS u
        ON t.customer_no = u.customer_no AND t.meter_no = u.meter_no AND t.hour = u.hour
    GROUP BY
        t.day, t.customer_no, t.event_name, t.meter_no, t.stripe_meter_id, t.stripe_customer_id
),

compared AS (
    SELECT
        d.*,
        coalesce(s.counted, 0) AS counted,
        s.seen_at
    FROM days AS d
    LEFT JOIN LATERAL (
        SELECT
            sum(x.counted) AS counted,
            min(x.seen_at) AS seen_at
        FROM report_sums AS x
        WHERE
            x.customer_no = d.customer_no
            AND x.stripe_meter_id = d.stripe_meter_id
            AND x.stripe_customer_id = d.stripe_customer_id
            AND x.hour >= d.day
            AND x.hour < d.day + interval '1 day'
    ) AS s ON true
)

SELECT
    d.day, d.customer_no, c.customer_id, d.event_name, m.meter, d.used, d.sure, d.pending, d.sent,
    d.sent_at, d.missed, d.carried_over, d.missed_told, d.carried_told, d.unreportable, d.rejected,
    d.oldest_at, d.marks, d.counted, d.seen_at,
    count(*) OVER () AS rows_count,
    count(*) FILTER (WHERE d.used = d.counted) OVER () AS agreed_count
FROM compared AS d
INNER JOIN customers AS c ON d.customer_no = c.customer_no
LEFT JOIN meters AS m ON d.meter_no = m.meter_no
ORDER BY d.used = d.counted, d.day, d.customer_no, d.event_name
LIMIT $4::integer;
