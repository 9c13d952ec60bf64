-- Plans that give their credits month by month; and what pays an invoice of several purchases.

ALTER TABLE plans
-- How often in a period of the plan its credits are given; NULL: once.
ADD COLUMN credits_every text CHECK (
    credits_every IS NULL OR (credits_every = 'month' AND period = 'year')
);

-- The intents that have paid an invoice, for the purchases that its lines are.
CREATE TABLE invoice_intents (
    customer_no bigint NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    intent_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, invoice_id, intent_id)
);

CREATE TRIGGER invoice_intents_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON invoice_intents
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

GRANT SELECT, INSERT ON invoice_intents TO drawdown_app;
