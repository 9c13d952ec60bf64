-- Stripe: what is sold there, what is made there, and what it told.

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

CREATE TRIGGER packs_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON packs
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

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

ALTER TABLE profiles ADD COLUMN stripe_customer_id text COLLATE "C";

CREATE UNIQUE INDEX profiles_stripe_customer ON profiles (stripe_customer_id)
WHERE stripe_customer_id IS NOT NULL;

CREATE INDEX purchases_open ON purchases (created_at) WHERE status = 'open';

CREATE INDEX purchases_by_time ON purchases (created_at, customer_no, purchase_no);

CREATE INDEX journals_of_purchases ON journals (customer_no, lot_no, seq)
WHERE origin = 'purchase';

GRANT SELECT, INSERT ON packs TO drawdown_app;
GRANT SELECT, INSERT, DELETE ON stripe_events TO drawdown_app;
GRANT SELECT, INSERT, UPDATE ON stripe_calls, stripe_objects, stripe_cursors TO drawdown_app;
GRANT USAGE ON SEQUENCE stripe_refund_no TO drawdown_app;
