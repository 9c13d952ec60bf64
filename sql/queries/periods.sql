-- Months that are closed: begun, waited for, summarised, shown.

-- period_of_now --
-- The accounting day of now, and what is closed. Locks the row: one close begins at a time.
SELECT
    (service_now_v1() AT TIME ZONE books_time_zone)::date AS today,
    closed_through,
    service_now_v1() AS now
FROM installation
FOR NO KEY UPDATE;

-- period_read --
-- One month, closed or being closed.
SELECT
    period, starts_on, ends_on, began_at, closed_at, reason, failures, customers, journals,
    transfers, hash
FROM periods
WHERE period = $1::text;

-- period_open --
-- A month that is being closed and is not summarised.
SELECT period FROM periods WHERE closed_at IS NULL ORDER BY ends_on LIMIT 1;

-- period_begin --
-- Begins to close a month: from the commit on nothing new is booked up to its last day.
WITH begun AS (
    INSERT INTO periods (period, starts_on, ends_on, began_at)
    VALUES ($1::text, $2::date, $3::date, service_now_v1())
    RETURNING ends_on
)

UPDATE installation SET closed_through = begun.ends_on FROM begun;

-- snapshot_end --
-- The first transaction number that is not given yet: all before it may have read what was before.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text;

-- snapshot_passed --
-- Whether every transaction before $1 has ended.
SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8;

-- period_lock --
-- A month that is to be summarised, kept from others who want to; none if it was.
SELECT period FROM periods WHERE period = $1::text AND closed_at IS NULL FOR NO KEY UPDATE;

-- period_is_recognised --
-- Whether everything up to a day is recognised.
SELECT NOT EXISTS (
    SELECT 1
    FROM customers AS c
    INNER JOIN journals AS j ON c.customer_no = j.customer_no AND c.recognised_seq < j.seq
    WHERE c.last_seq > c.recognised_seq AND j.book_date <= $1::date
);

-- period_totals_make --
-- What a month moved of each account, over all customers.
INSERT INTO period_totals (period, asset, account, debits, credits)
SELECT
    p.period,
    t.asset,
    s.account,
    sum(s.debits) AS debits,
    sum(s.credits) AS credits
FROM periods AS p
INNER JOIN
    journals AS j
    ON j.book_date <= p.ends_on AND j.book_date >= coalesce(p.starts_on, '-infinity')
INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
CROSS JOIN
    LATERAL (VALUES (t.debit, t.amount, 0), (t.credit, 0, t.amount)) AS s (account, debits, credits)
WHERE p.period = $1::text
GROUP BY p.period, t.asset, s.account;

-- period_heads_make --
-- The last journal of every customer that has one.
INSERT INTO period_heads (customer_no, period, seq, hash)
SELECT customer_no, $1::text AS period, last_seq, last_hash
FROM customers
WHERE last_seq > 0
ORDER BY customer_no;

-- period_count --
-- How much there is of a month, and that it is closed. Its hash is added once this can be read.
UPDATE periods AS p SET
    closed_at = service_now_v1(),
    reason = $2::text,
    failures = $3::integer,
    customers = (SELECT count(*) FROM period_heads AS h WHERE h.period = p.period),
    journals = c.journals,
    transfers = c.transfers,
    hash = ''
FROM (
    SELECT
        count(*) AS journals,
        coalesce(sum(m.transfers), 0) AS transfers
    FROM periods AS q
    INNER JOIN
        journals AS j
        ON j.book_date <= q.ends_on AND j.book_date >= coalesce(q.starts_on, '-infinity')
    CROSS JOIN LATERAL (
        SELECT count(*) AS transfers
        FROM transfers AS t
        WHERE t.customer_no = j.customer_no AND t.seq = j.seq
    ) AS m
    WHERE q.period = $1::text
) AS c
WHERE p.period = $1::text;

-- period_hash --
-- The hash over all that a close has stored.
UPDATE periods SET hash = period_hash_v1(period) WHERE period = $1::text;

-- periods_read --
-- Months, the latest first, from before $1 (NULL: all), at most $2.
SELECT
    period, starts_on, ends_on, began_at, closed_at, reason, failures, customers, journals,
    transfers, hash
FROM periods
WHERE $1::date IS NULL OR ends_on < $1::date
ORDER BY ends_on DESC
LIMIT $2::integer;

-- period_totals_read --
-- What months moved of each account.
SELECT t.period, t.asset, t.account, t.debits, t.credits, a.scale
FROM period_totals AS t
INNER JOIN assets AS a ON t.asset = a.asset
WHERE t.period = any($1::text[])
ORDER BY t.period, t.asset, t.account;
