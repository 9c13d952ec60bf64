-- Plans: what is sold by subscription, and the subscriptions that Stripe has of our customers.

-- What can be subscribed to: a version for every change, none ever changed.
CREATE TABLE plans (
    plan text COLLATE "C" NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    name text NOT NULL,
    -- A word of the caller's own, shown on the customer.
    tier text NOT NULL,
    asset text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    period text NOT NULL CHECK (period IN ('month', 'year')),
    trial_days integer CHECK (trial_days > 0),
    -- For each period and seat; 0: the plan gives none.
    credits bigint NOT NULL CHECK (credits >= 0),
    trial_credits bigint NOT NULL CHECK (trial_credits >= 0),
    upgrade_credits text NOT NULL CHECK (upgrade_credits IN ('renewal', 'full')),
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    requires_subscription boolean NOT NULL,
    rate_card text COLLATE "C",
    tax_code text,
    tax_behavior text,
    is_active boolean NOT NULL,
    metadata text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (plan, version)
);

CREATE TRIGGER plans_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON plans
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

-- Every price ever made at Stripe for a plan, and the version that it stands for, for ever.
CREATE TABLE plan_prices (
    price_id text COLLATE "C" PRIMARY KEY,
    plan text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE UNIQUE INDEX plan_prices_version ON plan_prices (plan, version, price_id);

CREATE TRIGGER plan_prices_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON plan_prices
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

-- A customer's subscriptions as Stripe had them when they were last fetched.
CREATE TABLE subscriptions (
    customer_no bigint NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    status text NOT NULL,
    plan text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    quantity integer NOT NULL CHECK (quantity >= 0),
    price_id text COLLATE "C" NOT NULL,
    -- JSON: the rest of what is shown, and what changes of it need.
    state text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    -- Another live one of the same customer came first.
    is_duplicate boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    is_live boolean NOT NULL GENERATED ALWAYS AS (
        status NOT IN ('canceled', 'incomplete_expired')
    ) STORED,
    PRIMARY KEY (customer_no, subscription_id)
);

CREATE INDEX subscriptions_by_period ON subscriptions (period_end) WHERE is_live;

-- Of the first live subscription, or of the last one that ended.
ALTER TABLE profiles ADD COLUMN subscription_id text COLLATE "C";
ALTER TABLE profiles ADD COLUMN subscription_status text;
ALTER TABLE profiles ADD COLUMN plan text COLLATE "C";
ALTER TABLE profiles ADD COLUMN plan_tier text;
ALTER TABLE profiles ADD COLUMN plan_rate_card text COLLATE "C";

-- From when on nothing new starts without a subscription in good standing; NULL: it may.
ALTER TABLE customers ADD COLUMN gated_from timestamptz;

-- A plan's first purchase is recorded when it is ordered; the line of the invoice that pays it
-- comes later, and says what it is.
ALTER TABLE purchases DROP CONSTRAINT purchases_plan_has_line;
ALTER TABLE purchases ADD CONSTRAINT purchases_plan_has_line CHECK (
    (invoice_id IS NULL) = (line_id IS NULL)
    AND (kind = 'plan' OR invoice_id IS NULL)
    AND (kind = 'pack' OR invoice_id IS NOT NULL OR status <> 'credited')
);

GRANT SELECT, INSERT ON plans, plan_prices TO drawdown_app;
GRANT SELECT, INSERT, UPDATE ON subscriptions TO drawdown_app;
