-- Automatic top-up: settings, what stands in the way, attempts.

-- top_up_put --
-- The customer's own settings; what stands in the way stays, unless it was only that no card was
-- there or the bank asked something: that is tried again.
INSERT INTO auto_top_ups AS t (
    customer_no, is_enabled, asset, threshold, target, pack, count_day, amount_month, currency,
    updated_at
)
VALUES (
    $1::bigint, $2::boolean, $3::text, $4::bigint, $5::bigint, $6::text, $7::integer, $8::bigint,
    $9::text, service_now_v1()
)
ON CONFLICT (customer_no) DO UPDATE SET
    is_enabled = excluded.is_enabled,
    asset = excluded.asset,
    threshold = excluded.threshold,
    target = excluded.target,
    pack = excluded.pack,
    count_day = excluded.count_day,
    amount_month = excluded.amount_month,
    currency = excluded.currency,
    trouble = CASE WHEN t.trouble = 'declined' THEN t.trouble END,
    error = CASE WHEN t.trouble = 'declined' THEN t.error END,
    look_at = NULL,
    waits_for = NULL,
    updated_at = excluded.updated_at;

-- top_up_read --
-- A customer's settings and what stands in the way, with its open attempt.
SELECT
    t.customer_no, t.is_enabled, t.asset, t.threshold, t.target, t.pack, t.count_day,
    t.amount_month, t.currency, t.declines, t.not_before, t.trouble, t.bad_card, t.error,
    t.updated_at, t.look_at, t.waits_for, a.purchase_no
FROM auto_top_ups AS t
LEFT JOIN
    top_up_attempts AS a
    ON t.customer_no = a.customer_no AND a.status = 'open'
WHERE t.customer_no = $1::bigint;

-- top_ups_low --
-- Customers after $1 whose credit is at or below the threshold, and who may be charged now.
SELECT t.customer_no
FROM auto_top_ups AS t
LEFT JOIN accounts AS a ON t.customer_no = a.customer_no AND t.asset = a.asset
WHERE
    t.is_armed
    AND t.customer_no > $1::bigint
    AND (t.not_before IS NULL OR t.not_before <= (SELECT service_now_v1()))
    AND (t.look_at IS NULL OR t.look_at <= (SELECT service_now_v1()))
    AND coalesce(
        a.wallet_credits - a.wallet_debits - a.wallet_pending - a.owed_debits + a.owed_credits, 0
    ) <= t.threshold
    AND NOT EXISTS (
        SELECT FROM top_up_attempts AS o
        WHERE o.customer_no = t.customer_no AND o.status = 'open'
    )
ORDER BY t.customer_no
LIMIT $2::integer;

-- top_up_lock --
-- Keeps others from a customer's settings until the transaction ends; no row: nothing is to be
-- charged now.
SELECT t.customer_no
FROM auto_top_ups AS t
WHERE
    t.customer_no = $1::bigint
    AND t.is_armed
    AND (t.not_before IS NULL OR t.not_before <= service_now_v1())
    AND NOT EXISTS (
        SELECT FROM top_up_attempts AS o
        WHERE o.customer_no = t.customer_no AND o.status = 'open'
    )
FOR UPDATE OF t;

-- top_up_wait --
-- Nothing can be bought now, because of $2: it is looked at again at the next full hour, when also
-- days and months begin.
UPDATE auto_top_ups SET
    waits_for = $2::text,
    look_at = date_trunc('hour', service_now_v1(), 'UTC') + interval '1 hour'
WHERE customer_no = $1::bigint;

-- top_up_used --
-- How many attempts were made in the day of $2, and how much money of currency $3 was taken, or may
-- be, in its month.
SELECT
    count(*) FILTER (WHERE started_at >= date_trunc('day', $2::timestamptz, 'UTC'))::integer
        AS count_day,
    coalesce(
        sum(amount) FILTER (
            WHERE
                status <> 'failed'
                AND currency = $3::text
                AND started_at >= date_trunc('month', $2::timestamptz, 'UTC')
        ), 0
    )::bigint AS amount_month
FROM top_up_attempts
WHERE
    customer_no = $1::bigint
    AND started_at >= date_trunc('month', $2::timestamptz, 'UTC');

-- top_up_begin --
-- A new attempt.
INSERT INTO top_up_attempts (
    customer_no, purchase_no, call, card, fingerprint, currency, amount, status, started_at
)
VALUES (
    $1::bigint, $2::bigint, $3::text, $4::text, $5::text, $6::text, $7::bigint, 'open',
    service_now_v1()
);

-- top_ups_open --
-- Open attempts after customer $1 that are to be looked at, with what is known of the purchase and
-- of the intent.
SELECT a.customer_no, a.purchase_no, a.call, a.fingerprint, p.status AS purchase, c.object_id
FROM top_up_attempts AS a
INNER JOIN purchases AS p ON a.customer_no = p.customer_no AND a.purchase_no = p.purchase_no
LEFT JOIN stripe_calls AS c ON a.call = c.name
WHERE
    a.status = 'open'
    AND a.customer_no > $1::bigint
    AND (
        a.look_at IS NULL
        OR a.look_at <= (SELECT service_now_v1())
        OR p.status = 'credited'
    )
ORDER BY a.customer_no
LIMIT $2::integer;

-- top_up_look_later --
-- The payment of an attempt is under way: it is looked at again after an eighth of the time that it
-- has taken, within $3 and $4.
UPDATE top_up_attempts SET
    look_at = service_now_v1()
    + least(greatest((service_now_v1() - started_at) / 8, $3::interval), $4::interval)
WHERE customer_no = $1::bigint AND purchase_no = $2::bigint AND status = 'open';

-- top_up_end --
-- How an attempt ended; no row: somebody else has said so.
UPDATE top_up_attempts SET status = $3::text, error = $4::text, ended_at = service_now_v1()
WHERE customer_no = $1::bigint AND purchase_no = $2::bigint AND status = 'open'
RETURNING purchase_no;

-- top_up_worked --
-- Nothing stands in the way any more.
UPDATE auto_top_ups SET
    declines = 0, not_before = NULL, trouble = NULL, bad_card = NULL, error = NULL
WHERE customer_no = $1::bigint;

-- top_up_has_card --
-- The card that would be charged is $2: what an earlier one was declined for is over, and there is
-- something to charge.
UPDATE auto_top_ups SET
    declines = CASE WHEN bad_card IS DISTINCT FROM $2::text THEN 0 ELSE declines END,
    not_before = CASE WHEN bad_card IS DISTINCT FROM $2::text THEN NULL ELSE not_before END,
    trouble = CASE
        WHEN bad_card IS NOT DISTINCT FROM $2::text AND trouble <> 'no_card' THEN trouble
    END,
    error = CASE WHEN bad_card IS NOT DISTINCT FROM $2::text THEN error END,
    bad_card = CASE WHEN bad_card IS NOT DISTINCT FROM $2::text THEN bad_card END
WHERE customer_no = $1::bigint;

-- top_up_declined --
-- A decline by the card $2, for the reason $3: it waits, longer each time ($4), and after the last
-- of these waits until another card is there; at once if the bank asks the customer something ($5).
UPDATE auto_top_ups SET
    declines = declines + 1,
    not_before = service_now_v1() + ($4::interval[])[declines + 1],
    bad_card = $2::text,
    error = $3::text,
    trouble = CASE
        WHEN $5::boolean THEN 'authentication'
        WHEN declines + 1 > cardinality($4::interval[]) THEN 'declined'
    END
WHERE customer_no = $1::bigint;

-- top_up_without_card --
-- There is nothing to charge.
UPDATE auto_top_ups SET trouble = 'no_card', error = NULL
WHERE customer_no = $1::bigint AND trouble IS NULL;

-- top_up_troubled --
-- Whose customer at Stripe this is, if something stands in the way of its top-up.
SELECT t.customer_no
FROM profiles AS p
INNER JOIN auto_top_ups AS t ON p.customer_no = t.customer_no
WHERE p.stripe_customer_id = $1::text AND (t.trouble IS NOT NULL OR t.declines > 0);

-- top_up_has --
-- What a customer has left of an asset: negative, if it owes more.
SELECT
    coalesce(sum(
        wallet_credits - wallet_debits - wallet_pending - owed_debits + owed_credits
    ), 0)::numeric
FROM accounts
WHERE customer_no = $1::bigint AND asset = $2::text;
