-- Recognition of revenue, lot by lot, and the months that are closed.

ALTER TABLE journals DROP CONSTRAINT journals_kind_check;
ALTER TABLE journals ADD CONSTRAINT journals_kind_check CHECK (kind IN (
    'grant', 'activation', 'charge', 'debt_repaid', 'hold_end', 'expiry', 'rollover', 'void',
    'reversal', 'clawback', 'restore', 'release', 'dispute', 'fee', 'recognition'
));

-- The last journal whose money half is recognised.
ALTER TABLE customers ADD COLUMN recognised_seq bigint NOT NULL DEFAULT 0;

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

-- What purchases gave back, and what rollovers moved along.
INSERT INTO recognitions (customer_no, lot_no, revenue, breakage, returned, recognised_seq)
SELECT
    customer_no,
    lot_no,
    0 AS revenue,
    0 AS breakage,
    sum(amount) AS returned,
    0 AS recognised_seq
FROM (
    SELECT
        l.customer_no,
        l.lot_no,
        p.deferred_returned AS amount
    FROM lots AS l
    INNER JOIN purchases AS p ON l.customer_no = p.customer_no AND l.purchase_no = p.purchase_no
    WHERE l.category = 'paid' AND p.deferred_returned <> 0
    UNION ALL
    SELECT
        j.customer_no,
        j.lot_no,
        n.cost_amount AS amount
    FROM journals AS j
    INNER JOIN
        transfers AS t
        ON j.customer_no = t.customer_no AND j.seq = t.seq AND t.credit IN ('wallet', 'upcoming')
    INNER JOIN lots AS n ON t.customer_no = n.customer_no AND t.lot_no = n.lot_no
    WHERE j.kind = 'rollover' AND n.cost_amount > 0
    UNION ALL
    -- A void's money by the credit that it took of each lot; the last one has what rounding left.
    SELECT
        v.customer_no,
        v.lot_no,
        (
            floor(v.money * v.units_until / v.units)
            - floor(v.money * (v.units_until - v.taken) / v.units)
        )::bigint AS amount
    FROM (
        SELECT
            j.customer_no,
            t.lot_no,
            t.amount AS taken,
            m.amount AS money,
            sum(t.amount) OVER (PARTITION BY j.customer_no, j.seq) AS units,
            sum(t.amount) OVER (PARTITION BY j.customer_no, j.seq ORDER BY t.line) AS units_until
        FROM journals AS j
        INNER JOIN
            transfers AS t
            ON j.customer_no = t.customer_no AND j.seq = t.seq AND t.credit = 'purchased'
        CROSS JOIN LATERAL (
            SELECT sum(s.amount) AS amount
            FROM transfers AS s
            WHERE
                s.customer_no = j.customer_no
                AND s.seq = j.seq
                AND s.debit = 'deferred_revenue'
        ) AS m
        WHERE j.kind = 'void' AND m.amount > 0
    ) AS v
) AS gone
GROUP BY customer_no, lot_no;

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

CREATE TRIGGER period_totals_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON period_totals
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE TRIGGER period_heads_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON period_heads
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

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

GRANT EXECUTE ON FUNCTION deferred_v1, period_hash_v1 TO drawdown_app;
GRANT SELECT, INSERT ON period_totals, period_heads TO drawdown_app;
GRANT SELECT, INSERT, UPDATE ON recognitions, periods TO drawdown_app;
