-- The books of one business: customers, credit accounts, lots, holds, journals.
--
-- Every table with customer data has customer_no first in its primary key, unique keys and foreign
-- keys, so the same schema shards by customer. Hot tables have no foreign keys: they are written
-- under the customer's lock, and `drawdown verify` proves what a foreign key would promise.
-- Generated flags (`is_open` …) stand in the predicates of partial indexes instead of the numbers
-- they come from, so that an update of the numbers stays within its page.

CREATE TABLE installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    installation_id text NOT NULL,
    mode text CHECK (mode IN ('sandbox', 'test', 'live')),
    books_time_zone text NOT NULL,
    cursor_secret bytea NOT NULL,
    clock_offset interval NOT NULL DEFAULT interval '0',
    closed_through date,
    epoch integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Grows with every change of meters and rate cards: see `meter/catalog.py`.
    catalog_version bigint NOT NULL DEFAULT 0,
    CONSTRAINT installation_clock_sandbox_only
    CHECK (clock_offset = interval '0' OR mode = 'sandbox')
);

CREATE TABLE assets (
    asset text COLLATE "C" PRIMARY KEY,
    scale smallint NOT NULL CHECK (scale BETWEEN 0 AND 12),
    is_money boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX assets_of_credits ON assets (asset) WHERE NOT is_money;

-- The caller's own id of a customer, for ever mapped to our number. Not sharded: a small directory.
CREATE TABLE customer_directory (
    customer_id text COLLATE "C" PRIMARY KEY,
    customer_no bigint GENERATED ALWAYS AS IDENTITY UNIQUE
);

-- What is locked and moved: one narrow row a customer. Personal fields live in `profiles`.
CREATE TABLE customers (
    customer_no bigint PRIMARY KEY,
    customer_id text COLLATE "C" NOT NULL,
    overage_policy text NOT NULL DEFAULT 'deny' CHECK (overage_policy IN ('deny', 'owe', 'bill')),
    overage_limit bigint CHECK (overage_limit >= 0),
    signup_due boolean NOT NULL DEFAULT false,
    closed_at timestamptz,
    -- From when on nothing new starts without a subscription in good standing; NULL: it may.
    gated_from timestamptz,
    last_no bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    last_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    last_created_at timestamptz,
    next_due_at timestamptz,
    created_at timestamptz NOT NULL,
    -- Whether the overage policy is the customer's own; else it is its plan's.
    has_own_overage boolean NOT NULL DEFAULT false,
    -- From when on `bill` acts as `deny`, as no subscription passes it on; NULL: it is in force.
    unbilled_from timestamptz,
    -- What was billed before the current billing period: the limit counts the rest.
    billed_before numeric(38, 0) NOT NULL DEFAULT 0,
    -- The last journal whose money half is recognised.
    recognised_seq bigint NOT NULL DEFAULT 0,
    -- From when on no plan renews: credit of a plan that ends then, or later, does not roll over.
    plan_until timestamptz,
    CONSTRAINT customers_owe_has_limit
    CHECK (overage_policy <> 'owe' OR overage_limit IS NOT NULL)
) WITH (fillfactor = 50);

CREATE INDEX customers_next_due_at ON customers (next_due_at) WHERE next_due_at IS NOT NULL;

CREATE TABLE profiles (
    customer_no bigint PRIMARY KEY REFERENCES customers (customer_no),
    name text,
    email text,
    time_zone text NOT NULL DEFAULT 'UTC',
    currency text,
    metadata text NOT NULL DEFAULT '{}',
    rate_card text COLLATE "C",
    stripe_customer_id text COLLATE "C",
    -- Of the first live subscription, or of the last one that ended.
    subscription_id text COLLATE "C",
    subscription_status text,
    plan text COLLATE "C",
    plan_tier text,
    plan_rate_card text COLLATE "C",
    updated_at timestamptz NOT NULL,
    -- Since when the personal fields of the customer are gone; they are not taken in again.
    erased_at timestamptz
);

CREATE UNIQUE INDEX profiles_stripe_customer ON profiles (stripe_customer_id)
WHERE stripe_customer_id IS NOT NULL;

-- The credit accounts of a customer in one asset, one row: debits and credits ever posted, and what
-- open holds have set aside (pending: pinned; uncovered: promised beyond the wallet).
CREATE TABLE accounts (
    customer_no bigint NOT NULL,
    asset text COLLATE "C" NOT NULL,
    wallet_debits numeric(38, 0) NOT NULL DEFAULT 0,
    wallet_credits numeric(38, 0) NOT NULL DEFAULT 0,
    wallet_pending numeric(38, 0) NOT NULL DEFAULT 0,
    upcoming_debits numeric(38, 0) NOT NULL DEFAULT 0,
    upcoming_credits numeric(38, 0) NOT NULL DEFAULT 0,
    purchased_debits numeric(38, 0) NOT NULL DEFAULT 0,
    purchased_credits numeric(38, 0) NOT NULL DEFAULT 0,
    granted_debits numeric(38, 0) NOT NULL DEFAULT 0,
    granted_credits numeric(38, 0) NOT NULL DEFAULT 0,
    burned_debits numeric(38, 0) NOT NULL DEFAULT 0,
    burned_credits numeric(38, 0) NOT NULL DEFAULT 0,
    expired_debits numeric(38, 0) NOT NULL DEFAULT 0,
    expired_credits numeric(38, 0) NOT NULL DEFAULT 0,
    owed_debits numeric(38, 0) NOT NULL DEFAULT 0,
    owed_credits numeric(38, 0) NOT NULL DEFAULT 0,
    billed_debits numeric(38, 0) NOT NULL DEFAULT 0,
    billed_credits numeric(38, 0) NOT NULL DEFAULT 0,
    uncovered_owe numeric(38, 0) NOT NULL DEFAULT 0,
    uncovered_bill numeric(38, 0) NOT NULL DEFAULT 0,
    PRIMARY KEY (customer_no, asset),
    CONSTRAINT accounts_available_floor
    CHECK (wallet_pending >= 0 AND wallet_credits - wallet_debits >= wallet_pending),
    CONSTRAINT accounts_upcoming_floor CHECK (upcoming_credits >= upcoming_debits),
    CONSTRAINT accounts_owed_floor CHECK (owed_debits >= owed_credits),
    CONSTRAINT accounts_billed_floor CHECK (billed_debits >= billed_credits),
    CONSTRAINT accounts_uncovered_floor CHECK (uncovered_owe >= 0 AND uncovered_bill >= 0)
) WITH (fillfactor = 50);

CREATE TABLE money_accounts (
    customer_no bigint NOT NULL,
    asset text COLLATE "C" NOT NULL,
    cash_debits numeric(38, 0) NOT NULL DEFAULT 0,
    cash_credits numeric(38, 0) NOT NULL DEFAULT 0,
    fees_debits numeric(38, 0) NOT NULL DEFAULT 0,
    fees_credits numeric(38, 0) NOT NULL DEFAULT 0,
    refunds_debits numeric(38, 0) NOT NULL DEFAULT 0,
    refunds_credits numeric(38, 0) NOT NULL DEFAULT 0,
    disputed_debits numeric(38, 0) NOT NULL DEFAULT 0,
    disputed_credits numeric(38, 0) NOT NULL DEFAULT 0,
    deferred_revenue_debits numeric(38, 0) NOT NULL DEFAULT 0,
    deferred_revenue_credits numeric(38, 0) NOT NULL DEFAULT 0,
    revenue_debits numeric(38, 0) NOT NULL DEFAULT 0,
    revenue_credits numeric(38, 0) NOT NULL DEFAULT 0,
    breakage_revenue_debits numeric(38, 0) NOT NULL DEFAULT 0,
    breakage_revenue_credits numeric(38, 0) NOT NULL DEFAULT 0,
    tax_debits numeric(38, 0) NOT NULL DEFAULT 0,
    tax_credits numeric(38, 0) NOT NULL DEFAULT 0,
    opening_debits numeric(38, 0) NOT NULL DEFAULT 0,
    opening_credits numeric(38, 0) NOT NULL DEFAULT 0,
    PRIMARY KEY (customer_no, asset)
);

CREATE TABLE grants (
    customer_no bigint NOT NULL,
    grant_no bigint NOT NULL,
    asset text COLLATE "C" NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    category text NOT NULL CHECK (category IN ('paid', 'promotional')),
    cost_amount bigint CHECK (cost_amount >= 0),
    currency text COLLATE "C",
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    effective_at timestamptz NOT NULL,
    expires_at timestamptz,
    recur_interval text CHECK (recur_interval IN ('day', 'week', 'month', 'year')),
    recur_count integer,
    recur_anchor timestamptz,
    rollover_max bigint,
    rollover_expires_in bigint,
    next_start_at timestamptz,
    voided_at timestamptz,
    void_money text CHECK (void_money IN ('refunded', 'breakage')),
    origin text NOT NULL,
    has_purchase boolean NOT NULL DEFAULT false,
    journal_seq bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, grant_no),
    CONSTRAINT grants_paid_has_cost
    CHECK ((category = 'paid') = (cost_amount IS NOT NULL AND currency IS NOT NULL)),
    CONSTRAINT grants_end_after_start CHECK (expires_at > effective_at)
);

CREATE INDEX grants_open_series ON grants (customer_no, next_start_at)
WHERE next_start_at IS NOT NULL;

CREATE TABLE lots (
    customer_no bigint NOT NULL,
    lot_no bigint NOT NULL,
    grant_no bigint NOT NULL,
    asset text COLLATE "C" NOT NULL,
    category text NOT NULL CHECK (category IN ('paid', 'promotional')),
    amount bigint NOT NULL CHECK (amount > 0),
    remaining bigint NOT NULL,
    pinned bigint NOT NULL,
    expired bigint NOT NULL,
    voided bigint NOT NULL,
    priority smallint NOT NULL,
    effective_at timestamptz NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL,
    is_upcoming boolean NOT NULL,
    is_rollover boolean NOT NULL,
    voided_at timestamptz,
    cost_amount bigint,
    currency text COLLATE "C",
    deferred_amount bigint NOT NULL,
    deferred_units bigint NOT NULL,
    purchase_no bigint,
    -- What is to come back of a bought lot, and has not: it is pinned and is taken as it returns
    -- (`clawback_due`), was burned and is forgiven (`written_off`), or ran out before (`lapsed`, a
    -- part of `expired`). What was burned and is not forgiven is a debt.
    clawback_due bigint NOT NULL DEFAULT 0,
    written_off bigint NOT NULL DEFAULT 0,
    lapsed bigint NOT NULL DEFAULT 0,
    is_open boolean NOT NULL GENERATED ALWAYS AS (remaining > 0) STORED,
    has_expired boolean NOT NULL GENERATED ALWAYS AS (expired > 0) STORED,
    PRIMARY KEY (customer_no, lot_no),
    CONSTRAINT lots_pinned_within CHECK (pinned >= 0 AND pinned <= remaining),
    CONSTRAINT lots_amount_whole
    CHECK (expired >= 0 AND voided >= 0 AND remaining + expired + voided <= amount),
    CONSTRAINT lots_clawback_within CHECK (
        clawback_due >= 0 AND clawback_due <= pinned
        AND written_off >= 0 AND written_off <= amount
        AND lapsed >= 0 AND lapsed <= expired
    )
) WITH (fillfactor = 50);

CREATE INDEX lots_burn_order ON lots (
    customer_no, asset, priority, expires_at, category DESC, effective_at, created_at, lot_no
) WHERE is_open;

CREATE INDEX lots_ends ON lots (customer_no, expires_at)
WHERE is_open AND expires_at IS NOT NULL;

CREATE INDEX lots_starts ON lots (customer_no, effective_at) WHERE is_upcoming;

CREATE INDEX lots_grant ON lots (customer_no, grant_no);

CREATE INDEX lots_expired ON lots (customer_no, asset, expires_at) WHERE has_expired;

CREATE INDEX lots_purchase ON lots (customer_no, purchase_no) WHERE purchase_no IS NOT NULL;

CREATE TABLE holds (
    customer_no bigint NOT NULL,
    hold_no bigint NOT NULL,
    asset text COLLATE "C" NOT NULL,
    status text NOT NULL CHECK (status IN ('open', 'captured', 'voided', 'expired')),
    requested bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),
    captured bigint NOT NULL CHECK (captured >= 0),
    uncovered bigint NOT NULL CHECK (uncovered >= 0),
    policy text CHECK (policy IN ('owe', 'bill')),
    -- What it has pinned of each lot; an ended hold keeps what it had pinned just before its end.
    pin_lots bigint[] NOT NULL,
    pin_amounts bigint[] NOT NULL,
    steps integer NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    ended_created_at timestamptz,
    reference text,
    metadata text,
    -- What its usage is priced by, from the first estimate on.
    rate_card text COLLATE "C",
    rate_version integer,
    is_open boolean NOT NULL GENERATED ALWAYS AS (status = 'open') STORED,
    PRIMARY KEY (customer_no, hold_no),
    CONSTRAINT holds_ended_or_open CHECK ((status = 'open') = (ended_at IS NULL)),
    CONSTRAINT holds_pins_paired CHECK (cardinality(pin_lots) = cardinality(pin_amounts))
) WITH (fillfactor = 80);

CREATE INDEX holds_open ON holds (customer_no, expires_at) WHERE is_open;

-- What an open hold had pinned before a change that left it open: a past moment can be asked.
CREATE TABLE hold_steps (
    customer_no bigint NOT NULL,
    hold_no bigint NOT NULL,
    step_no integer NOT NULL,
    at timestamptz NOT NULL,
    pinned_before bigint NOT NULL,
    PRIMARY KEY (customer_no, hold_no, step_no)
);

-- One business fact. Append-only: no role of the service may update or delete it.
CREATE TABLE journals (
    customer_no bigint NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    kind text NOT NULL CHECK (kind IN (
        'grant', 'activation', 'charge', 'debt_repaid', 'hold_end', 'expiry', 'rollover', 'void',
        'reversal', 'clawback', 'restore', 'release', 'dispute', 'fee',
        'recognition'
    )),
    effective_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    book_date date NOT NULL,
    late_for text,
    hold_no bigint,
    grant_no bigint,
    lot_no bigint,
    charge_seq bigint,
    debt_no bigint,
    is_late boolean NOT NULL,
    origin text NOT NULL,
    request_key text COLLATE "C",
    notes_digest bytea,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (customer_no, seq)
);

CREATE INDEX journals_hold ON journals (customer_no, hold_no, seq) WHERE hold_no IS NOT NULL;

CREATE INDEX journals_of_purchases ON journals (customer_no, lot_no, seq)
WHERE origin = 'purchase';

-- Book dates grow with the table, so a block range says where a month is and costs writers nothing.
CREATE INDEX journals_book_date ON journals USING brin (book_date)
WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE transfers (
    customer_no bigint NOT NULL,
    seq bigint NOT NULL,
    line integer NOT NULL,
    asset text COLLATE "C" NOT NULL,
    debit text NOT NULL,
    credit text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    lot_no bigint,
    debt_no bigint,
    PRIMARY KEY (customer_no, seq, line),
    CONSTRAINT transfers_two_sides CHECK (debit <> credit)
);

CREATE INDEX transfers_debt ON transfers (customer_no, debt_no) WHERE debt_no IS NOT NULL;

-- Free text of a journal, kept beside it: erasing it leaves the chain whole (a salted digest).
CREATE TABLE notes (
    customer_no bigint NOT NULL,
    seq bigint NOT NULL,
    salt bytea NOT NULL,
    reference text,
    reason text,
    metadata text,
    PRIMARY KEY (customer_no, seq)
);

CREATE TABLE debts (
    customer_no bigint NOT NULL,
    debt_no bigint NOT NULL,
    asset text COLLATE "C" NOT NULL,
    -- The journal that left it owed: a charge, or a clawback of what `lot_no` no longer has.
    charge_seq bigint NOT NULL,
    lot_no bigint,
    amount bigint NOT NULL CHECK (amount > 0),
    repaid bigint NOT NULL,
    cancelled bigint NOT NULL,
    returned bigint NOT NULL,
    is_open boolean NOT NULL GENERATED ALWAYS AS (repaid + cancelled < amount) STORED,
    PRIMARY KEY (customer_no, debt_no),
    CONSTRAINT debts_within CHECK (
        repaid >= 0 AND cancelled >= 0 AND repaid + cancelled <= amount
        AND returned >= 0 AND returned <= repaid
    )
);

CREATE INDEX debts_open ON debts (customer_no, asset, debt_no) WHERE is_open;

CREATE INDEX debts_charge ON debts (customer_no, charge_seq);

CREATE INDEX debts_lot ON debts (customer_no, lot_no) WHERE lot_no IS NOT NULL;

CREATE TABLE reversed_charges (
    customer_no bigint NOT NULL,
    charge_seq bigint NOT NULL,
    reversed bigint NOT NULL CHECK (reversed > 0),
    PRIMARY KEY (customer_no, charge_seq)
);

-- Requests that have their answer, by idempotency key. customer_no 0: business-wide requests.
CREATE TABLE requests (
    customer_no bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    operation text NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    body bytea NOT NULL,
    trace_id text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, key)
);

CREATE INDEX requests_refusals ON requests (created_at) WHERE status >= 400;

CREATE INDEX requests_refusals_of_customer ON requests (customer_no, created_at)
WHERE status >= 400;

-- API keys and customer tokens: SHA-256 of the secret only. Not sharded: a small directory.
CREATE TABLE api_keys (
    key_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    kind text NOT NULL CHECK (kind IN ('key', 'token')),
    name text NOT NULL,
    scopes text[] NOT NULL,
    customer_no bigint,
    parent_no bigint REFERENCES api_keys (key_no),
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);

CREATE INDEX api_keys_parent ON api_keys (parent_no) WHERE parent_no IS NOT NULL;

-- Who runs a job now. `fence` grows with every new holder: a paused one can write no more.
CREATE TABLE job_leases (
    job text PRIMARY KEY,
    holder text NOT NULL,
    fence bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    -- The clock runs the job no more, until it is resumed; it can be run by hand.
    paused_at timestamptz
);

CREATE TABLE job_runs (
    run_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    counts jsonb NOT NULL DEFAULT '{}',
    error text
);

CREATE INDEX job_runs_job ON job_runs (job, run_no DESC);

-- What is counted. Small, the same on every shard.
CREATE TABLE meters (
    meter_no integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    meter text COLLATE "C" NOT NULL UNIQUE,
    event_type text COLLATE "C" NOT NULL,
    aggregation text NOT NULL
    CHECK (aggregation IN ('count', 'sum', 'min', 'max', 'avg', 'unique', 'latest')),
    value_property text,
    -- JSON: name → path in the event's data, in the order the caller gave.
    group_by text NOT NULL DEFAULT '{}',
    filters text,
    unit text,
    charge text NOT NULL DEFAULT 'none' CHECK (charge IN ('none', 'events', 'calls')),
    -- Since when it reads events by its present definition.
    defined_at timestamptz NOT NULL,
    -- It has counted or rejected an event: its definition is fixed.
    is_used boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    -- Some plan bills by it: what it counts is told to Stripe.
    is_reported boolean NOT NULL DEFAULT false,
    CONSTRAINT meters_value_property CHECK ((aggregation = 'count') = (value_property IS NULL))
);

-- Price lists: immutable versions.
CREATE TABLE rate_cards (
    rate_card text COLLATE "C" NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    asset text COLLATE "C" NOT NULL,
    effective_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    -- The rates as they were published: JSON.
    rates text NOT NULL,
    PRIMARY KEY (rate_card, version)
);

-- Result of rating one usage quantity by one rate; beside the journal of its charge or reversal.
-- Append-only, as the books are. `charge_lines_fact` is the mark that a fact was charged.
CREATE TABLE charge_lines (
    customer_no bigint NOT NULL,
    seq bigint NOT NULL,
    line integer NOT NULL,
    meter_no integer NOT NULL,
    quantity numeric NOT NULL,
    dimensions text NOT NULL,
    rate_card text COLLATE "C" NOT NULL,
    rate_version integer NOT NULL,
    rate_no integer NOT NULL,
    asset text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    counter text COLLATE "C",
    period_start timestamptz,
    period_end timestamptz,
    total_before numeric NOT NULL,
    source text COLLATE "C",
    event_id text COLLATE "C",
    event_at timestamptz NOT NULL,
    revision integer NOT NULL,
    PRIMARY KEY (customer_no, seq, line),
    CONSTRAINT charge_lines_counted
    CHECK ((counter IS NULL) = (period_start IS NULL) AND (counter IS NULL) = (period_end IS NULL))
);

CREATE UNIQUE INDEX charge_lines_fact
ON charge_lines (customer_no, source, event_id, meter_no, revision)
WHERE event_id IS NOT NULL;

CREATE INDEX charge_lines_counter ON charge_lines (customer_no, counter, period_start, seq)
WHERE counter IS NOT NULL;

-- How much was used in a period, for rates whose price depends on it; `carry`: what a cheaper tier
-- has still to give back. By the end of the period, so that finding the open ones costs the same
-- however long the history.
CREATE TABLE price_counters (
    customer_no bigint NOT NULL,
    period_end timestamptz NOT NULL,
    period_start timestamptz NOT NULL,
    counter text COLLATE "C" NOT NULL,
    quantity numeric NOT NULL,
    carry bigint NOT NULL CHECK (carry >= 0),
    -- Of a window that is priced once: whose group of values this is.
    dimensions text,
    PRIMARY KEY (customer_no, period_end, period_start, counter)
) WITH (fillfactor = 70);

-- The identities of the events of the last 36 days at least, by which duplicates are found.
CREATE TABLE event_guards (
    customer_no bigint NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    -- The first half of the SHA-256 of the content.
    content_hash bytea NOT NULL,
    -- The event's own time: the way to its row.
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, source, id)
);

CREATE INDEX event_guards_received_at ON event_guards USING brin (received_at);

CREATE TABLE events (
    customer_no bigint NOT NULL,
    time timestamptz NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    data text NOT NULL,
    extensions text,
    -- Recorded by a charge: only these meters read it. NULL: every meter of its type does.
    meters integer[],
    received_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, time, source, id)
) PARTITION BY RANGE (time);

-- The months that have a partition. A row makes it, and its end drops it: so a restore, which
-- writes these rows first, finds the partitions that its events need.
CREATE TABLE event_months (
    month date PRIMARY KEY CHECK (month = date_trunc('month', month::timestamp)::date),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Of each event only the latest correction counts.
CREATE TABLE corrections (
    customer_no bigint NOT NULL,
    correction_id text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    -- Of its event: 1, 2, …
    number integer NOT NULL CHECK (number > 0),
    action text NOT NULL CHECK (action IN ('cancel', 'replace')),
    data text,
    is_latest boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, correction_id),
    CONSTRAINT corrections_replace_has_data CHECK ((action = 'replace') = (data IS NOT NULL))
);

CREATE UNIQUE INDEX corrections_of_event ON corrections (customer_no, time, source, id, number);

CREATE UNIQUE INDEX corrections_latest ON corrections (customer_no, time, source, id)
WHERE is_latest;

-- What a meter counted in a quarter of an hour (UTC), per group. Which of the numbers are kept
-- follows from the meter's aggregation.
CREATE TABLE rollups (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    grain timestamptz NOT NULL,
    -- JSON: the values of the dimensions, in the order of the meter's group_by.
    dims text COLLATE "C" NOT NULL,
    events bigint NOT NULL CHECK (events > 0),
    total numeric,
    least numeric,
    greatest numeric,
    latest_at timestamptz,
    latest_id text COLLATE "C",
    latest_source text COLLATE "C",
    latest_value numeric,
    PRIMARY KEY (customer_no, meter_no, grain, dims)
) WITH (fillfactor = 70);

-- The distinct values of `unique`, and how many events have each.
CREATE TABLE rollup_values (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    grain timestamptz NOT NULL,
    dims text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    events bigint NOT NULL CHECK (events > 0),
    PRIMARY KEY (customer_no, meter_no, grain, dims, value)
) WITH (fillfactor = 70);

-- Events that one meter could not read. The other meters of their type did.
CREATE TABLE meter_rejects (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    time timestamptz NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, meter_no, time, source, id)
);

CREATE INDEX meter_rejects_latest ON meter_rejects (meter_no, received_at);

-- What `charge: events` has still to price: single events of count and sum,
CREATE TABLE unrated_events (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    -- Why it could not be priced, and when that is tried again.
    refusal text,
    not_before timestamptz,
    PRIMARY KEY (customer_no, meter_no, source, id)
);

CREATE INDEX unrated_events_meter ON unrated_events (meter_no, refusal);

-- and quarters of an hour of the other aggregations in which something changed.
CREATE TABLE unrated_windows (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    grain timestamptz NOT NULL,
    -- Grows with every change, so that what was priced meanwhile is not taken for done.
    version bigint NOT NULL DEFAULT 1,
    refusal text,
    not_before timestamptz,
    PRIMARY KEY (customer_no, meter_no, grain)
);

CREATE INDEX unrated_windows_meter ON unrated_windows (meter_no, refusal);

-- A meter also counts a customer's events that were received before it was defined, up to here.
CREATE TABLE meter_rebuilds (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    through timestamptz NOT NULL,
    PRIMARY KEY (customer_no, meter_no)
);

-- Our record of one pack or one line of a plan's invoice. The first half is what was expected when
-- it was made, before anything was paid; the second what is booked of its money, in the smallest
-- unit of `currency`. Everything a purchase is worth follows from that.
CREATE TABLE purchases (
    customer_no bigint NOT NULL,
    purchase_no bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('pack', 'plan')),
    status text NOT NULL CHECK (status IN ('open', 'credited', 'failed', 'parked')),
    -- The version of the pack or plan that was bought.
    product text COLLATE "C" NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    asset text COLLATE "C" NOT NULL,
    credits bigint NOT NULL CHECK (credits > 0),
    bonus bigint NOT NULL CHECK (bonus >= 0),
    currency text COLLATE "C" NOT NULL,
    -- Before discounts and tax.
    amount bigint NOT NULL CHECK (amount >= 0),
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    bonus_priority smallint NOT NULL CHECK (bonus_priority BETWEEN 0 AND 100),
    effective_at timestamptz,
    expires_at timestamptz,
    expires_in bigint CHECK (expires_in > 0),
    bonus_expires_in bigint CHECK (bonus_expires_in > 0),
    invoice_id text COLLATE "C",
    line_id text COLLATE "C",
    captured_amount bigint NOT NULL DEFAULT 0,
    tax_amount bigint NOT NULL DEFAULT 0,
    refunded_amount bigint NOT NULL DEFAULT 0,
    lost_amount bigint NOT NULL DEFAULT 0,
    disputed_amount bigint NOT NULL DEFAULT 0,
    fee_amount bigint NOT NULL DEFAULT 0,
    -- Of what went back: the part that was tax, and the part that was still deferred.
    tax_returned bigint NOT NULL DEFAULT 0,
    deferred_returned bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    credited_at timestamptz,
    PRIMARY KEY (customer_no, purchase_no),
    CONSTRAINT purchases_plan_has_line CHECK (
        (invoice_id IS NULL) = (line_id IS NULL)
        AND (kind = 'plan' OR invoice_id IS NULL)
        AND (kind = 'pack' OR invoice_id IS NOT NULL OR status <> 'credited')
    ),
    CONSTRAINT purchases_credited_once CHECK ((status = 'credited') = (credited_at IS NOT NULL)),
    CONSTRAINT purchases_amounts CHECK (
        tax_amount BETWEEN 0 AND captured_amount
        AND refunded_amount >= 0
        AND lost_amount >= 0
        AND disputed_amount >= 0
        AND tax_returned BETWEEN 0 AND tax_amount
        AND deferred_returned BETWEEN 0 AND captured_amount - tax_amount
    )
);

CREATE UNIQUE INDEX purchases_line ON purchases (customer_no, invoice_id, line_id)
WHERE invoice_id IS NOT NULL;

CREATE INDEX purchases_open ON purchases (created_at) WHERE status = 'open';

CREATE INDEX purchases_by_time ON purchases (created_at, customer_no, purchase_no);

-- Stripe's ids of what was made for a purchase. Not sharded: a small directory, as such an object
-- names no customer of ours. An id belongs to one purchase for ever.
CREATE TABLE purchase_objects (
    object_id text COLLATE "C" PRIMARY KEY,
    customer_no bigint NOT NULL,
    purchase_no bigint NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE INDEX purchase_objects_purchase ON purchase_objects (customer_no, purchase_no);

-- The intents that have paid an invoice, for the purchases that its lines are.
CREATE TABLE invoice_intents (
    customer_no bigint NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    intent_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, invoice_id, intent_id)
);

-- What is pinned of a bought lot without a deadline, and why. A row never changes but for its end:
-- a part that ends is the end of the row and a new one for the rest.
CREATE TABLE freezes (
    customer_no bigint NOT NULL,
    freeze_no bigint NOT NULL,
    purchase_no bigint NOT NULL,
    lot_no bigint NOT NULL,
    asset text COLLATE "C" NOT NULL,
    reason text NOT NULL CHECK (reason IN ('refund', 'dispute', 'fraud')),
    reference text COLLATE "C" NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    started_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    ended_created_at timestamptz,
    ended_as text CHECK (ended_as IN ('clawback', 'released', 'split')),
    is_open boolean NOT NULL GENERATED ALWAYS AS (ended_at IS NULL) STORED,
    PRIMARY KEY (customer_no, freeze_no),
    CONSTRAINT freezes_ended_or_open CHECK (
        (ended_at IS NULL) = (ended_created_at IS NULL) AND (ended_at IS NULL) = (ended_as IS NULL)
    )
);

CREATE INDEX freezes_open ON freezes (customer_no, purchase_no) WHERE is_open;

CREATE INDEX freezes_of_asset ON freezes (customer_no, asset);

-- What can be bought once: a version for every change, none ever changed.
CREATE TABLE packs (
    pack text COLLATE "C" NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    name text NOT NULL,
    asset text COLLATE "C" NOT NULL,
    credits bigint NOT NULL CHECK (credits > 0),
    bonus bigint NOT NULL CHECK (bonus >= 0),
    bonus_expires_in bigint CHECK (bonus_expires_in > 0),
    expires_in bigint CHECK (expires_in > 0),
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    -- JSON: currency → amount in its smallest unit; the first is taken where the customer has none.
    prices text NOT NULL,
    tax_code text,
    tax_behavior text,
    is_active boolean NOT NULL,
    metadata text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (pack, version)
);

-- What is made at Stripe, once each: the name is where Stripe's idempotency key comes from, the
-- parameters are those of the first attempt.
CREATE TABLE stripe_calls (
    name text COLLATE "C" PRIMARY KEY,
    kind text NOT NULL,
    customer_no bigint,
    purchase_no bigint,
    params text NOT NULL,
    -- Grows when it is sent under a new key: Stripe has forgotten the old one, or the object was
    -- deleted there.
    revision integer NOT NULL DEFAULT 1,
    first_sent_at timestamptz,
    object_id text COLLATE "C",
    answer text,
    -- A job sends it: nobody waits.
    is_queued boolean NOT NULL,
    -- Whose request it was: one call for each.
    request_key text COLLATE "C",
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz,
    error text,
    is_parked boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    done_at timestamptz,
    CONSTRAINT stripe_calls_done CHECK ((object_id IS NULL) = (done_at IS NULL))
);

CREATE INDEX stripe_calls_queued ON stripe_calls (created_at)
WHERE is_queued AND object_id IS NULL AND NOT is_parked;

CREATE INDEX stripe_calls_purchase ON stripe_calls (customer_no, purchase_no)
WHERE purchase_no IS NOT NULL;

CREATE UNIQUE INDEX stripe_calls_request ON stripe_calls (customer_no, request_key)
WHERE request_key IS NOT NULL;

CREATE SEQUENCE stripe_refund_no;

-- Deliveries, as they came.
CREATE TABLE stripe_events (
    event_id text COLLATE "C" PRIMARY KEY,
    type text NOT NULL,
    object_id text COLLATE "C",
    -- What became of it: an object was marked, nothing of it concerns us, or it is of another mode.
    outcome text NOT NULL CHECK (outcome IN ('marked', 'ignored', 'other_mode')),
    body bytea NOT NULL,
    created_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL
);

CREATE INDEX stripe_events_object ON stripe_events (object_id, created_at)
WHERE object_id IS NOT NULL;

CREATE INDEX stripe_events_received ON stripe_events (received_at);

-- Objects of Stripe that there is news of. News counts up `marked`; a worker fetches the object,
-- applies it and says up to where in `done`.
CREATE TABLE stripe_objects (
    object_id text COLLATE "C" PRIMARY KEY,
    kind text NOT NULL,
    marked bigint NOT NULL DEFAULT 1,
    done bigint NOT NULL DEFAULT 0,
    -- Of the worker that has it, in real time; grows with each.
    fence bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz,
    error text,
    is_parked boolean NOT NULL DEFAULT false,
    marked_at timestamptz NOT NULL,
    done_at timestamptz,
    is_open boolean NOT NULL GENERATED ALWAYS AS (marked > done AND NOT is_parked) STORED
);

CREATE INDEX stripe_objects_open ON stripe_objects (marked_at) WHERE is_open;

-- Up to where Stripe's own lists were read.
CREATE TABLE stripe_cursors (
    name text COLLATE "C" PRIMARY KEY,
    at timestamptz NOT NULL
);

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
    -- For each period (or `credits_every`) and seat; 0: the plan gives none.
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
    -- JSON: what of a plan is billed by use, and what covers usage beyond the wallet.
    metered text NOT NULL DEFAULT '[]',
    overage text NOT NULL DEFAULT 'null',
    -- How often in a period of the plan its credits are given; NULL: once.
    credits_every text CHECK (
        credits_every IS NULL OR (credits_every = 'month' AND period = 'year')
    ),
    -- Of what a period leaves unused, how much stays for how many seconds longer (NULL: for ever).
    rollover_max bigint CHECK (rollover_max > 0),
    rollover_expires_in bigint CHECK (rollover_expires_in > 0),
    -- Whether those who have subscribed already move to this version when their period ends.
    apply_to text NOT NULL DEFAULT 'new' CHECK (apply_to IN ('new', 'next_period')),
    PRIMARY KEY (plan, version),
    CONSTRAINT plans_rollover_has_max
    CHECK (rollover_max IS NOT NULL OR rollover_expires_in IS NULL)
);

-- Every price ever made at Stripe for a plan, and the version that it stands for, for ever.
CREATE TABLE plan_prices (
    price_id text COLLATE "C" PRIMARY KEY,
    plan text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE UNIQUE INDEX plan_prices_version ON plan_prices (plan, version, price_id);

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
    is_armed boolean NOT NULL GENERATED ALWAYS AS (is_enabled AND trouble IS NULL) STORED,
    -- Until then nothing can be bought, and why: a cap is reached, or is of another currency than
    -- what the pack costs by now; the pack is not for sale; the customer is closed.
    look_at timestamptz,
    waits_for text CHECK (waits_for IN ('cap', 'currency', 'pack', 'closed')),
    -- Of amount_month.
    currency text COLLATE "C"
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
    -- When the intent is looked at again; NULL: at once.
    look_at timestamptz,
    PRIMARY KEY (customer_no, purchase_no),
    CONSTRAINT top_up_attempts_ended CHECK ((status = 'open') = (ended_at IS NULL))
);

CREATE UNIQUE INDEX top_up_attempts_open ON top_up_attempts (customer_no) WHERE status = 'open';

CREATE INDEX top_up_attempts_time ON top_up_attempts (customer_no, started_at);

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
    -- The price at Stripe that the item had in it when that was last looked at.
    price_id text COLLATE "C",
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
        'superseded', 'unreportable', 'missed_invoice', 'next_invoice'
    )),
    created_at timestamptz NOT NULL,
    first_sent_at timestamptz,
    sent_at timestamptz,
    settled_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz,
    error text,
    -- The call that makes the invoice item which bills it.
    call_name text COLLATE "C",
    -- Why no later invoice bills what missed its own; NULL: that is not decided.
    not_billed text CHECK (
        not_billed IN ('written_off', 'no_next_invoice', 'no_price', 'refused', 'unsure')
    ),
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

CREATE INDEX report_rows_rejected ON report_rows (settled_at)
WHERE status = 'rejected' AND not_before IS NULL;

CREATE INDEX report_rows_missed ON report_rows (customer_no, item_no, window_at)
WHERE status = 'missed_invoice' AND not_billed IS NULL;

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

-- What has left the deferred revenue of a lot, in its currency's smallest unit: earned as revenue
-- or as breakage by `recognition` journals, or `returned`: refunded, voided, or moved along by a
-- rollover. The rest of the lot's cost is deferred.
CREATE TABLE recognitions (
    customer_no bigint NOT NULL,
    lot_no bigint NOT NULL,
    revenue bigint NOT NULL,
    breakage bigint NOT NULL,
    returned bigint NOT NULL,
    -- Of the lot alone: the last journal that is recognised, where that is later.
    recognised_seq bigint NOT NULL,
    PRIMARY KEY (customer_no, lot_no)
) WITH (fillfactor = 70);

-- Months that are closed, or about to be: nothing new has a book date in one.
CREATE TABLE periods (
    period text COLLATE "C" PRIMARY KEY CHECK (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    -- The first month that was closed has no first day: it holds all that was before.
    starts_on date,
    ends_on date NOT NULL UNIQUE,
    began_at timestamptz NOT NULL,
    -- NULL: it is being closed.
    closed_at timestamptz,
    reason text,
    -- What was not proved when it was closed all the same.
    failures integer NOT NULL DEFAULT 0,
    customers bigint,
    journals bigint,
    transfers bigint,
    hash bytea,
    CONSTRAINT periods_summarised CHECK (
        (closed_at IS NULL) = (hash IS NULL)
        AND (closed_at IS NULL) = (journals IS NULL)
        AND (closed_at IS NULL) = (transfers IS NULL)
        AND (closed_at IS NULL) = (customers IS NULL)
    ),
    CONSTRAINT periods_forced_has_reason CHECK (failures = 0 OR reason IS NOT NULL)
);

-- What a closed month moved of each account, of all customers.
CREATE TABLE period_totals (
    period text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    account text NOT NULL,
    debits numeric(38, 0) NOT NULL,
    credits numeric(38, 0) NOT NULL,
    PRIMARY KEY (period, asset, account)
);

-- The last journal that each customer had when a month was closed.
CREATE TABLE period_heads (
    customer_no bigint NOT NULL,
    period text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (customer_no, period)
);

CREATE INDEX period_heads_period ON period_heads (period, customer_no);

-- The public id of object `no` of a customer: see `ledger/ids.py`.
CREATE FUNCTION public_id_v1(prefix text, customer_no bigint, no bigint)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT prefix || '_' || upper(lpad(to_hex(customer_no), 16, '0') || lpad(to_hex(no), 16, '0'))
$$;

-- One row an account, for reports and proofs.
CREATE VIEW account_balances AS
SELECT
    a.customer_no,
    a.asset,
    v.account,
    v.debits,
    v.credits
FROM accounts AS a
CROSS JOIN
    LATERAL (
        VALUES
        ('wallet', a.wallet_debits, a.wallet_credits),
        ('upcoming', a.upcoming_debits, a.upcoming_credits),
        ('purchased', a.purchased_debits, a.purchased_credits),
        ('granted', a.granted_debits, a.granted_credits),
        ('burned', a.burned_debits, a.burned_credits),
        ('expired', a.expired_debits, a.expired_credits),
        ('owed', a.owed_debits, a.owed_credits),
        ('billed', a.billed_debits, a.billed_credits)
    ) AS v (account, debits, credits)
UNION ALL
SELECT
    m.customer_no,
    m.asset,
    v.account,
    v.debits,
    v.credits
FROM money_accounts AS m
CROSS JOIN
    LATERAL (
        VALUES
        ('cash', m.cash_debits, m.cash_credits),
        ('fees', m.fees_debits, m.fees_credits),
        ('refunds', m.refunds_debits, m.refunds_credits),
        ('disputed', m.disputed_debits, m.disputed_credits),
        ('deferred_revenue', m.deferred_revenue_debits, m.deferred_revenue_credits),
        ('revenue', m.revenue_debits, m.revenue_credits),
        ('breakage_revenue', m.breakage_revenue_debits, m.breakage_revenue_credits),
        ('tax', m.tax_debits, m.tax_credits),
        ('opening', m.opening_debits, m.opening_credits)
    ) AS v (account, debits, credits);

CREATE FUNCTION refuse_change_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: history is corrected by another journal', tg_table_name
        USING ERRCODE = 'check_violation', CONSTRAINT = 'journals_append_only';
END
$$;

CREATE TRIGGER journals_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journals
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER transfers_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER packs_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON packs
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER plans_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON plans
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER plan_prices_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON plan_prices
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER invoice_intents_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON invoice_intents
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER rate_cards_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rate_cards
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER charge_lines_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON charge_lines
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER plan_item_prices_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON plan_item_prices
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER billed_usage_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billed_usage
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER period_totals_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON period_totals
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER period_heads_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON period_heads
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

-- The clock of the service: database time, plus an offset that exists in sandbox mode only.
CREATE FUNCTION service_now_v1() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT clock_timestamp() + clock_offset FROM installation
$$;

-- The last journal of a customer created at or before a moment, by halving: created_at grows with
-- seq and seq has no gaps, so no index is needed and the cost does not grow with the history.
CREATE FUNCTION journal_seq_at_v1(of_customer bigint, moment timestamptz)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
    middle_at timestamptz;
BEGIN
    SELECT last_seq INTO high FROM customers WHERE customer_no = of_customer;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        SELECT created_at INTO middle_at FROM journals
        WHERE customer_no = of_customer AND seq = middle;
        IF middle_at <= moment THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN coalesce(low, 0);
END
$$;

-- Makes the partition of a month that was added. Runs as the owner of the tables.
CREATE FUNCTION event_month_made_v1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    name text := 'events_' || to_char(new.month, 'YYYY_MM');
BEGIN
    -- Made beside and attached: that locks out nobody who reads or writes.
    EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS)', name);
    EXECUTE format(
        'ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name,
        new.month::timestamp AT TIME ZONE 'UTC',
        (new.month + interval '1 month') AT TIME ZONE 'UTC'
    );
    RETURN new;
END
$$;

CREATE TRIGGER event_months_made AFTER INSERT ON event_months
FOR EACH ROW EXECUTE FUNCTION event_month_made_v1();

-- Drops the partition of a month that was taken away.
CREATE FUNCTION event_month_dropped_v1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    EXECUTE format('DROP TABLE %I', 'events_' || to_char(old.month, 'YYYY_MM'));
    RETURN old;
END
$$;

CREATE TRIGGER event_months_dropped AFTER DELETE ON event_months
FOR EACH ROW EXECUTE FUNCTION event_month_dropped_v1();

-- Makes those of these months that have no partition yet; answers how many.
CREATE FUNCTION event_months_make_v1(months date[])
RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    made integer;
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM unnest(months) AS wanted (month)
        WHERE NOT EXISTS (SELECT 1 FROM event_months AS m WHERE m.month = wanted.month)
    ) THEN
        RETURN 0;
    END IF;
    -- One maker at a time; the next one sees what this one made. ("drawdown", "months".)
    PERFORM pg_advisory_xact_lock(1685217655, 1836019828);
    INSERT INTO event_months (month)
    SELECT DISTINCT wanted.month FROM unnest(months) AS wanted (month)
    WHERE NOT EXISTS (SELECT 1 FROM event_months AS m WHERE m.month = wanted.month);
    GET DIAGNOSTICS made = ROW_COUNT;
    RETURN made;
END
$$;

-- Drops a month's raw events. False, and nothing is dropped, while it is younger than is needed to
-- find duplicates, or something of it is still to be priced. The only way for the service.
CREATE FUNCTION event_month_drop_v1(of_month date)
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    starts timestamptz := of_month::timestamp AT TIME ZONE 'UTC';
    ends timestamptz := (of_month + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    IF ends > service_now_v1() - interval '36 days'
        OR EXISTS (SELECT 1 FROM unrated_events WHERE time >= starts AND time < ends)
        OR EXISTS (SELECT 1 FROM unrated_windows WHERE grain >= starts AND grain < ends)
    THEN
        RETURN false;
    END IF;
    DELETE FROM event_months WHERE month = of_month;
    RETURN true;
END
$$;

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

-- What is to come back of `granted` when `gone` of `captured` has gone back, half to even; for
-- reports and proofs (the service decides by its own).
CREATE FUNCTION claw_v1(granted bigint, gone numeric, captured bigint)
RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN captured = 0 THEN 0
        WHEN gone >= captured THEN granted
        WHEN 2 * ((granted * gone) % captured) > captured THEN div(granted * gone, captured) + 1
        WHEN 2 * ((granted * gone) % captured) < captured THEN div(granted * gone, captured)
        ELSE div(granted * gone, captured) + div(granted * gone, captured) % 2
    END
$$;

-- What is deferred of a lot that had `deferred` and `units` at its last refund, restore or rollover
-- and has `kept` units now, half to even; for proofs (the service decides by its own).
CREATE FUNCTION deferred_v1(deferred bigint, units bigint, kept numeric)
RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN units = 0 OR kept <= 0 THEN 0
        WHEN 2 * ((deferred * kept) % units) > units THEN div(deferred * kept, units) + 1
        WHEN 2 * ((deferred * kept) % units) < units THEN div(deferred * kept, units)
        ELSE div(deferred * kept, units) + div(deferred * kept, units) % 2
    END
$$;

-- The hash of a closed month: SHA-256 over lines of UTF-8 text, each ended by a line feed: the hash
-- of the month closed before (hexadecimal, empty for the first one), the month with its counts, a
-- line an account in the order of (asset, account), a line a customer's head in that of numbers.
CREATE FUNCTION period_hash_v1(of_period text)
RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(
        coalesce((
            SELECT encode(b.hash, 'hex') FROM periods AS b
            WHERE b.ends_on < p.ends_on ORDER BY b.ends_on DESC LIMIT 1
        ), '') || E'\n'
        || concat_ws(
            '|', 'v1', p.period, to_char(p.ends_on, 'YYYY-MM-DD'), p.customers, p.journals,
            p.transfers
        ) || E'\n'
        || coalesce((
            SELECT string_agg(
                concat_ws('|', t.asset, t.account, t.debits, t.credits) || E'\n', ''
                ORDER BY t.asset COLLATE "C", t.account COLLATE "C"
            )
            FROM period_totals AS t WHERE t.period = p.period
        ), '')
        || coalesce((
            SELECT string_agg(
                concat_ws('|', h.customer_no, h.seq, encode(h.hash, 'hex')) || E'\n', ''
                ORDER BY h.customer_no
            )
            FROM period_heads AS h WHERE h.period = p.period
        ), ''),
        'UTF8'
    ))
    FROM periods AS p WHERE p.period = of_period
$$;

INSERT INTO assets (asset, scale, is_money)
SELECT code, 2, true FROM unnest(string_to_array(
    'AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD CAD '
    || 'CDF CHF CNY COP CRC CVE CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD HKD '
    || 'HNL HTG HUF IDR ILS INR ISK JMD KES KGS KHR KYD KZT LAK LBP LKR LRD LSL MAD MDL MKD MMK '
    || 'MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON '
    || 'RSD RUB SAR SBD SCR SEK SGD SHP SLE SOS SRD STD SZL THB TJS TOP TRY TTD TWD TZS UAH UGX '
    || 'USD UYU UZS WST XCD YER ZAR ZMW', ' '
)) AS code
UNION ALL
SELECT code, 0, true FROM unnest(string_to_array(
    'BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF', ' '
)) AS code
UNION ALL
SELECT code, 3, true FROM unnest(string_to_array('BHD JOD KWD OMR TND', ' ')) AS code
UNION ALL
SELECT 'credits', 9, false;

GRANT USAGE ON SCHEMA public TO drawdown_app;
GRANT SELECT, INSERT ON
journals, transfers, rate_cards, charge_lines, events, event_months,
purchase_objects, invoice_intents, packs, plans, plan_prices, plan_item_prices, billed_usage,
period_totals, period_heads
TO drawdown_app;
GRANT SELECT, INSERT, UPDATE ON
installation, assets, customer_directory, customers, profiles, accounts, money_accounts, grants,
lots, holds, hold_steps, debts, reversed_charges, meters, price_counters, corrections,
meter_rebuilds, purchases, freezes, stripe_calls, stripe_objects, stripe_cursors,
subscriptions, auto_top_ups, top_up_attempts, report_items, report_periods, report_windows,
report_rows, report_sums, recognitions, periods
TO drawdown_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON
api_keys, notes, requests, job_leases, job_runs, rollups, rollup_values,
unrated_events, unrated_windows, unreported_usage
TO drawdown_app;
GRANT SELECT, INSERT, DELETE ON event_guards, meter_rejects, stripe_events TO drawdown_app;
-- Of stored events and deliveries only the content ever changes, and only to less.
GRANT UPDATE (data, extensions) ON events TO drawdown_app;
GRANT UPDATE (body) ON stripe_events TO drawdown_app;
GRANT USAGE ON SEQUENCE stripe_refund_no TO drawdown_app;
GRANT SELECT ON account_balances TO drawdown_app;
REVOKE EXECUTE ON FUNCTION event_month_drop_v1(date) FROM public;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO drawdown_app;
