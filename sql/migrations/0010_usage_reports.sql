-- What plans bill by usage: their items, what is in force for a customer, and what Stripe is told.

ALTER TABLE plans
-- JSON: what of a plan is billed by use, and what covers usage beyond the wallet.
ADD COLUMN metered text NOT NULL DEFAULT '[]',
ADD COLUMN overage text NOT NULL DEFAULT 'null';

ALTER TABLE customers
-- Whether the overage policy is the customer's own; else it is its plan's.
ADD COLUMN has_own_overage boolean NOT NULL DEFAULT false,
-- From when on `bill` acts as `deny`, as no subscription passes it on; NULL: it is in force.
ADD COLUMN unbilled_from timestamptz,
-- What was billed before the current billing period: the limit counts the rest.
ADD COLUMN billed_before numeric(38, 0) NOT NULL DEFAULT 0;

UPDATE customers SET has_own_overage = true WHERE overage_policy <> 'deny';

ALTER TABLE meters
-- Some plan bills by it: what it counts is told to Stripe.
ADD COLUMN is_reported boolean NOT NULL DEFAULT false;

-- Prices at Stripe that bill by use, and what they stand for, for ever.
CREATE TABLE plan_item_prices (
    price_id text COLLATE "C" PRIMARY KEY,
    plan text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    event_name text COLLATE "C" NOT NULL,
    stripe_meter_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE UNIQUE INDEX plan_item_prices_version
ON plan_item_prices (plan, version, event_name, price_id);

-- Usage beyond the wallet that `bill` covered, by its own time; negative: what was undone of it, by
-- the time of the charge. One row for each journal that moved `billed`.
CREATE TABLE billed_usage (
    customer_no bigint NOT NULL,
    effective_at timestamptz NOT NULL,
    seq bigint NOT NULL,
    amount numeric(38, 0) NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (customer_no, effective_at, seq)
);

INSERT INTO billed_usage (customer_no, effective_at, seq, amount)
SELECT
    t.customer_no,
    coalesce(c.effective_at, j.effective_at),
    t.seq,
    sum(CASE WHEN t.debit = 'billed' THEN t.amount ELSE -t.amount END)
FROM transfers AS t
INNER JOIN journals AS j ON t.customer_no = j.customer_no AND t.seq = j.seq
LEFT JOIN journals AS c ON j.customer_no = c.customer_no AND j.charge_seq = c.seq
WHERE t.debit = 'billed' OR t.credit = 'billed'
GROUP BY t.customer_no, coalesce(c.effective_at, j.effective_at), t.seq;

-- Hours in which something changed that a customer's subscription bills by use.
CREATE TABLE unreported_usage (
    customer_no bigint NOT NULL,
    -- 0: usage beyond the wallet.
    meter_no integer NOT NULL,
    hour timestamptz NOT NULL,
    -- Grows with every change, so that what was counted meanwhile is not taken for done.
    version bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (customer_no, meter_no, hour)
) WITH (fillfactor = 70);

CREATE INDEX unreported_usage_hour ON unreported_usage (hour);

-- What of a customer is reported, and under which name.
CREATE TABLE report_items (
    customer_no bigint NOT NULL,
    item_no bigint NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    -- 0: usage beyond the wallet, in credits.
    meter_no integer NOT NULL,
    -- Smallest units of credits that are one unit at Stripe.
    report_unit bigint CHECK (report_unit > 0),
    event_name text COLLATE "C" NOT NULL,
    stripe_meter_id text COLLATE "C" NOT NULL,
    stripe_customer_id text COLLATE "C" NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    -- What was used until then is told at once: the subscription is about to end or to change.
    flush_at timestamptz,
    PRIMARY KEY (customer_no, item_no),
    CONSTRAINT report_items_kind CHECK ((meter_no = 0) = (report_unit IS NOT NULL))
);

CREATE UNIQUE INDEX report_items_open ON report_items (customer_no, event_name)
WHERE ends_at IS NULL;

CREATE INDEX report_items_of_meter ON report_items (customer_no, meter_no);

-- The billing periods of an item, as far as it is of them.
CREATE TABLE report_periods (
    customer_no bigint NOT NULL,
    item_no bigint NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    -- Of the invoice that bills it, once it can't change any more.
    invoice_id text COLLATE "C",
    closed_at timestamptz,
    -- After its end what was left over of a unit was told too.
    is_final boolean NOT NULL DEFAULT false,
    -- When it is looked again whether its invoice can still change.
    look_at timestamptz,
    PRIMARY KEY (customer_no, item_no, starts_at),
    CONSTRAINT report_periods_not_empty CHECK (starts_at < ends_at)
);

CREATE INDEX report_periods_open ON report_periods (ends_at) WHERE closed_at IS NULL;

-- What was measured in an hour of an item, or in the part of it that lies in one period.
CREATE TABLE report_windows (
    customer_no bigint NOT NULL,
    item_no bigint NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    period_start timestamptz NOT NULL,
    -- Credits in the smallest unit, or the meter's quantity.
    amount numeric NOT NULL,
    -- What Stripe has counted of rows that it has not counted as told.
    settled numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (customer_no, item_no, starts_at)
) WITH (fillfactor = 70);

-- One piece of usage told to Stripe. What it says never changes; where it stands does.
CREATE TABLE report_rows (
    customer_no bigint NOT NULL,
    item_no bigint NOT NULL,
    window_at timestamptz NOT NULL,
    seq integer NOT NULL CHECK (seq > 0),
    part integer NOT NULL CHECK (part > 0),
    value numeric NOT NULL CHECK (value <> 0),
    identifier text COLLATE "C" NOT NULL,
    status text NOT NULL CHECK (status IN (
        'due', 'sending', 'sent', 'confirmed', 'billed', 'rejected', 'disputed', 'unknown',
        'superseded', 'unreportable', 'missed_invoice'
    )),
    created_at timestamptz NOT NULL,
    first_sent_at timestamptz,
    sent_at timestamptz,
    settled_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz,
    error text,
    -- It was told, is to be, or can't be any more: it is not told again.
    is_counted boolean NOT NULL GENERATED ALWAYS AS (
        status NOT IN ('rejected', 'disputed', 'superseded')
    ) STORED,
    is_open boolean NOT NULL GENERATED ALWAYS AS (
        status IN ('due', 'sending', 'unknown')
    ) STORED,
    PRIMARY KEY (customer_no, item_no, window_at, seq, part)
) WITH (fillfactor = 70);

CREATE INDEX report_rows_open ON report_rows (created_at) WHERE is_open;

CREATE INDEX report_rows_sent ON report_rows (sent_at) WHERE status = 'sent';

-- What Stripe had counted of an hour when it was last asked.
CREATE TABLE report_sums (
    customer_no bigint NOT NULL,
    stripe_meter_id text COLLATE "C" NOT NULL,
    stripe_customer_id text COLLATE "C" NOT NULL,
    hour timestamptz NOT NULL,
    counted numeric NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, stripe_meter_id, stripe_customer_id, hour)
) WITH (fillfactor = 70);

CREATE TRIGGER plan_item_prices_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON plan_item_prices
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

-- Marks the hours in which something changed of what is billed by use.
CREATE FUNCTION usage_changed_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM meters WHERE is_reported) THEN
        INSERT INTO unreported_usage AS u (customer_no, meter_no, hour)
        SELECT DISTINCT c.customer_no, c.meter_no, date_trunc('hour', c.grain, 'UTC')
        FROM changed AS c
        INNER JOIN
            report_items AS i
            ON c.customer_no = i.customer_no AND c.meter_no = i.meter_no
        ORDER BY 1, 2, 3
        ON CONFLICT (customer_no, meter_no, hour) DO UPDATE SET version = u.version + 1;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rollups_made AFTER INSERT ON rollups
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION usage_changed_v1();

CREATE TRIGGER rollups_moved AFTER UPDATE ON rollups
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION usage_changed_v1();

CREATE TRIGGER rollups_taken AFTER DELETE ON rollups
REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION usage_changed_v1();

CREATE TRIGGER billed_usage_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billed_usage
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

GRANT SELECT, INSERT ON plan_item_prices, billed_usage TO drawdown_app;
GRANT SELECT, INSERT, UPDATE ON
report_items, report_periods, report_windows, report_rows, report_sums
TO drawdown_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON unreported_usage TO drawdown_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO drawdown_app;
