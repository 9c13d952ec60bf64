-- Recognition of revenue: what left paid lots, what is noted of it, and who is still to be done.

-- moves_unrecognised --
-- The credit that left the paid lots of these customers since each was recognised last, by lot and
-- book day; what a void, refund, restore or rollover took of it has its own money half.
SELECT
    m.customer_no,
    m.lot_no,
    m.book_date,
    m.late_for,
    m.effective_at,
    m.burned,
    m.expired,
    m.voided,
    coalesce(r.revenue, 0) AS revenue,
    coalesce(r.breakage, 0) AS breakage,
    coalesce(r.returned, 0) AS returned,
    g.void_money
FROM (
    SELECT
        t.customer_no,
        t.lot_no,
        l.grant_no,
        j.book_date,
        j.late_for,
        max(j.effective_at) AS effective_at,
        sum(
            CASE
                WHEN t.debit = 'wallet' AND t.credit IN ('burned', 'owed') THEN t.amount
                WHEN t.credit = 'wallet' AND t.debit IN ('burned', 'owed') THEN -t.amount
                ELSE 0
            END
        ) AS burned,
        sum(
            CASE
                WHEN t.credit = 'expired' THEN t.amount
                WHEN t.debit = 'expired' THEN -t.amount
                ELSE 0
            END
        ) AS expired,
        sum(CASE WHEN t.credit = 'purchased' THEN t.amount ELSE 0 END) AS voided
    FROM customers AS c
    INNER JOIN journals AS j ON c.customer_no = j.customer_no AND c.recognised_seq < j.seq
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    INNER JOIN
        lots AS l
        ON t.customer_no = l.customer_no AND t.lot_no = l.lot_no AND l.cost_amount > 0
    LEFT JOIN recognitions AS n ON t.customer_no = n.customer_no AND t.lot_no = n.lot_no
    WHERE
        c.customer_no = any($1::bigint[])
        AND j.seq > coalesce(n.recognised_seq, 0)
        AND (t.debit = 'wallet' OR t.credit = 'wallet')
        AND (
            t.debit IN ('burned', 'owed', 'expired')
            OR t.credit IN ('burned', 'owed', 'expired')
            OR (
                t.credit = 'purchased'
                AND l.purchase_no IS NULL
                AND j.kind IN ('hold_end', 'charge', 'reversal')
            )
        )
    GROUP BY t.customer_no, t.lot_no, l.grant_no, j.book_date, j.late_for
) AS m
INNER JOIN grants AS g ON m.customer_no = g.customer_no AND m.grant_no = g.grant_no
LEFT JOIN recognitions AS r ON m.customer_no = r.customer_no AND m.lot_no = r.lot_no;

-- recognitions_add --
-- Adds to what is known of lots.
INSERT INTO recognitions AS r (customer_no, lot_no, revenue, breakage, returned, recognised_seq)
SELECT *
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]
)
ON CONFLICT (customer_no, lot_no) DO UPDATE SET
    revenue = r.revenue + excluded.revenue,
    breakage = r.breakage + excluded.breakage,
    returned = r.returned + excluded.returned,
    recognised_seq = greatest(r.recognised_seq, excluded.recognised_seq);

-- customers_recognised --
-- The last journal of customers whose money half is recognised.
UPDATE customers AS c SET recognised_seq = v.seq
FROM unnest($1::bigint[], $2::bigint[]) AS v (customer_no, seq)
WHERE c.customer_no = v.customer_no;

-- customers_unrecognised --
-- Customers after $1 with journals that are not recognised yet, at most $2.
SELECT customer_no FROM customers
WHERE customer_no > $1::bigint AND last_seq > recognised_seq
ORDER BY customer_no
LIMIT $2::integer;
