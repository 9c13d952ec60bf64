-- Purchases, their freezes, and the directory of Stripe's objects.

-- purchases_load --
-- Purchases by number, or by a line of an invoice: $1–$2, and $3–$5.
SELECT
    p.customer_no, p.purchase_no, p.kind, p.product, p.asset, p.credits, p.currency, p.amount,
    p.bonus, p.quantity, p.priority, p.bonus_priority, p.effective_at, p.expires_at, p.expires_in,
    p.bonus_expires_in, p.invoice_id, p.line_id, p.created_at, p.status, p.captured_amount,
    p.tax_amount, p.refunded_amount, p.lost_amount, p.disputed_amount, p.fee_amount,
    p.tax_returned, p.deferred_returned, p.credited_at
FROM purchases AS p
INNER JOIN
    (
        SELECT k.customer_no, k.purchase_no
        FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, purchase_no)
        UNION
        SELECT l.customer_no, l.purchase_no
        FROM unnest($3::bigint[], $4::text[], $5::text[]) AS k (customer_no, invoice_id, line_id)
        INNER JOIN
            purchases AS l
            ON
                k.customer_no = l.customer_no
                AND k.invoice_id = l.invoice_id
                AND k.line_id = l.line_id
    ) AS w
    ON p.customer_no = w.customer_no AND p.purchase_no = w.purchase_no;

-- purchases_lots_load --
-- The lots of purchases.
SELECT
    l.customer_no, l.lot_no, l.grant_no, l.asset, l.category, l.amount, l.remaining, l.pinned,
    l.expired, l.voided, l.priority, l.effective_at, l.expires_at, l.created_at, l.is_upcoming,
    l.is_rollover, l.voided_at, l.cost_amount, l.currency, l.deferred_amount, l.deferred_units,
    l.purchase_no, l.clawback_due, l.written_off, l.lapsed
FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, purchase_no)
INNER JOIN lots AS l ON k.customer_no = l.customer_no AND k.purchase_no = l.purchase_no;

-- freezes_load --
-- The open freezes of purchases, oldest first.
SELECT
    f.customer_no, f.freeze_no, f.purchase_no, f.lot_no, f.asset, f.reason, f.reference, f.amount,
    f.started_at, f.created_at
FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, purchase_no)
INNER JOIN
    freezes AS f
    ON k.customer_no = f.customer_no AND k.purchase_no = f.purchase_no AND f.is_open
ORDER BY f.customer_no, f.freeze_no;

-- clawback_debts_load --
-- The debts that clawbacks of lots left, oldest first.
SELECT
    d.customer_no, d.debt_no, d.asset, d.charge_seq, d.amount, d.repaid, d.cancelled, d.returned,
    d.lot_no
FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, lot_no)
INNER JOIN debts AS d ON k.customer_no = d.customer_no AND k.lot_no = d.lot_no
ORDER BY d.customer_no, d.debt_no;

-- debt_payments_load --
-- What each repayment of debts took from which lots, in order.
SELECT t.customer_no, t.debt_no, t.lot_no, t.amount
FROM unnest($1::bigint[], $2::bigint[]) AS k (customer_no, debt_no)
INNER JOIN
    transfers AS t
    ON
        k.customer_no = t.customer_no
        AND k.debt_no = t.debt_no
        AND t.debit = 'wallet'
        AND t.credit = 'owed'
ORDER BY t.customer_no, t.seq, t.line;

-- purchases_make --
-- New purchases, with what this batch already booked of them.
INSERT INTO purchases (
    customer_no, purchase_no, kind, product, asset, credits, currency, amount, bonus, quantity,
    priority, bonus_priority, effective_at, expires_at, expires_in, bonus_expires_in, invoice_id,
    line_id, created_at, status, captured_amount, tax_amount, refunded_amount, lost_amount,
    disputed_amount, fee_amount, tax_returned, deferred_returned, credited_at
)
SELECT *
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[],
    $8::bigint[], $9::bigint[], $10::integer[], $11::smallint[], $12::smallint[],
    $13::timestamptz[], $14::timestamptz[], $15::bigint[], $16::bigint[], $17::text[],
    $18::text[], $19::timestamptz[], $20::text[], $21::bigint[], $22::bigint[], $23::bigint[],
    $24::bigint[], $25::bigint[], $26::bigint[], $27::bigint[], $28::bigint[], $29::timestamptz[]
);

-- purchases_move --
-- What is booked of purchases.
UPDATE purchases AS p
SET
    status = v.status,
    captured_amount = v.captured_amount,
    tax_amount = v.tax_amount,
    refunded_amount = v.refunded_amount,
    lost_amount = v.lost_amount,
    disputed_amount = v.disputed_amount,
    fee_amount = v.fee_amount,
    tax_returned = v.tax_returned,
    deferred_returned = v.deferred_returned,
    credited_at = v.credited_at
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::timestamptz[]
) AS v (
    customer_no, purchase_no, status, captured_amount, tax_amount, refunded_amount, lost_amount,
    disputed_amount, fee_amount, tax_returned, deferred_returned, credited_at
)
WHERE p.customer_no = v.customer_no AND p.purchase_no = v.purchase_no;

-- purchases_fill --
-- What plans that were ordered turned out to be, by the line that pays them.
UPDATE purchases AS p
SET
    product = v.product,
    asset = v.asset,
    credits = v.credits,
    currency = v.currency,
    amount = v.amount,
    quantity = v.quantity,
    priority = v.priority,
    effective_at = v.effective_at,
    expires_at = v.expires_at,
    invoice_id = v.invoice_id,
    line_id = v.line_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[],
    $8::bigint[], $9::bigint[], $10::integer[], $11::smallint[], $12::smallint[],
    $13::timestamptz[], $14::timestamptz[], $15::bigint[], $16::bigint[], $17::text[], $18::text[]
) AS v (
    customer_no, purchase_no, kind, product, asset, credits, currency, amount, bonus, quantity,
    priority, bonus_priority, effective_at, expires_at, expires_in, bonus_expires_in, invoice_id,
    line_id
)
WHERE p.customer_no = v.customer_no AND p.purchase_no = v.purchase_no;

-- freezes_make --
-- New freezes; one may have ended in the batch that made it.
INSERT INTO freezes (
    customer_no, freeze_no, purchase_no, lot_no, asset, reason, reference, amount, started_at,
    created_at, ended_at, ended_created_at, ended_as
)
SELECT *
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[],
    $13::text[]
);

-- freezes_end --
-- Freezes that ended.
UPDATE freezes AS f
SET ended_at = v.ended_at, ended_created_at = v.ended_created_at, ended_as = v.ended_as
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::text[])
    AS v (customer_no, freeze_no, ended_at, ended_created_at, ended_as)
WHERE f.customer_no = v.customer_no AND f.freeze_no = v.freeze_no;

-- purchase_object_link --
-- Says that an object of Stripe belongs to a purchase; whose it is.
WITH made AS (
    INSERT INTO purchase_objects (object_id, customer_no, purchase_no, created_at)
    VALUES ($1::text, $2::bigint, $3::bigint, service_now_v1())
    ON CONFLICT (object_id) DO NOTHING
    RETURNING customer_no, purchase_no
)

SELECT customer_no, purchase_no
FROM made
UNION ALL
SELECT customer_no, purchase_no
FROM purchase_objects
WHERE object_id = $1::text;

-- purchase_object_find --
-- The purchase that an object of Stripe belongs to.
SELECT customer_no, purchase_no
FROM purchase_objects
WHERE object_id = $1::text;

-- purchase_objects_read --
-- What belongs to a purchase, and what has paid its invoice if that pays others too.
SELECT object_id
FROM (
    SELECT
        object_id,
        created_at
    FROM purchase_objects
    WHERE customer_no = $1::bigint AND purchase_no = $2::bigint
    UNION
    SELECT
        i.intent_id,
        i.created_at
    FROM purchases AS p
    INNER JOIN
        invoice_intents AS i
        ON p.customer_no = i.customer_no AND p.invoice_id = i.invoice_id
    WHERE p.customer_no = $1::bigint AND p.purchase_no = $2::bigint
) AS found
ORDER BY created_at, object_id;
