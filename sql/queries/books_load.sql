-- Lock and load the books of a batch of requests: the first half of the hot path.

-- customers_lock_free --
-- Locks those customers of the batch that nobody else holds, in ascending order. The others are
-- left out, so a batch never waits while it holds locks.
SELECT
    customer_no, customer_id, overage_policy, overage_limit, signup_due, closed_at, last_no,
    last_seq, last_hash, last_created_at, next_due_at, created_at, gated_from, has_own_overage,
    unbilled_from, billed_before, plan_until
FROM customers
WHERE customer_no = any($1::text::bigint[])
ORDER BY customer_no
FOR NO KEY UPDATE SKIP LOCKED;

-- customers_lock --
-- Locks customers in ascending order, waiting for each up to lock_timeout.
SELECT
    customer_no, customer_id, overage_policy, overage_limit, signup_due, closed_at, last_no,
    last_seq, last_hash, last_created_at, next_due_at, created_at, gated_from, has_own_overage,
    unbilled_from, billed_before, plan_until
FROM customers
WHERE customer_no = any($1::text::bigint[])
ORDER BY customer_no
FOR NO KEY UPDATE;

-- customers_share --
-- For a read of a past moment: no write of this customer may be under way.
SELECT
    customer_no, customer_id, overage_policy, overage_limit, signup_due, closed_at, last_no,
    last_seq, last_hash, last_created_at, next_due_at, created_at, gated_from, has_own_overage,
    unbilled_from, billed_before, plan_until
FROM customers
WHERE customer_no = any($1::text::bigint[])
ORDER BY customer_no
FOR SHARE;

-- customers_read --
-- The customers' rows without a lock, for reads.
SELECT
    customer_no, customer_id, overage_policy, overage_limit, signup_due, closed_at, last_no,
    last_seq, last_hash, last_created_at, next_due_at, created_at, gated_from, has_own_overage,
    unbilled_from, billed_before, plan_until
FROM customers
WHERE customer_no = any($1::text::bigint[])
ORDER BY customer_no;

-- books_load --
-- What deciding usually needs of locked customers, in one row: the time, what is closed, which of
-- the API keys are no longer good, answers already given, accounts, the first lots in burn order
-- ($5 an asset, by customer), the oldest open debts ($6 an asset).
SELECT
    service_now_v1() AS now,
    (SELECT closed_through FROM installation) AS closed_through,
    (SELECT array_agg(row(a.asset, a.scale)) FROM assets AS a WHERE NOT a.is_money) AS scales,
    (
        SELECT array_agg(k.key_no)
        FROM api_keys AS k
        LEFT JOIN api_keys AS p ON k.parent_no = p.key_no
        WHERE
            k.key_no = any($4::text::bigint[])
            AND (
                k.revoked_at IS NOT NULL
                OR p.revoked_at IS NOT NULL
                OR k.expires_at <= service_now_v1()
                OR p.expires_at <= service_now_v1()
            )
    ) AS dead_keys,
    (
        SELECT array_agg(row(r.customer_no, r.key, r.fingerprint, r.status, r.body))
        FROM unnest($2::text::bigint[], $3::text[]) AS k (customer_no, key)
        INNER JOIN requests AS r ON k.customer_no = r.customer_no AND k.key = r.key
    ) AS answered,
    (
        SELECT
            array_agg(row(
                customer_no, asset, (wallet_credits - wallet_debits)::text, wallet_pending::text,
                (upcoming_credits - upcoming_debits)::text, (owed_debits - owed_credits)::text,
                (billed_debits - billed_credits)::text, uncovered_owe::text, uncovered_bill::text
            ))
        FROM accounts
        WHERE customer_no = any($1::text::bigint[])
    ) AS accounts,
    (
        SELECT
            array_agg(row(
                l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining,
                l.pinned, l.expired, l.voided, l.priority, l.effective_at, l.expires_at,
                l.created_at, l.is_upcoming, l.is_rollover, l.voided_at, l.cost_amount, l.currency,
                l.deferred_amount, l.deferred_units, l.purchase_no, l.clawback_due, l.written_off,
                l.lapsed
            ))
        FROM unnest($1::text::bigint[], $5::text::integer[]) AS k (customer_no, lots_max)
        INNER JOIN accounts AS a ON k.customer_no = a.customer_no
        CROSS JOIN LATERAL (
            SELECT *
            FROM lots
            WHERE
                lots.customer_no = a.customer_no
                AND lots.asset = a.asset
                AND lots.is_open
                AND NOT lots.is_upcoming
                AND lots.remaining > lots.pinned
                AND lots.voided_at IS NULL
            ORDER BY
                lots.priority, lots.expires_at, lots.category DESC, lots.effective_at,
                lots.created_at, lots.lot_no
            LIMIT k.lots_max
        ) AS l
    ) AS lots,
    (
        SELECT
            array_agg(row(
                d.customer_no, d.debt_no, d.asset, d.charge_seq, d.amount, d.repaid, d.cancelled,
                d.returned, d.lot_no
            ))
        FROM accounts AS a
        CROSS JOIN LATERAL (
            SELECT *
            FROM debts
            WHERE
                debts.customer_no = a.customer_no AND debts.asset = a.asset AND debts.is_open
            ORDER BY debts.debt_no
            LIMIT $6::integer
        ) AS d
        WHERE a.customer_no = any($1::text::bigint[]) AND a.owed_debits > a.owed_credits
    ) AS debts;

-- holds_load --
-- The holds that are named, the lots they pin and what was captured of them: one row beside that of
-- `books_load`, in the same statement (`sql/together.py`).
SELECT
    (
        SELECT
            array_agg(row(
                h.customer_no, h.hold_no, h.asset, h.status, h.requested, h.amount, h.captured,
                h.uncovered, h.policy, array_to_string(h.pin_lots, ','),
                array_to_string(h.pin_amounts, ','), h.steps, h.expires_at, h.created_at,
                h.ended_at, h.ended_created_at, h.reference, h.metadata, h.rate_card,
                h.rate_version
            ))
        FROM unnest($1::text::bigint[], $2::text::bigint[]) AS k (customer_no, hold_no)
        INNER JOIN holds AS h ON k.customer_no = h.customer_no AND k.hold_no = h.hold_no
    ) AS holds,
    (
        SELECT
            array_agg(row(
                l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining,
                l.pinned, l.expired, l.voided, l.priority, l.effective_at, l.expires_at,
                l.created_at, l.is_upcoming, l.is_rollover, l.voided_at, l.cost_amount, l.currency,
                l.deferred_amount, l.deferred_units, l.purchase_no, l.clawback_due, l.written_off,
                l.lapsed
            ))
        FROM unnest($1::text::bigint[], $2::text::bigint[]) AS k (customer_no, hold_no)
        INNER JOIN
            holds AS h
            ON k.customer_no = h.customer_no AND k.hold_no = h.hold_no AND h.is_open
        CROSS JOIN LATERAL unnest(h.pin_lots) AS p (lot_no)
        INNER JOIN lots AS l ON h.customer_no = l.customer_no AND p.lot_no = l.lot_no
    ) AS pinned_lots,
    (
        SELECT array_agg(row(h.customer_no, h.hold_no, c.seq, c.amount, c.created_at))
        FROM unnest($1::text::bigint[], $2::text::bigint[]) AS k (customer_no, hold_no)
        INNER JOIN
            holds AS h
            ON k.customer_no = h.customer_no AND k.hold_no = h.hold_no AND h.captured > 0
        CROSS JOIN LATERAL (
            SELECT
                j.seq,
                j.created_at,
                (
                    SELECT coalesce(sum(t.amount), 0)::bigint
                    FROM transfers AS t
                    WHERE
                        t.customer_no = j.customer_no AND t.seq = j.seq AND t.credit = 'burned'
                ) AS amount
            FROM journals AS j
            WHERE
                j.customer_no = h.customer_no AND j.hold_no = h.hold_no AND j.kind = 'charge'
            ORDER BY j.seq DESC
            LIMIT 20
        ) AS c
    ) AS hold_charges;

-- books_load_due --
-- What time has done by $2 to these customers, and when it does more: due holds and their lots,
-- lots
-- that end or start, open series, open debts. $3: most holds and lots of each, $4: most debts.
SELECT
    (
        SELECT
            array_agg(row(
                h.customer_no, h.hold_no, h.asset, h.status, h.requested, h.amount, h.captured,
                h.uncovered, h.policy, array_to_string(h.pin_lots, ','),
                array_to_string(h.pin_amounts, ','), h.steps, h.expires_at, h.created_at,
                h.ended_at, h.ended_created_at, h.reference, h.metadata, h.rate_card,
                h.rate_version
            ))
        FROM unnest($1::bigint[]) AS k (customer_no)
        CROSS JOIN LATERAL (
            SELECT *
            FROM holds
            WHERE
                holds.customer_no = k.customer_no
                AND holds.is_open
                AND holds.expires_at <= $2::timestamptz
            ORDER BY holds.expires_at
            LIMIT $3::integer
        ) AS h
    ) AS holds,
    (
        SELECT
            array_agg(row(
                l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining,
                l.pinned, l.expired, l.voided, l.priority, l.effective_at, l.expires_at,
                l.created_at, l.is_upcoming, l.is_rollover, l.voided_at, l.cost_amount, l.currency,
                l.deferred_amount, l.deferred_units, l.purchase_no, l.clawback_due, l.written_off,
                l.lapsed
            ))
        FROM unnest($1::bigint[]) AS k (customer_no)
        CROSS JOIN LATERAL (
            SELECT
                holds.customer_no,
                holds.pin_lots
            FROM holds
            WHERE
                holds.customer_no = k.customer_no
                AND holds.is_open
                AND holds.expires_at <= $2::timestamptz
            ORDER BY holds.expires_at
            LIMIT $3::integer
        ) AS h
        CROSS JOIN LATERAL unnest(h.pin_lots) AS p (lot_no)
        INNER JOIN lots AS l ON h.customer_no = l.customer_no AND p.lot_no = l.lot_no
    ) AS pinned_lots,
    (
        SELECT
            array_agg(row(
                l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining,
                l.pinned, l.expired, l.voided, l.priority, l.effective_at, l.expires_at,
                l.created_at, l.is_upcoming, l.is_rollover, l.voided_at, l.cost_amount, l.currency,
                l.deferred_amount, l.deferred_units, l.purchase_no, l.clawback_due, l.written_off,
                l.lapsed
            ))
        FROM unnest($1::bigint[]) AS k (customer_no)
        CROSS JOIN LATERAL (
            SELECT *
            FROM lots
            WHERE
                lots.customer_no = k.customer_no
                AND lots.is_open
                AND lots.expires_at <= $2::timestamptz
                AND lots.remaining > lots.pinned
                AND lots.voided_at IS NULL
            ORDER BY lots.expires_at
            LIMIT $3::integer
        ) AS l
    ) AS ending_lots,
    (
        SELECT
            array_agg(row(
                l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining,
                l.pinned, l.expired, l.voided, l.priority, l.effective_at, l.expires_at,
                l.created_at, l.is_upcoming, l.is_rollover, l.voided_at, l.cost_amount, l.currency,
                l.deferred_amount, l.deferred_units, l.purchase_no, l.clawback_due, l.written_off,
                l.lapsed
            ))
        FROM unnest($1::bigint[]) AS k (customer_no)
        CROSS JOIN LATERAL (
            SELECT *
            FROM lots
            WHERE
                lots.customer_no = k.customer_no
                AND lots.is_upcoming
                AND lots.effective_at <= $2::timestamptz
            ORDER BY lots.effective_at
            LIMIT $3::integer
        ) AS l
    ) AS starting_lots,
    (
        SELECT
            array_agg(row(
                g.customer_no, g.grant_no, g.asset, g.amount, g.category, g.cost_amount,
                g.currency, g.priority, g.effective_at, g.expires_at, g.recur_interval,
                g.recur_count, g.recur_anchor, g.rollover_max, g.rollover_expires_in,
                g.next_start_at, g.voided_at, g.void_money, g.origin, g.has_purchase,
                g.journal_seq, g.created_at
            ))
        FROM grants AS g
        WHERE g.customer_no = any($1::bigint[]) AND g.next_start_at IS NOT NULL
    ) AS series,
    (
        SELECT
            array_agg(row(
                d.customer_no, d.debt_no, d.asset, d.charge_seq, d.amount, d.repaid, d.cancelled,
                d.returned, d.lot_no
            ))
        FROM unnest($1::bigint[]) AS k (customer_no)
        CROSS JOIN LATERAL (
            SELECT *
            FROM debts
            WHERE debts.customer_no = k.customer_no AND debts.is_open
            ORDER BY debts.customer_no, debts.asset, debts.debt_no
            LIMIT $4::integer
        ) AS d
    ) AS debts,
    (
        SELECT
            array_agg(row(
                k.customer_no,
                least(
                    (
                        SELECT min(h.expires_at)
                        FROM holds AS h
                        WHERE
                            h.customer_no = k.customer_no
                            AND h.is_open
                            AND h.expires_at > $2::timestamptz
                    ),
                    (
                        SELECT min(l.expires_at)
                        FROM lots AS l
                        WHERE
                            l.customer_no = k.customer_no
                            AND l.is_open
                            AND l.expires_at > $2::timestamptz
                    ),
                    (
                        SELECT min(l.effective_at)
                        FROM lots AS l
                        WHERE
                            l.customer_no = k.customer_no
                            AND l.is_upcoming
                            AND l.effective_at > $2::timestamptz
                    )
                )
            ))
        FROM unnest($1::bigint[]) AS k (customer_no)
    ) AS later;

-- lots_load_open --
-- All open lots of these customers in burn order, at most $2 of each.
SELECT
    l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining, l.pinned,
    l.expired, l.voided, l.priority, l.effective_at, l.expires_at, l.created_at, l.is_upcoming,
    l.is_rollover, l.voided_at, l.cost_amount, l.currency, l.deferred_amount, l.deferred_units,
    l.purchase_no, l.clawback_due, l.written_off, l.lapsed
FROM unnest($1::bigint[]) AS k (customer_no)
CROSS JOIN LATERAL (
    SELECT *
    FROM lots
    WHERE lots.customer_no = k.customer_no AND lots.is_open
    LIMIT $2::integer
) AS l;

-- lots_load_expired --
-- Lots of these customers of which something expired in the 36 days before $2.
SELECT
    l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining, l.pinned,
    l.expired, l.voided, l.priority, l.effective_at, l.expires_at, l.created_at, l.is_upcoming,
    l.is_rollover, l.voided_at, l.cost_amount, l.currency, l.deferred_amount, l.deferred_units,
    l.purchase_no, l.clawback_due, l.written_off, l.lapsed
FROM lots AS l
WHERE
    l.customer_no = any($1::bigint[])
    AND l.has_expired
    AND l.expires_at > $2::timestamptz - interval '36 days'
LIMIT $3::integer;
