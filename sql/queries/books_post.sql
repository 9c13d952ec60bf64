-- Post what was decided on a batch of requests: the second half of the hot path.
-- Each table is written once, with the final values of each row. The parts that have rows are sent
-- as one statement (`sql/together.py`). Numbers, words and times come as the text of an array: the
-- driver looks at every element of a list (measured).

-- customers_move --
-- Numbers given, head of the chain, and when time does something next.
UPDATE customers AS c
SET
    last_no = v.last_no,
    last_seq = v.last_seq,
    last_hash = v.last_hash,
    last_created_at = v.last_created_at,
    next_due_at = v.next_due_at
FROM unnest(
    $1::text::bigint[], $2::text::bigint[], $3::text::bigint[], $4::bytea[],
    $5::text::timestamptz[], $6::text::timestamptz[]
) AS v (customer_no, last_no, last_seq, last_hash, last_created_at, next_due_at)
WHERE c.customer_no = v.customer_no;

-- accounts_move --
-- What is added to each account's counters.
UPDATE accounts AS a
SET
    wallet_debits = a.wallet_debits + v.m[1],
    wallet_credits = a.wallet_credits + v.m[2],
    wallet_pending = a.wallet_pending + v.m[3],
    upcoming_debits = a.upcoming_debits + v.m[4],
    upcoming_credits = a.upcoming_credits + v.m[5],
    purchased_debits = a.purchased_debits + v.m[6],
    purchased_credits = a.purchased_credits + v.m[7],
    granted_debits = a.granted_debits + v.m[8],
    granted_credits = a.granted_credits + v.m[9],
    burned_debits = a.burned_debits + v.m[10],
    burned_credits = a.burned_credits + v.m[11],
    expired_debits = a.expired_debits + v.m[12],
    expired_credits = a.expired_credits + v.m[13],
    owed_debits = a.owed_debits + v.m[14],
    owed_credits = a.owed_credits + v.m[15],
    billed_debits = a.billed_debits + v.m[16],
    billed_credits = a.billed_credits + v.m[17],
    uncovered_owe = a.uncovered_owe + v.m[18],
    uncovered_bill = a.uncovered_bill + v.m[19]
FROM (
    SELECT
        customer_no,
        asset,
        moves::numeric[] AS m
    FROM unnest($1::text::bigint[], $2::text::text[], $3::text::text[]) AS u (customer_no,
    asset, moves)
    OFFSET 0  -- or the text would be read again for each column
) AS v
WHERE a.customer_no = v.customer_no AND a.asset = v.asset;

-- lots_move --
-- What is left and what is pinned of lots.
UPDATE lots AS l
SET remaining = v.remaining, pinned = v.pinned
FROM unnest($1::text::bigint[], $2::text::bigint[], $3::text::bigint[], $4::text::bigint[])
    AS v (customer_no, lot_no, remaining, pinned)
WHERE l.customer_no = v.customer_no AND l.lot_no = v.lot_no;

-- holds_make --
-- New holds.
INSERT INTO holds (
    customer_no, hold_no, asset, status, requested, amount, captured, uncovered, policy,
    pin_lots, pin_amounts, steps, expires_at, created_at, reference, metadata, rate_card,
    rate_version
)
SELECT
    customer_no, hold_no, asset, 'open', requested, amount, 0, uncovered, policy,
    pin_lots::bigint[], pin_amounts::bigint[], 0, expires_at, created_at, reference,
    metadata, rate_card, rate_version
FROM unnest(
    $1::text::bigint[], $2::text::bigint[], $3::text::text[], $4::text::bigint[],
    $5::text::bigint[], $6::text::bigint[], $7::text::text[], $8::text::text[], $9::text::text[],
    $10::text::timestamptz[], $11::text::text[], $12::text::text[], $13::text::timestamptz[],
    $14::text::text[], $15::text::integer[]
) AS v (
    customer_no, hold_no, asset, requested, amount, uncovered, policy, pin_lots, pin_amounts,
    expires_at, reference, metadata, created_at, rate_card, rate_version
);

-- holds_move --
-- Holds that were captured, ended, extended or pinned anew.
UPDATE holds AS h
SET
    status = v.status,
    amount = v.amount,
    captured = v.captured,
    uncovered = v.uncovered,
    policy = v.policy,
    pin_lots = v.pin_lots::bigint[],
    pin_amounts = v.pin_amounts::bigint[],
    steps = v.steps,
    expires_at = v.expires_at,
    ended_at = v.ended_at,
    ended_created_at = v.ended_created_at
FROM unnest(
    $1::text::bigint[], $2::text::bigint[], $3::text::text[], $4::text::bigint[],
    $5::text::bigint[], $6::text::bigint[], $7::text::text[], $8::text::text[], $9::text::text[],
    $10::text::integer[], $11::text::timestamptz[], $12::text::timestamptz[],
    $13::text::timestamptz[]
) AS v (
    customer_no, hold_no, status, amount, captured, uncovered, policy, pin_lots, pin_amounts,
    steps, expires_at, ended_at, ended_created_at
)
WHERE h.customer_no = v.customer_no AND h.hold_no = v.hold_no;

-- journals_make --
-- Journals, at the end of their chains.
INSERT INTO journals (
    customer_no, seq, kind, effective_at, created_at, book_date, late_for, hold_no, grant_no,
    lot_no, charge_seq, debt_no, is_late, origin, request_key, notes_digest, prev_hash, hash
)
SELECT *
FROM unnest(
    $1::text::bigint[], $2::text::bigint[], $3::text::text[], $4::text::timestamptz[],
    $5::text::timestamptz[], $6::date[], $7::text::text[], $8::text::bigint[], $9::text::bigint[],
    $10::text::bigint[], $11::text::bigint[], $12::text::bigint[], $13::boolean[],
    $14::text::text[], $15::text::text[], $16::bytea[], $17::bytea[], $18::bytea[]
);

-- transfers_make --
-- What the journals moved.
INSERT INTO transfers (
    customer_no, seq, line, asset, debit, credit, amount, lot_no, debt_no
)
SELECT *
FROM unnest(
    $1::text::bigint[], $2::text::bigint[], $3::text::integer[], $4::text::text[],
    $5::text::text[], $6::text::text[], $7::text::bigint[], $8::text::bigint[], $9::text::bigint[]
);

-- requests_make --
-- Answers to be remembered, given at $8.
INSERT INTO requests (
    customer_no, key, operation, fingerprint, status, body, trace_id, created_at
)
SELECT customer_no, key, operation, fingerprint, status, body, trace_id, $8::timestamptz
FROM unnest(
    $1::text::bigint[], $2::text::text[], $3::text::text[], $4::bytea[], $5::text::smallint[],
    $6::bytea[], $7::text::text[]
) AS v (customer_no, key, operation, fingerprint, status, body, trace_id);

-- customers_set --
-- What seldom changes of a customer: policy, limit, sign-up mark, closing, gate, billing.
UPDATE customers AS c
SET
    overage_policy = v.overage_policy,
    overage_limit = v.overage_limit,
    signup_due = v.signup_due,
    closed_at = v.closed_at,
    gated_from = v.gated_from,
    has_own_overage = v.has_own_overage,
    unbilled_from = v.unbilled_from,
    billed_before = v.billed_before,
    plan_until = v.plan_until
FROM unnest(
    $1::bigint[], $2::text[], $3::bigint[], $4::boolean[], $5::timestamptz[], $6::timestamptz[],
    $7::boolean[], $8::timestamptz[], $9::numeric[], $10::timestamptz[]
) AS v (
    customer_no, overage_policy, overage_limit, signup_due, closed_at, gated_from, has_own_overage,
    unbilled_from, billed_before, plan_until
)
WHERE c.customer_no = v.customer_no;

-- billed_usage_add --
-- What journals moved of `billed`, by its own time; what was undone has the time of the charge.
-- Marks the hours for whoever tells Stripe, of customers whose subscription bills it.
WITH added AS (
    INSERT INTO billed_usage (customer_no, effective_at, seq, amount)
    SELECT
        v.customer_no,
        coalesce(c.effective_at, v.effective_at) AS effective_at,
        v.seq,
        v.amount
    FROM unnest(
        $1::bigint[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[]
    ) AS v (customer_no, effective_at, seq, amount, charge_seq)
    LEFT JOIN journals AS c ON v.customer_no = c.customer_no AND v.charge_seq = c.seq
    RETURNING customer_no, effective_at
)

INSERT INTO unreported_usage AS u (customer_no, meter_no, hour)
SELECT DISTINCT
    a.customer_no,
    0 AS meter_no,
    date_trunc('hour', a.effective_at, 'UTC') AS hour
FROM added AS a
INNER JOIN report_items AS i ON a.customer_no = i.customer_no AND i.meter_no = 0
ORDER BY customer_no, hour
ON CONFLICT (customer_no, meter_no, hour) DO UPDATE SET version = u.version + 1;

-- lots_reshape --
-- Lots of which more changed than what they hold.
UPDATE lots AS l
SET
    remaining = v.remaining,
    pinned = v.pinned,
    expired = v.expired,
    voided = v.voided,
    is_upcoming = v.is_upcoming,
    voided_at = v.voided_at,
    deferred_amount = v.deferred_amount,
    deferred_units = v.deferred_units,
    clawback_due = v.clawback_due,
    written_off = v.written_off,
    lapsed = v.lapsed,
    expires_at = v.expires_at,
    is_rollover = v.is_rollover
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::boolean[], $8::timestamptz[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
    $13::bigint[], $14::timestamptz[], $15::boolean[]
) AS v (
    customer_no, lot_no, remaining, pinned, expired, voided, is_upcoming, voided_at,
    deferred_amount, deferred_units, clawback_due, written_off, lapsed, expires_at, is_rollover
)
WHERE l.customer_no = v.customer_no AND l.lot_no = v.lot_no;

-- accounts_open --
-- The accounts of a customer's first use of an asset. Fewer rows than asked: the asset's scale is
-- not what the request was read with.
INSERT INTO accounts (customer_no, asset)
SELECT v.customer_no, v.asset
FROM unnest($1::bigint[], $2::text[], $3::smallint[]) AS v (customer_no, asset, scale)
INNER JOIN assets AS a ON v.asset = a.asset AND v.scale = a.scale
FOR SHARE OF a
RETURNING customer_no;

-- money_post --
-- Moves the money accounts of a customer in one currency, made at first use. $3: debits and credits
-- of cash, fees, refunds, disputed, deferred_revenue, revenue, breakage_revenue, tax, opening.
INSERT INTO money_accounts AS m (
    customer_no, asset, cash_debits, cash_credits, fees_debits, fees_credits, refunds_debits,
    refunds_credits, disputed_debits, disputed_credits, deferred_revenue_debits,
    deferred_revenue_credits, revenue_debits, revenue_credits, breakage_revenue_debits,
    breakage_revenue_credits, tax_debits, tax_credits, opening_debits, opening_credits
)
SELECT
    $1::bigint, $2::text, v.m[1], v.m[2], v.m[3], v.m[4], v.m[5], v.m[6], v.m[7], v.m[8], v.m[9],
    v.m[10], v.m[11], v.m[12], v.m[13], v.m[14], v.m[15], v.m[16], v.m[17], v.m[18]
FROM (SELECT $3::numeric[] AS m) AS v
ON CONFLICT (customer_no, asset) DO UPDATE SET
    cash_debits = m.cash_debits + excluded.cash_debits,
    cash_credits = m.cash_credits + excluded.cash_credits,
    fees_debits = m.fees_debits + excluded.fees_debits,
    fees_credits = m.fees_credits + excluded.fees_credits,
    refunds_debits = m.refunds_debits + excluded.refunds_debits,
    refunds_credits = m.refunds_credits + excluded.refunds_credits,
    disputed_debits = m.disputed_debits + excluded.disputed_debits,
    disputed_credits = m.disputed_credits + excluded.disputed_credits,
    deferred_revenue_debits = m.deferred_revenue_debits + excluded.deferred_revenue_debits,
    deferred_revenue_credits = m.deferred_revenue_credits + excluded.deferred_revenue_credits,
    revenue_debits = m.revenue_debits + excluded.revenue_debits,
    revenue_credits = m.revenue_credits + excluded.revenue_credits,
    breakage_revenue_debits = m.breakage_revenue_debits + excluded.breakage_revenue_debits,
    breakage_revenue_credits = m.breakage_revenue_credits + excluded.breakage_revenue_credits,
    tax_debits = m.tax_debits + excluded.tax_debits,
    tax_credits = m.tax_credits + excluded.tax_credits,
    opening_debits = m.opening_debits + excluded.opening_debits,
    opening_credits = m.opening_credits + excluded.opening_credits;

-- grants_make --
-- New grants.
INSERT INTO grants (
    customer_no, grant_no, asset, amount, category, cost_amount, currency, priority, effective_at,
    expires_at, recur_interval, recur_count, recur_anchor, rollover_max, rollover_expires_in,
    next_start_at, voided_at, void_money, origin, journal_seq, created_at, has_purchase
)
SELECT *
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bigint[],
    $7::text[], $8::smallint[], $9::timestamptz[], $10::timestamptz[], $11::text[],
    $12::integer[], $13::timestamptz[], $14::bigint[], $15::bigint[], $16::timestamptz[],
    $17::timestamptz[], $18::text[], $19::text[], $20::bigint[], $21::timestamptz[],
    $22::boolean[]
);

-- grants_move --
-- Grants whose series moved on, or that were voided.
UPDATE grants AS g
SET next_start_at = v.next_start_at, voided_at = v.voided_at, void_money = v.void_money
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::text[])
    AS v (customer_no, grant_no, next_start_at, voided_at, void_money)
WHERE g.customer_no = v.customer_no AND g.grant_no = v.grant_no;

-- lots_make --
-- New lots, with what this batch already drew from them.
INSERT INTO lots (
    customer_no, lot_no, grant_no, asset, category, amount, remaining, pinned, expired, voided,
    priority, effective_at, expires_at, created_at, is_upcoming, is_rollover, voided_at,
    cost_amount, currency, deferred_amount, deferred_units, purchase_no, clawback_due, written_off,
    lapsed
)
SELECT *
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::smallint[],
    $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::boolean[],
    $16::boolean[], $17::timestamptz[], $18::bigint[], $19::text[], $20::bigint[],
    $21::bigint[], $22::bigint[], $23::bigint[], $24::bigint[], $25::bigint[]
);

-- debts_make --
-- New debts.
INSERT INTO debts (
    customer_no, debt_no, asset, charge_seq, amount, repaid, cancelled, returned, lot_no
)
SELECT *
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::bigint[]
);

-- debts_move --
-- What was repaid, cancelled or returned of debts.
UPDATE debts AS d
SET repaid = v.repaid, cancelled = v.cancelled, returned = v.returned
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS v (customer_no, debt_no, repaid, cancelled, returned)
WHERE d.customer_no = v.customer_no AND d.debt_no = v.debt_no;

-- hold_steps_make --
-- What open holds had pinned before they changed.
INSERT INTO hold_steps (customer_no, hold_no, step_no, at, pinned_before)
SELECT *
FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::timestamptz[], $5::bigint[]);

-- holds_price --
-- The rate card that a hold's usage is priced by, where it came after the reserve.
UPDATE holds AS h
SET rate_card = v.rate_card, rate_version = v.rate_version
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::integer[])
    AS v (customer_no, hold_no, rate_card, rate_version)
WHERE h.customer_no = v.customer_no AND h.hold_no = v.hold_no;

-- notes_make --
-- Free text beside journals.
INSERT INTO notes (customer_no, seq, salt, reference, reason, metadata)
SELECT *
FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::text[], $5::text[], $6::text[]);

-- reversed_charges_move --
-- How much of a charge has been undone so far.
INSERT INTO reversed_charges AS r (customer_no, charge_seq, reversed)
SELECT *
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
ON CONFLICT (customer_no, charge_seq) DO UPDATE SET reversed = excluded.reversed;
