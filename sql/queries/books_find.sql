-- Load what single requests name: charges to undo, lots, grants.

-- charges_load --
-- The charges to undo, with what each lot gave, the debt, its repayments, and the lots concerned.
SELECT
    (
        SELECT
            array_agg(row(
                j.customer_no, j.seq, j.effective_at, j.created_at, j.hold_no, j.is_late,
                n.reference, n.metadata, coalesce(r.reversed, 0), h.reference,
                (
                    SELECT c.asset
                    FROM charge_lines AS c
                    WHERE c.customer_no = j.customer_no AND c.seq = j.seq
                    LIMIT 1
                )
            ))
        FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, seq)
        INNER JOIN
            journals AS j
            ON k.customer_no = j.customer_no AND k.seq = j.seq AND j.kind = 'charge'
        LEFT JOIN notes AS n ON j.customer_no = n.customer_no AND j.seq = n.seq
        LEFT JOIN holds AS h ON j.customer_no = h.customer_no AND j.hold_no = h.hold_no
        LEFT JOIN
            reversed_charges AS r
            ON j.customer_no = r.customer_no AND j.seq = r.charge_seq
    ) AS charges,
    (
        SELECT
            array_agg(row(t.customer_no, t.seq, t.line, t.asset, t.debit, t.amount, t.lot_no))
        FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, seq)
        INNER JOIN
            transfers AS t
            ON k.customer_no = t.customer_no AND k.seq = t.seq AND t.credit = 'burned'
    ) AS draws,
    (
        SELECT
            array_agg(row(
                d.customer_no, d.debt_no, d.asset, d.charge_seq, d.amount, d.repaid, d.cancelled,
                d.returned, d.lot_no
            ))
        FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, seq)
        INNER JOIN debts AS d ON k.customer_no = d.customer_no AND k.seq = d.charge_seq
    ) AS debts,
    (
        SELECT array_agg(row(t.customer_no, d.charge_seq, t.seq, t.line, t.lot_no, t.amount))
        FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, seq)
        INNER JOIN debts AS d ON k.customer_no = d.customer_no AND k.seq = d.charge_seq
        INNER JOIN
            transfers AS t
            ON
                d.customer_no = t.customer_no
                AND d.debt_no = t.debt_no
                AND t.debit = 'wallet'
                AND t.credit = 'owed'
    ) AS payments;

-- lots_load --
-- Lots by number.
SELECT
    l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining, l.pinned,
    l.expired, l.voided, l.priority, l.effective_at, l.expires_at, l.created_at, l.is_upcoming,
    l.is_rollover, l.voided_at, l.cost_amount, l.currency, l.deferred_amount, l.deferred_units,
    l.purchase_no, l.clawback_due, l.written_off, l.lapsed
FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, lot_no)
INNER JOIN lots AS l ON k.customer_no = l.customer_no AND k.lot_no = l.lot_no;

-- grants_load --
-- Grants by number, for voiding and showing.
SELECT
    g.customer_no, g.grant_no, g.asset, g.amount, g.category, g.cost_amount, g.currency,
    g.priority, g.effective_at, g.expires_at, g.recur_interval, g.recur_count, g.recur_anchor,
    g.rollover_max, g.rollover_expires_in, g.next_start_at, g.voided_at, g.void_money, g.origin,
    g.has_purchase, g.journal_seq, g.created_at, n.reason, n.metadata
FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, grant_no)
INNER JOIN grants AS g ON k.customer_no = g.customer_no AND k.grant_no = g.grant_no
LEFT JOIN notes AS n ON g.customer_no = n.customer_no AND g.journal_seq = n.seq;

-- grants_lots_load --
-- The lots of grants that have not ended by $3 and are not voided, and the latest of each.
SELECT
    l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining, l.pinned,
    l.expired, l.voided, l.priority, l.effective_at, l.expires_at, l.created_at, l.is_upcoming,
    l.is_rollover, l.voided_at, l.cost_amount, l.currency, l.deferred_amount, l.deferred_units,
    l.purchase_no, l.clawback_due, l.written_off, l.lapsed
FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, grant_no)
INNER JOIN lots AS l ON k.customer_no = l.customer_no AND k.grant_no = l.grant_no
WHERE
    l.is_open
    OR (l.voided_at IS NULL AND (l.expires_at IS NULL OR l.expires_at > $3::timestamptz))
    OR l.lot_no = (
        SELECT max(o.lot_no)
        FROM lots AS o
        WHERE o.customer_no = k.customer_no AND o.grant_no = k.grant_no
    );
