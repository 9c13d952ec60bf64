-- Plans, their prices at Stripe, and subscriptions as they were last fetched.

-- plans_read --
-- The latest version of each plan, or of plan $1.
SELECT DISTINCT ON (plan)
    plan, version, name, tier, asset, currency, amount, period, trial_days, credits, trial_credits,
    upgrade_credits, priority, requires_subscription, rate_card, tax_code, tax_behavior, is_active,
    metadata, metered, overage, credits_every, rollover_max, rollover_expires_in, apply_to,
    created_at
FROM plans
WHERE $1::text IS NULL OR plan = $1::text
ORDER BY plan, version DESC;

-- plan_lock --
-- One changer of a plan at a time. ("plan", and which.)
SELECT pg_advisory_xact_lock(1886150017, hashtext($1::text));

-- plan_add --
-- The next version of a plan.
INSERT INTO plans (
    plan, version, name, tier, asset, currency, amount, period, trial_days, credits, trial_credits,
    upgrade_credits, priority, requires_subscription, rate_card, tax_code, tax_behavior, is_active,
    metadata, metered, overage, credits_every, rollover_max, rollover_expires_in, apply_to,
    created_at
)
SELECT
    $1::text,
    coalesce(max(version), 0) + 1,
    $2::text, $3::text, $4::text, $5::text, $6::bigint, $7::text, $8::integer, $9::bigint,
    $10::bigint, $11::text, $12::smallint, $13::boolean, $14::text, $15::text, $16::text,
    $17::boolean, $18::text, $19::text, $20::text, $21::text, $22::bigint, $23::bigint, $24::text,
    service_now_v1()
FROM plans
WHERE plan = $1::text;

-- plan_version --
-- Version $2 of plan $1.
SELECT
    plan, version, name, tier, asset, currency, amount, period, trial_days, credits, trial_credits,
    upgrade_credits, priority, requires_subscription, rate_card, tax_code, tax_behavior, is_active,
    metadata, metered, overage, credits_every, rollover_max, rollover_expires_in, apply_to,
    created_at
FROM plans
WHERE plan = $1::text AND version = $2::integer;

-- plans_of_prices --
-- The versions that prices stand for.
SELECT
    x.price_id, p.plan, p.version, p.name, p.tier, p.asset, p.currency, p.amount, p.period,
    p.trial_days, p.credits, p.trial_credits, p.upgrade_credits, p.priority,
    p.requires_subscription, p.rate_card, p.tax_code, p.tax_behavior, p.is_active, p.metadata,
    p.metered, p.overage, p.credits_every, p.rollover_max, p.rollover_expires_in, p.apply_to,
    p.created_at
FROM plan_prices AS x
INNER JOIN plans AS p ON x.plan = p.plan AND x.version = p.version
WHERE x.price_id = any($1::text[]);

-- plan_price_link --
-- A price at Stripe stands for a version, for ever.
INSERT INTO plan_prices (price_id, plan, version, created_at)
VALUES ($1::text, $2::text, $3::integer, service_now_v1())
ON CONFLICT (price_id) DO NOTHING;

-- plan_item_price --
-- The price of one item of a version, if it was made.
SELECT price_id
FROM plan_item_prices
WHERE plan = $1::text AND version = $2::integer AND event_name = $3::text
LIMIT 1;

-- plan_item_link --
-- A price at Stripe bills what is told under a name, for ever.
INSERT INTO plan_item_prices (
    price_id, plan, version, event_name, stripe_meter_id, created_at
)
VALUES ($1::text, $2::text, $3::integer, $4::text, $5::text, service_now_v1())
ON CONFLICT (price_id) DO NOTHING;

-- plan_items_of_prices --
-- What prices that bill by use stand for.
SELECT price_id, plan, version, event_name, stripe_meter_id
FROM plan_item_prices
WHERE price_id = any($1::text[]);

-- meters_report --
-- What these meters count is told to Stripe from now on.
UPDATE meters SET is_reported = true WHERE meter = any($1::text[]) AND NOT is_reported;

-- stripe_customer_find --
-- Whose a customer at Stripe is: by its id, or by the id of ours that its mark names.
SELECT customer_no
FROM (
    SELECT
        customer_no,
        1 AS place
    FROM profiles
    WHERE stripe_customer_id = $1::text
    UNION ALL
    SELECT
        d.customer_no,
        2 AS place
    FROM customer_directory AS d
    INNER JOIN profiles AS p ON d.customer_no = p.customer_no
    WHERE d.customer_id = $2::text AND p.stripe_customer_id IS NULL
) AS found
ORDER BY place
LIMIT 1;

-- subscription_put --
-- A subscription as Stripe has it. What has ended stays so.
INSERT INTO subscriptions AS s (
    customer_no, subscription_id, status, plan, version, quantity, price_id, state, period_start,
    period_end, started_at, fetched_at
)
VALUES (
    $1::bigint, $2::text, $3::text, $4::text, $5::integer, $6::integer, $7::text, $8::text,
    $9::timestamptz, $10::timestamptz, $11::timestamptz, service_now_v1()
)
ON CONFLICT (customer_no, subscription_id) DO UPDATE SET
    status = CASE WHEN s.is_live THEN excluded.status ELSE s.status END,
    plan = excluded.plan,
    version = excluded.version,
    quantity = excluded.quantity,
    price_id = excluded.price_id,
    state = excluded.state,
    period_start = excluded.period_start,
    period_end = excluded.period_end,
    fetched_at = excluded.fetched_at;

-- subscriptions_read --
-- A customer's subscriptions: the first live one, the other live ones, then the latest that ended.
SELECT
    customer_no, subscription_id, status, plan, version, quantity, price_id, state, period_start,
    period_end, is_duplicate, started_at, fetched_at, is_live
FROM subscriptions
WHERE customer_no = $1::bigint
ORDER BY
    is_live DESC,
    CASE WHEN is_live THEN started_at END,
    started_at DESC,
    subscription_id;

-- subscriptions_rank --
-- Live ones beside the first are duplicates; those that were not before.
UPDATE subscriptions
SET is_duplicate = is_live AND subscription_id <> $2::text
WHERE customer_no = $1::bigint AND is_duplicate <> (is_live AND subscription_id <> $2::text)
RETURNING subscription_id, is_duplicate;

-- subscription_show --
-- What is shown on the customer of its subscription.
UPDATE profiles SET
    subscription_id = $2::text,
    subscription_status = $3::text,
    plan = $4::text,
    plan_tier = $5::text,
    plan_rate_card = $6::text,
    updated_at = service_now_v1()
WHERE
    customer_no = $1::bigint
    AND (subscription_id, subscription_status, plan, plan_tier, plan_rate_card) IS DISTINCT FROM
    ($2::text, $3::text, $4::text, $5::text, $6::text);

-- subscriptions_old --
-- Live subscriptions whose period has ended, and that were not fetched since one of the times ($2)
-- after that which have passed at $1: each is looked at once after each of them.
SELECT DISTINCT s.subscription_id
FROM unnest($2::interval[]) AS w (wait)
INNER JOIN
    subscriptions AS s
    ON
        s.is_live
        AND s.period_end < $1::timestamptz - w.wait
        AND s.fetched_at < s.period_end + w.wait
LIMIT $3::integer;

-- subscription_known --
-- The period of a subscription that was known last, and when that was.
SELECT s.period_end, s.fetched_at
FROM profiles AS p
INNER JOIN subscriptions AS s ON p.customer_no = s.customer_no
WHERE p.stripe_customer_id = $1::text AND s.subscription_id = $2::text;

-- plan_periods --
-- When the periods of a customer began that end at $2: by lines that paid for whole ones. The
-- months of a line are purchases of their own, named after it.
SELECT
    expires_at,
    min(effective_at) AS effective_at
FROM (
    SELECT
        max(p.expires_at) AS expires_at,
        min(p.effective_at) AS effective_at
    FROM purchases AS p
    INNER JOIN plans AS x ON p.product = x.plan || '@' || x.version
    WHERE p.customer_no = $1::bigint AND p.kind = 'plan' AND p.line_id IS NOT NULL
    GROUP BY p.invoice_id, split_part(p.line_id, '#', 1)
    HAVING sum(p.amount) = max(x.amount * p.quantity)
) AS whole
WHERE expires_at = any($2::timestamptz[])
GROUP BY expires_at;

-- invoice_intent_link --
-- An intent has paid an invoice.
INSERT INTO invoice_intents (customer_no, invoice_id, intent_id, created_at)
VALUES ($1::bigint, $2::text, $3::text, service_now_v1())
ON CONFLICT (customer_no, invoice_id, intent_id) DO NOTHING;

-- subscriptions_behind --
-- Live subscriptions, up to $1, or $2 alone, of versions that a later one takes along when their
-- period ends: which one. Not those that end, change or wait to be paid anyway; a move that failed
-- is tried again when it is due, and each is made once in a period.
SELECT
    s.customer_no,
    s.subscription_id,
    t.version,
    m.name
FROM subscriptions AS s
CROSS JOIN LATERAL (
    SELECT max(p.version) AS version
    FROM plans AS p
    INNER JOIN plan_prices AS x ON p.plan = x.plan AND p.version = x.version
    INNER JOIN plans AS has ON has.plan = s.plan AND has.version = s.version
    WHERE
        p.plan = s.plan
        AND p.version > s.version
        AND p.apply_to = 'next_period'
        AND p.currency = has.currency
) AS t
CROSS JOIN LATERAL (
    SELECT concat_ws(
        '-', 'move', s.subscription_id, t.version, extract(EPOCH FROM s.period_end)::bigint
    ) AS name
) AS m
LEFT JOIN stripe_calls AS k ON k.name = m.name || '-phases'
LEFT JOIN stripe_calls AS f ON f.name = m.name || '-schedule'
WHERE
    s.is_live
    AND s.status = 'active'
    AND ($2::text IS NULL OR s.subscription_id = $2::text)
    AND s.period_end > service_now_v1()
    AND t.version IS NOT NULL
    AND (
        s.state::json ->> 'schedule_id' IS NULL
        OR s.state::json ->> 'schedule_id' = f.object_id
    )
    AND s.state::json ->> 'cancel_at' IS NULL
    AND s.state::json ->> 'update_expires_at' IS NULL
    AND k.object_id IS NULL
    AND NOT coalesce(k.is_parked OR f.is_parked, false)
    AND coalesce(greatest(k.not_before, f.not_before) <= service_now_v1(), true)
ORDER BY s.period_end, s.customer_no
LIMIT $1::integer;
