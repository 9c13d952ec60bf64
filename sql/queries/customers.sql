-- Customers: the directory of their ids, and their profiles.

-- customers_find --
-- Our numbers for the callers' ids.
SELECT customer_id, customer_no
FROM customer_directory
WHERE customer_id = any($1::text[]);

-- customers_make --
-- Makes those customers that do not exist yet. Sorted: makers of the same ids must not deadlock.
WITH made AS (
    INSERT INTO customer_directory (customer_id)
    SELECT id FROM unnest($1::text[]) AS id ORDER BY id
    ON CONFLICT DO NOTHING
    RETURNING customer_no, customer_id
),

rows AS (
    INSERT INTO customers (customer_no, customer_id, signup_due, created_at)
    SELECT customer_no, customer_id, $2::boolean, service_now_v1() FROM made
    RETURNING customer_no, customer_id, created_at
),

profiles_made AS (
    INSERT INTO profiles (customer_no, updated_at)
    SELECT customer_no, created_at FROM rows
)

SELECT customer_id, customer_no FROM rows;

-- profile_put --
-- Sets the members of a profile that $7 names; the others stay.
UPDATE profiles SET
    name = CASE WHEN 'name' = any($7::text[]) THEN $2::text ELSE name END,
    email = CASE WHEN 'email' = any($7::text[]) THEN $3::text ELSE email END,
    time_zone = CASE WHEN 'time_zone' = any($7::text[]) THEN $4::text ELSE time_zone END,
    currency = CASE WHEN 'currency' = any($7::text[]) THEN $5::text ELSE currency END,
    metadata = CASE WHEN 'metadata' = any($7::text[]) THEN $6::text ELSE metadata END,
    rate_card = CASE WHEN 'rate_card' = any($7::text[]) THEN $8::text ELSE rate_card END,
    stripe_customer_id = CASE
        WHEN 'stripe_customer_id' = any($7::text[]) THEN $9::text
        ELSE stripe_customer_id
    END,
    updated_at = service_now_v1()
WHERE customer_no = $1::bigint AND erased_at IS NULL
RETURNING customer_no;

-- profile_read --
-- A customer as it is shown.
SELECT
    c.customer_no, c.customer_id, p.name, p.email, p.time_zone, p.currency, p.rate_card,
    p.stripe_customer_id, p.subscription_id, p.subscription_status, p.plan_tier, p.metadata,
    (SELECT t.trouble FROM auto_top_ups AS t WHERE t.customer_no = c.customer_no) AS top_up_trouble,
    c.overage_policy, c.overage_limit, c.closed_at, c.created_at,
    p.updated_at, p.erased_at,
    0 < (
        SELECT count(*)
        FROM accounts AS a
        WHERE
            a.customer_no = c.customer_no
            AND a.owed_debits - a.owed_credits
            > CASE
                WHEN c.overage_policy = 'owe' AND a.asset = 'credits' THEN c.overage_limit ELSE 0
            END
    ) AS over_limit
FROM customers AS c
INNER JOIN profiles AS p ON c.customer_no = p.customer_no
WHERE c.customer_no = $1::bigint;

-- profiles_list --
-- Customers, newest first. $1 looks into id, name and e-mail; $2: open or closed; $3: bound to one.
SELECT
    c.customer_no, c.customer_id, p.name, p.email, p.time_zone, p.currency, p.rate_card,
    p.stripe_customer_id, p.subscription_id, p.subscription_status, p.plan_tier, p.metadata,
    (SELECT t.trouble FROM auto_top_ups AS t WHERE t.customer_no = c.customer_no) AS top_up_trouble,
    c.overage_policy, c.overage_limit, c.closed_at, c.created_at,
    p.updated_at, p.erased_at,
    0 < (
        SELECT count(*)
        FROM accounts AS a
        WHERE
            a.customer_no = c.customer_no
            AND a.owed_debits - a.owed_credits
            > CASE
                WHEN c.overage_policy = 'owe' AND a.asset = 'credits' THEN c.overage_limit ELSE 0
            END
    ) AS over_limit
FROM customers AS c
INNER JOIN profiles AS p ON c.customer_no = p.customer_no
WHERE
    ($3::bigint IS NULL OR c.customer_no = $3::bigint)
    AND ($4::bigint IS NULL OR c.customer_no < $4::bigint)
    AND ($2::text IS NULL OR ($2::text = 'closed') = (c.closed_at IS NOT NULL))
    AND (
        $1::text IS NULL
        OR strpos(lower(c.customer_id), lower($1::text)) > 0
        OR strpos(lower(p.name), lower($1::text)) > 0
        OR strpos(lower(p.email), lower($1::text)) > 0
    )
ORDER BY c.customer_no DESC
LIMIT $5::integer;

-- assets_read --
-- All assets.
SELECT asset, scale, is_money, created_at FROM assets ORDER BY asset;

-- asset_lock --
-- Waits for those who are using an asset for the first time, so that `asset_put` sees them.
SELECT asset FROM assets WHERE asset = $1::text FOR UPDATE;

-- asset_put --
-- Makes an asset, or changes the scale of one that nothing counts yet: no account, and of `credits`
-- no overage limit. No row: it is in use.
INSERT INTO assets AS a (asset, scale)
VALUES ($1::text, $2::smallint)
ON CONFLICT (asset) DO UPDATE SET scale = excluded.scale
WHERE
a.scale = excluded.scale
OR (
    NOT a.is_money
    AND NOT EXISTS (SELECT 1 FROM accounts AS used WHERE used.asset = excluded.asset) -- noqa: RF01
    AND NOT (
        excluded.asset = 'credits' -- noqa: RF01
        AND EXISTS (SELECT 1 FROM customers AS limited WHERE limited.overage_limit IS NOT NULL)
    )
)
RETURNING asset, scale, is_money, created_at, xmax = 0 AS is_new;

-- installation_read --
-- This database's one business.
SELECT
    installation_id, mode, books_time_zone, cursor_secret, clock_offset, closed_through, epoch,
    created_at
FROM installation;

-- installation_make --
-- Stores what is fixed at the first start; later starts leave it.
INSERT INTO installation (installation_id, mode, books_time_zone, cursor_secret)
VALUES ($1::text, $2::text, $3::text, $4::bytea)
ON CONFLICT DO NOTHING;

-- installation_mode_fix --
-- The mode of the books: that of the first key of Stripe, for ever.
UPDATE installation
SET mode = coalesce(mode, $1::text)
RETURNING mode;

-- clock_advance --
-- Moves the sandbox's clock ahead; it never goes back.
UPDATE installation
SET clock_offset = clock_offset + greatest($1::interval, interval '0')
WHERE mode = 'sandbox'
RETURNING service_now_v1();

-- clock_read --
-- The service's time.
SELECT service_now_v1();

-- customers_due --
-- Customers to whom time has done something, the longest due first.
SELECT customer_no
FROM customers
WHERE next_due_at <= (SELECT service_now_v1())
ORDER BY next_due_at
LIMIT $1::integer;

-- customers_due_next --
-- When something falls due next, for anyone.
SELECT min(next_due_at) FROM customers WHERE next_due_at IS NOT NULL;
