-- Bought credits: purchases, what takes them back, and what freezes them meanwhile.

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
        (kind = 'plan') = (invoice_id IS NOT NULL)
        AND (invoice_id IS NULL) = (line_id IS NULL)
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

-- Stripe's ids of what was made for a purchase. Not sharded: a small directory, as such an object
-- names no customer of ours. An id belongs to one purchase for ever.
CREATE TABLE purchase_objects (
    object_id text COLLATE "C" PRIMARY KEY,
    customer_no bigint NOT NULL,
    purchase_no bigint NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE INDEX purchase_objects_purchase ON purchase_objects (customer_no, purchase_no);

ALTER TABLE lots ADD COLUMN purchase_no bigint;
-- What is to come back of a bought lot, and has not: it is pinned and is taken as it returns
-- (`clawback_due`), was burned and is forgiven (`written_off`), or ran out before (`lapsed`, a part
-- of `expired`). What was burned and is not forgiven is a debt.
ALTER TABLE lots ADD COLUMN clawback_due bigint NOT NULL DEFAULT 0;
ALTER TABLE lots ADD COLUMN written_off bigint NOT NULL DEFAULT 0;
ALTER TABLE lots ADD COLUMN lapsed bigint NOT NULL DEFAULT 0;
ALTER TABLE lots ADD CONSTRAINT lots_clawback_within CHECK (
    clawback_due >= 0 AND clawback_due <= pinned
    AND written_off >= 0 AND written_off <= amount
    AND lapsed >= 0 AND lapsed <= expired
);

CREATE INDEX lots_purchase ON lots (customer_no, purchase_no) WHERE purchase_no IS NOT NULL;

-- The lot whose credit was taken back after it was spent; `charge_seq` is then that journal.
ALTER TABLE debts ADD COLUMN lot_no bigint;

CREATE INDEX debts_lot ON debts (customer_no, lot_no) WHERE lot_no IS NOT NULL;

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

ALTER TABLE journals DROP CONSTRAINT journals_kind_check;
ALTER TABLE journals ADD CONSTRAINT journals_kind_check CHECK (kind IN (
    'grant', 'activation', 'charge', 'debt_repaid', 'hold_end', 'expiry', 'rollover', 'void',
    'reversal', 'clawback', 'restore', 'release', 'dispute', 'fee'
));

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

GRANT EXECUTE ON FUNCTION claw_v1 TO drawdown_app;
GRANT SELECT, INSERT ON purchase_objects TO drawdown_app;
GRANT SELECT, INSERT, UPDATE ON purchases, freezes TO drawdown_app;
