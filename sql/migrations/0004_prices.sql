-- What usage costs: rate cards, the lines of charges, and the counters that tiers count on.

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

CREATE TRIGGER rate_cards_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rate_cards
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

ALTER TABLE profiles ADD COLUMN rate_card text COLLATE "C";

-- What the usage of a hold is priced by, from its first estimate on. A free estimate holds nothing.
ALTER TABLE holds ADD COLUMN rate_card text COLLATE "C";
ALTER TABLE holds ADD COLUMN rate_version integer;
ALTER TABLE holds DROP CONSTRAINT holds_amount_check;
ALTER TABLE holds ADD CONSTRAINT holds_amount_check CHECK (amount >= 0);

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

CREATE TRIGGER charge_lines_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON charge_lines
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

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

GRANT SELECT, INSERT ON rate_cards, charge_lines TO drawdown_app;
GRANT SELECT, INSERT, UPDATE ON price_counters TO drawdown_app;
