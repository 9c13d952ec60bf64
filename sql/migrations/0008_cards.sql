-- Automatic top-up: a pack is bought by the saved card when credit runs low.

CREATE TABLE auto_top_ups (
    customer_no bigint PRIMARY KEY,
    is_enabled boolean NOT NULL,
    asset text COLLATE "C" NOT NULL,
    -- At or below this (available less what is owed) it buys.
    threshold bigint NOT NULL CHECK (threshold >= 0),
    -- Up to where; NULL: the threshold.
    target bigint CHECK (target > threshold),
    pack text COLLATE "C" NOT NULL,
    -- Attempts a day and money a month (UTC), in the smallest unit of what the pack costs.
    count_day integer CHECK (count_day > 0),
    amount_month bigint CHECK (amount_month > 0),
    -- What stands in the way: declines in a row, until when it waits, the card that was declined.
    declines integer NOT NULL DEFAULT 0,
    not_before timestamptz,
    trouble text CHECK (trouble IN ('declined', 'authentication', 'no_card')),
    bad_card text,
    error text,
    updated_at timestamptz NOT NULL,
    is_armed boolean NOT NULL GENERATED ALWAYS AS (is_enabled AND trouble IS NULL) STORED
);

CREATE INDEX auto_top_ups_armed ON auto_top_ups (customer_no) WHERE is_armed;

-- Each try: one purchase. One is open at a time.
CREATE TABLE top_up_attempts (
    customer_no bigint NOT NULL,
    purchase_no bigint NOT NULL,
    -- The name of the call that makes the payment intent.
    call text COLLATE "C" NOT NULL,
    card text COLLATE "C" NOT NULL,
    fingerprint text,
    currency text COLLATE "C" NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    status text NOT NULL CHECK (status IN ('open', 'paid', 'failed')),
    error text,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    PRIMARY KEY (customer_no, purchase_no),
    CONSTRAINT top_up_attempts_ended CHECK ((status = 'open') = (ended_at IS NULL))
);

CREATE UNIQUE INDEX top_up_attempts_open ON top_up_attempts (customer_no) WHERE status = 'open';

CREATE INDEX top_up_attempts_time ON top_up_attempts (customer_no, started_at);

GRANT SELECT, INSERT, UPDATE ON auto_top_ups, top_up_attempts TO drawdown_app;
