-- What callers and support read: nothing here writes, and nothing walks a customer's whole history.

-- lots_spendable --
-- The first open lots of one asset whose credit is in the wallet, in burn order.
SELECT
    l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining, l.pinned,
    l.expired, l.voided, l.priority, l.effective_at, l.expires_at, l.created_at, l.is_upcoming,
    l.is_rollover, l.voided_at, l.cost_amount, l.currency, l.deferred_amount, l.deferred_units,
    l.purchase_no, l.clawback_due, l.written_off, l.lapsed
FROM lots AS l
WHERE
    l.customer_no = $1::bigint AND l.asset = $2::text AND l.is_open AND NOT l.is_upcoming
ORDER BY
    l.priority, l.expires_at, l.category DESC, l.effective_at, l.created_at, l.lot_no
LIMIT $3::integer;

-- lots_expired_latest --
-- The lots of one asset whose credit ran out last.
SELECT
    l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining, l.pinned,
    l.expired, l.voided, l.priority, l.effective_at, l.expires_at, l.created_at, l.is_upcoming,
    l.is_rollover, l.voided_at, l.cost_amount, l.currency, l.deferred_amount, l.deferred_units,
    l.purchase_no, l.clawback_due, l.written_off, l.lapsed
FROM lots AS l
WHERE
    l.customer_no = $1::bigint AND l.asset = $2::text AND l.has_expired
ORDER BY l.expires_at DESC
LIMIT $3::integer;

-- holds_due_more --
-- Open holds whose deadline has passed by $2, earliest first, but for those known already.
SELECT
    h.customer_no, h.hold_no, h.asset, h.status, h.requested, h.amount, h.captured, h.uncovered,
    h.policy, array_to_string(h.pin_lots, ','), array_to_string(h.pin_amounts, ','), h.steps,
    h.expires_at, h.created_at, h.ended_at, h.ended_created_at, h.reference, h.metadata,
    h.rate_card, h.rate_version
FROM holds AS h
WHERE
    h.customer_no = $1::bigint
    AND h.is_open
    AND h.expires_at <= $2::timestamptz
    AND h.hold_no <> all($3::bigint[])
ORDER BY h.expires_at, h.hold_no
LIMIT $4::integer;

-- debts_open_more --
-- Open debts after debt $2, oldest first.
SELECT
    d.customer_no, d.debt_no, d.asset, d.charge_seq, d.amount, d.repaid, d.cancelled, d.returned,
    d.lot_no
FROM debts AS d
WHERE
    d.customer_no = $1::bigint
    AND d.is_open
    AND d.debt_no > $2::bigint
ORDER BY d.debt_no
LIMIT $3::integer;

-- holds_ending_next --
-- Open holds of one asset, the nearest deadline first.
SELECT
    h.customer_no, h.hold_no, h.asset, h.status, h.requested, h.amount, h.captured, h.uncovered,
    h.policy, array_to_string(h.pin_lots, ','), array_to_string(h.pin_amounts, ','), h.steps,
    h.expires_at, h.created_at, h.ended_at, h.ended_created_at, h.reference, h.metadata,
    h.rate_card, h.rate_version
FROM holds AS h
WHERE
    h.customer_no = $1::bigint
    AND h.is_open
    AND h.expires_at > $3::timestamptz
    AND h.asset = $2::text
ORDER BY h.expires_at, h.hold_no
LIMIT $4::integer;

-- holds_list --
-- Numbers of holds below $2, newest first.
SELECT hold_no
FROM holds
WHERE customer_no = $1::bigint AND hold_no < $2::bigint
ORDER BY hold_no DESC
LIMIT $3::integer;

-- holds_list_open --
-- Numbers of open holds below $2, newest first: all open ones are looked at, and no other.
WITH open_holds AS MATERIALIZED (
    SELECT hold_no
    FROM holds
    WHERE
        customer_no = $1::bigint AND is_open AND expires_at > (SELECT service_now_v1())
)

SELECT hold_no
FROM open_holds
WHERE hold_no < $2::bigint
ORDER BY hold_no DESC
LIMIT $3::integer;

-- holds_list_ended --
-- Numbers of holds below $2 with status $4 (an open one past its deadline has expired), newest
-- first, among the next $5 holds only; with each row how far that went, and how many those were.
WITH recent AS MATERIALIZED (
    SELECT
        hold_no,
        CASE
            WHEN is_open AND expires_at <= (SELECT service_now_v1()) THEN 'expired'
            ELSE status
        END AS status
    FROM holds
    WHERE customer_no = $1::bigint AND hold_no < $2::bigint
    ORDER BY hold_no DESC
    LIMIT $5::integer
),

seen AS (SELECT min(hold_no) AS lowest, count(*) AS seen_count FROM recent),

found AS (
    SELECT hold_no
    FROM recent
    WHERE status = $4::text
    ORDER BY hold_no DESC
    LIMIT $3::integer
)

SELECT
    found.hold_no,
    seen.lowest,
    seen.seen_count
FROM seen
LEFT JOIN found ON true
ORDER BY found.hold_no DESC;

-- grants_list --
-- Numbers of grants below $2, newest first.
SELECT grant_no
FROM grants
WHERE customer_no = $1::bigint AND grant_no < $2::bigint
ORDER BY grant_no DESC
LIMIT $3::integer;

-- journals_bounds --
-- The numbers before the first and of the last journal created in [$2, $3).
SELECT
    CASE
        WHEN $2::timestamptz IS NULL THEN 0
        ELSE journal_seq_at_v1(c.customer_no, $2::timestamptz - interval '1 microsecond')
    END AS seq_before,
    CASE
        WHEN $3::timestamptz IS NULL THEN c.last_seq
        ELSE journal_seq_at_v1(c.customer_no, $3::timestamptz - interval '1 microsecond')
    END AS seq_last
FROM customers AS c
WHERE c.customer_no = $1::bigint;

-- journals_list --
-- Numbers of the journals between $2 and $3 (both left out), of kind $5 if given, newest first.
SELECT seq
FROM journals
WHERE
    customer_no = $1::bigint
    AND seq > $2::bigint
    AND seq < $3::bigint
    AND ($5::text IS NULL OR kind = $5::text)
ORDER BY seq DESC
LIMIT $4::integer;

-- journals_list_of_hold --
-- Numbers of the charges of hold $5 between $2 and $3 (both left out), newest first.
SELECT seq
FROM journals
WHERE
    customer_no = $1::bigint
    AND hold_no = $5::bigint
    AND kind = 'charge'
    AND seq > $2::bigint
    AND seq < $3::bigint
ORDER BY seq DESC
LIMIT $4::integer;

-- journals_read --
-- Journals by number, with their texts and transfers, newest first.
SELECT
    j.seq,
    j.kind,
    j.effective_at,
    j.created_at,
    j.book_date,
    j.late_for,
    j.hold_no,
    j.grant_no,
    j.lot_no,
    j.charge_seq,
    j.is_late,
    j.origin,
    j.request_key,
    j.prev_hash,
    j.hash,
    n.reference,
    n.reason,
    n.metadata,
    (
        SELECT
            array_agg(row(t.asset, t.debit, t.credit, t.amount, t.lot_no) ORDER BY t.line)
        FROM transfers AS t
        WHERE t.customer_no = j.customer_no AND t.seq = j.seq
    ) AS transfers
FROM unnest($2::bigint[]) AS k (seq)
INNER JOIN journals AS j ON k.seq = j.seq
LEFT JOIN notes AS n ON j.customer_no = n.customer_no AND j.seq = n.seq
WHERE j.customer_no = $1::bigint
ORDER BY j.seq DESC;

-- request_read --
-- A request that has its answer.
SELECT operation, status, body, created_at
FROM requests
WHERE customer_no = $1::bigint AND key = $2::text;

-- refusals_latest --
-- The latest requests of a customer that were refused for want of credit or by the state: no other
-- refusals are remembered.
SELECT created_at, operation, key, status, body
FROM requests
WHERE customer_no = $1::bigint AND status >= 400
ORDER BY created_at DESC
LIMIT $2::integer;

-- account_totals --
-- What was ever moved in one asset, net, by account on its normal side.
SELECT
    wallet_credits - wallet_debits AS wallet,
    upcoming_credits - upcoming_debits AS upcoming,
    purchased_debits - purchased_credits AS purchased,
    granted_debits - granted_credits AS granted,
    burned_credits - burned_debits AS burned,
    expired_credits - expired_debits AS expired,
    owed_debits - owed_credits AS owed,
    billed_debits - billed_credits AS billed
FROM accounts
WHERE customer_no = $1::bigint AND asset = $2::text;

-- account_as_created --
-- What the book knew at a moment: the counters less what journals created later moved.
SELECT
    a.wallet_credits - a.wallet_debits - later.wallet AS posted,
    a.owed_debits - a.owed_credits - later.owed AS owed,
    a.billed_debits - a.billed_credits - later.billed AS billed
FROM accounts AS a
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum(CASE
            WHEN t.credit = 'wallet' THEN t.amount
            WHEN t.debit = 'wallet' THEN -t.amount
        END), 0) AS wallet,
        coalesce(sum(CASE
            WHEN t.debit = 'owed' THEN t.amount
            WHEN t.credit = 'owed' THEN -t.amount
        END), 0) AS owed,
        coalesce(sum(CASE
            WHEN t.debit = 'billed' THEN t.amount
            WHEN t.credit = 'billed' THEN -t.amount
        END), 0) AS billed
    FROM transfers AS t
    WHERE
        t.customer_no = $1::bigint
        AND t.seq > (SELECT journal_seq_at_v1($1::bigint, $3::timestamptz))
        AND t.asset = $2::text
) AS later
WHERE a.customer_no = $1::bigint AND a.asset = $2::text;

-- moved_after_effective --
-- What journals effective after a moment moved. They were created after it too, for nothing that
-- touches these accounts is dated ahead.
SELECT
    coalesce(sum(CASE
        WHEN t.credit = 'wallet' THEN t.amount
        WHEN t.debit = 'wallet' THEN -t.amount
    END), 0) AS wallet,
    coalesce(sum(CASE
        WHEN t.debit = 'owed' THEN t.amount
        WHEN t.credit = 'owed' THEN -t.amount
    END), 0) AS owed,
    coalesce(sum(CASE
        WHEN t.debit = 'billed' THEN t.amount
        WHEN t.credit = 'billed' THEN -t.amount
    END), 0) AS billed
FROM journals AS j
INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
WHERE
    j.customer_no = $1::bigint
    AND j.seq > (SELECT journal_seq_at_v1($1::bigint, $3::timestamptz))
    AND t.customer_no = $1::bigint
    AND t.seq > (SELECT journal_seq_at_v1($1::bigint, $3::timestamptz))
    AND j.effective_at > $3::timestamptz
    AND t.asset = $2::text;

-- hold_last_at --
-- The last hold made at or before a moment, by halving: created_at grows with hold_no.
WITH RECURSIVE halving (low, high) AS (
    SELECT
        0::bigint,
        last_no
    FROM customers
    WHERE customer_no = $1::bigint
    UNION ALL
    SELECT
        CASE WHEN near.created_at <= $2::timestamptz THEN near.hold_no ELSE span.low END,
        CASE WHEN near.created_at <= $2::timestamptz THEN span.high ELSE span.middle - 1 END
    FROM (
        SELECT
            low,
            high,
            (low + high + 1) / 2 AS middle
        FROM halving
        WHERE low < high
    ) AS span
    LEFT JOIN LATERAL (
        SELECT
            hold_no,
            created_at
        FROM holds
        WHERE customer_no = $1::bigint AND hold_no >= span.middle
        ORDER BY hold_no
        LIMIT 1
    ) AS near ON true
)

SELECT
    h.hold_no,
    h.created_at
FROM halving
INNER JOIN holds AS h ON h.customer_no = $1::bigint AND halving.low = h.hold_no
WHERE halving.low >= halving.high;

-- held_at --
-- What holds numbered in ($4, $5] had pinned at a moment. $6: by the end as it happened (a deadline
-- passed by $7 is an end), else by when the book learned of it.
SELECT coalesce(sum(coalesce(step.pinned_before, pins.pinned)), 0) AS held
FROM holds AS h
CROSS JOIN LATERAL (SELECT sum(pin) AS pinned FROM unnest(h.pin_amounts) AS pin) AS pins
LEFT JOIN LATERAL (
    SELECT s.pinned_before
    FROM hold_steps AS s
    WHERE
        h.steps > 0
        AND s.customer_no = h.customer_no
        AND s.hold_no = h.hold_no
        AND s.at > $3::timestamptz
    ORDER BY s.step_no
    LIMIT 1
) AS step ON true
WHERE
    h.customer_no = $1::bigint
    AND h.hold_no > $4::bigint
    AND h.hold_no <= $5::bigint
    AND h.asset = $2::text
    AND h.created_at <= $3::timestamptz
    AND coalesce(
        CASE
            WHEN NOT $6::boolean THEN h.ended_created_at
            WHEN h.is_open AND h.expires_at <= $7::timestamptz THEN h.expires_at
            ELSE h.ended_at
        END > $3::timestamptz,
        true
    );

-- frozen_at --
-- What freezes had pinned at a moment of lots that had started. $4: by the end as it happened, else
-- by when the book learned of it, and of the lot's start.
SELECT coalesce(sum(f.amount), 0) AS frozen
FROM freezes AS f
INNER JOIN lots AS l ON f.customer_no = l.customer_no AND f.lot_no = l.lot_no
WHERE
    f.customer_no = $1::bigint
    AND f.asset = $2::text
    AND f.created_at <= $3::timestamptz
    AND coalesce(
        CASE WHEN $4::boolean THEN f.ended_at ELSE f.ended_created_at END > $3::timestamptz, true
    )
    AND l.effective_at <= $3::timestamptz
    AND (
        $4::boolean
        OR l.effective_at <= l.created_at
        OR EXISTS (
            SELECT 1
            FROM journals AS j
            WHERE
                j.customer_no = l.customer_no
                AND j.lot_no = l.lot_no
                AND j.kind = 'activation'
                AND j.created_at <= $3::timestamptz
        )
    );

-- statement_bounds --
-- Of a wallet and the time [$3, $4): the numbers before the first and of the last journal, and what
-- was posted at the start and at the end.
WITH bounds AS MATERIALIZED (
    SELECT
        CASE
            WHEN $3::timestamptz IS NULL THEN 0
            ELSE journal_seq_at_v1($1::bigint, $3::timestamptz - interval '1 microsecond')
        END AS seq_before,
        journal_seq_at_v1($1::bigint, $4::timestamptz - interval '1 microsecond') AS seq_last
),

ended AS MATERIALIZED (
    SELECT
        coalesce((
            SELECT wallet_credits - wallet_debits
            FROM accounts
            WHERE customer_no = $1::bigint AND asset = $2::text
        ), 0) - coalesce((
            SELECT
                sum(CASE
                    WHEN t.credit = 'wallet' THEN t.amount
                    WHEN t.debit = 'wallet' THEN -t.amount
                END)
            FROM transfers AS t
            WHERE
                t.customer_no = $1::bigint
                AND t.seq > (SELECT seq_last FROM bounds)
                AND t.asset = $2::text
        ), 0) AS posted
)

SELECT
    b.seq_before,
    b.seq_last,
    CASE
        WHEN b.seq_before = 0 THEN 0
        ELSE e.posted - coalesce((
            SELECT
                sum(CASE
                    WHEN t.credit = 'wallet' THEN t.amount
                    WHEN t.debit = 'wallet' THEN -t.amount
                END)
            FROM transfers AS t
            WHERE
                t.customer_no = $1::bigint
                AND t.seq > b.seq_before
                AND t.seq <= b.seq_last
                AND t.asset = $2::text
        ), 0)
    END AS opening,
    e.posted AS closing
FROM bounds AS b
CROSS JOIN ended AS e;

-- statement_lines --
-- The journals in ($3, $4] that move a wallet, oldest first, with what each moves in all.
WITH moves AS MATERIALIZED (
    SELECT
        t.seq,
        sum(CASE WHEN t.credit = 'wallet' THEN t.amount ELSE -t.amount END) AS amount
    FROM transfers AS t
    WHERE
        t.customer_no = $1::bigint
        AND t.seq > $3::bigint
        AND t.seq <= $4::bigint
        AND t.asset = $2::text
        AND (t.credit = 'wallet' OR t.debit = 'wallet')
    GROUP BY t.seq
    ORDER BY t.seq
    LIMIT $5::integer
)

SELECT
    m.seq,
    m.amount,
    j.kind,
    j.effective_at,
    j.created_at,
    j.hold_no,
    j.grant_no,
    j.charge_seq,
    coalesce(n.reference, h.reference) AS reference
FROM moves AS m
INNER JOIN journals AS j ON j.customer_no = $1::bigint AND m.seq = j.seq
LEFT JOIN notes AS n ON n.customer_no = $1::bigint AND m.seq = n.seq
LEFT JOIN holds AS h ON h.customer_no = $1::bigint AND j.hold_no = h.hold_no
ORDER BY m.seq;
