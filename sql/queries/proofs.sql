-- Proofs of the books. Each statement finds where one invariant is broken: no row if it holds.
--
-- Columns: customer_no; asset; what; expected and found, amounts in the asset's smallest unit, or
-- NULL where `what` says it all. $1 is the most rows told. Each statement sorts what it found, so
-- a plan never saves itself work in the hope of the limit.

-- proofs_settings --
-- For the proofs' own transaction: plans that read whole tables, and the time to do so.
SELECT
    set_config('enable_seqscan', 'on', true),
    set_config('enable_hashjoin', 'on', true),
    set_config('enable_mergejoin', 'on', true),
    set_config('plan_cache_mode', 'auto', true),
    set_config('jit', 'off', true),
    set_config('work_mem', '64MB', true),
    set_config('statement_timeout', $1::text, true);

-- proofs_names --
-- The callers' ids of customers, by the directory where there is no other row of one.
SELECT d.customer_no, coalesce(c.customer_id, d.customer_id) AS customer_id
FROM customer_directory AS d
LEFT JOIN customers AS c ON d.customer_no = c.customer_no
WHERE d.customer_no = any($1::bigint[]);

-- proofs_scales --
-- The decimals of each asset.
SELECT asset, scale FROM assets;

-- proof_balance --
-- Debits equal credits, per customer and asset, over all accounts.
SELECT
    customer_no,
    asset,
    'debits of all accounts, which equal the credits' AS what,
    sum(credits) AS expected,
    sum(debits) AS found
FROM account_balances
GROUP BY customer_no, asset
HAVING sum(debits) <> sum(credits)
ORDER BY customer_no, asset
LIMIT $1::integer;

-- proof_counters --
-- The counters of each account are the sums of its transfers, on both sides. Where a customer has
-- no account row in an asset, `proof_opened` tells.
WITH pairs AS (
    SELECT customer_no, asset, debit, credit, sum(amount) AS amount
    FROM transfers
    GROUP BY customer_no, asset, debit, credit
),

moved AS (
    SELECT p.customer_no, p.asset, s.account, sum(s.debits) AS debits, sum(s.credits) AS credits
    FROM pairs AS p
    CROSS JOIN
        LATERAL (VALUES (p.debit, p.amount, 0), (p.credit, 0, p.amount))
        AS s (account, debits, credits)
    GROUP BY p.customer_no, p.asset, s.account
),

compared AS (
    SELECT
        coalesce(m.customer_no, b.customer_no) AS customer_no,
        coalesce(m.asset, b.asset) AS asset,
        coalesce(m.account, b.account) AS account,
        coalesce(m.debits, 0) AS debits_moved,
        coalesce(b.debits, 0) AS debits,
        coalesce(m.credits, 0) AS credits_moved,
        coalesce(b.credits, 0) AS credits
    FROM moved AS m
    FULL JOIN
        account_balances AS b
        ON m.customer_no = b.customer_no AND m.asset = b.asset AND m.account = b.account
)

SELECT
    c.customer_no,
    c.asset,
    v.side || ' of ' || c.account || ', which are those of its transfers' AS what,
    v.moved AS expected,
    v.counted AS found
FROM compared AS c
CROSS JOIN
    LATERAL (
        VALUES ('debits', c.debits_moved, c.debits), ('credits', c.credits_moved, c.credits)
    ) AS v (side, moved, counted)
WHERE
    v.moved <> v.counted
    AND (c.customer_no, c.asset) IN (SELECT customer_no, asset FROM account_balances)
ORDER BY c.customer_no, c.asset, what
LIMIT $1::integer;

-- proof_opened --
-- Every asset that a customer has used has its row of accounts.
WITH used AS (
    SELECT customer_no, asset FROM transfers
    UNION
    SELECT customer_no, asset FROM lots
    UNION
    SELECT customer_no, asset FROM holds
    UNION
    SELECT customer_no, asset FROM debts
)

SELECT
    u.customer_no,
    u.asset,
    'there are no accounts in ' || u.asset || ', which was used' AS what,
    NULL AS expected,
    NULL AS found
FROM used AS u
LEFT JOIN assets AS s ON u.asset = s.asset
LEFT JOIN
    accounts AS a
    ON u.customer_no = a.customer_no AND u.asset = a.asset AND NOT s.is_money
LEFT JOIN
    money_accounts AS m
    ON u.customer_no = m.customer_no AND u.asset = m.asset AND s.is_money
WHERE a.customer_no IS NULL AND m.customer_no IS NULL
ORDER BY u.customer_no, u.asset
LIMIT $1::integer;

-- proof_floors --
-- No balance that must not be negative is.
SELECT
    a.customer_no,
    a.asset,
    v.name || ', which is never below zero' AS what,
    0 AS expected,
    v.amount AS found
FROM accounts AS a
CROSS JOIN
    LATERAL (
        VALUES
        ('available', a.wallet_credits - a.wallet_debits - a.wallet_pending),
        ('pending', a.wallet_pending),
        ('upcoming', a.upcoming_credits - a.upcoming_debits),
        ('burned', a.burned_credits - a.burned_debits),
        ('expired', a.expired_credits - a.expired_debits),
        ('owed', a.owed_debits - a.owed_credits),
        ('billed', a.billed_debits - a.billed_credits)
    ) AS v (name, amount)
WHERE v.amount < 0
ORDER BY a.customer_no, a.asset, what
LIMIT $1::integer;

-- proof_wallet --
-- Wallet and upcoming hold what the lots have left.
WITH held AS (
    SELECT
        customer_no,
        asset,
        coalesce(sum(remaining) FILTER (WHERE NOT is_upcoming), 0) AS wallet,
        coalesce(sum(remaining) FILTER (WHERE is_upcoming), 0) AS upcoming
    FROM lots
    GROUP BY customer_no, asset
)

SELECT
    a.customer_no,
    a.asset,
    v.name || ', which is what its lots have left' AS what,
    coalesce(v.held, 0) AS expected,
    v.posted AS found
FROM accounts AS a
LEFT JOIN held AS h ON a.customer_no = h.customer_no AND a.asset = h.asset
CROSS JOIN
    LATERAL (
        VALUES
        ('wallet', h.wallet, a.wallet_credits - a.wallet_debits),
        ('upcoming', h.upcoming, a.upcoming_credits - a.upcoming_debits)
    ) AS v (name, held, posted)
WHERE coalesce(v.held, 0) <> v.posted
ORDER BY a.customer_no, a.asset, what
LIMIT $1::integer;

-- proof_lots --
-- Each lot is what its transfers say: what was issued, what it has left and where, what expired,
-- was voided or taken back (what was restored taken off), was burned (repaid debt included, what
-- came back taken off). A voided lot has nothing left but what holds have pinned. What a clawback
-- made a debt moves nothing in its lot.
WITH restored AS (
    SELECT t.customer_no, t.lot_no, sum(t.amount) AS amount
    FROM journals AS j
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    WHERE
        j.kind = 'restore'
        AND t.debit IN ('purchased', 'granted')
        AND t.credit IN ('wallet', 'upcoming')
    GROUP BY t.customer_no, t.lot_no
),

pairs AS (
    SELECT customer_no, lot_no, asset, debit, credit, sum(amount) AS amount
    FROM transfers
    WHERE
        lot_no IS NOT NULL
        AND NOT (debit = 'owed' AND credit IN ('purchased', 'granted'))
        AND NOT (debit IN ('purchased', 'granted') AND credit = 'owed')
    GROUP BY customer_no, lot_no, asset, debit, credit
),

moved AS (
    SELECT
        p.customer_no,
        p.lot_no,
        p.asset,
        sum(s.debits) FILTER (WHERE s.account = 'purchased') AS purchased,
        sum(s.debits) FILTER (WHERE s.account = 'granted') AS granted,
        sum(s.credits) FILTER (WHERE s.account = 'purchased') AS purchased_back,
        sum(s.credits) FILTER (WHERE s.account = 'granted') AS granted_back,
        sum(s.credits - s.debits) FILTER (WHERE s.account = 'wallet') AS wallet,
        sum(s.credits - s.debits) FILTER (WHERE s.account = 'upcoming') AS upcoming,
        sum(s.credits - s.debits) FILTER (WHERE s.account = 'expired') AS expired,
        sum(s.credits - s.debits) FILTER (WHERE s.account IN ('burned', 'owed')) AS burned
    FROM pairs AS p
    CROSS JOIN
        LATERAL (VALUES (p.debit, p.amount, 0), (p.credit, 0, p.amount))
        AS s (account, debits, credits)
    GROUP BY p.customer_no, p.lot_no, p.asset
)

SELECT
    l.customer_no,
    l.asset,
    v.name || ' of lot ' || l.lot_no || v.meaning AS what,
    coalesce(v.moved, 0) AS expected,
    v.stored AS found
FROM lots AS l
LEFT JOIN
    moved AS m
    ON l.customer_no = m.customer_no AND l.lot_no = m.lot_no AND l.asset = m.asset
LEFT JOIN restored AS r ON l.customer_no = r.customer_no AND l.lot_no = r.lot_no
CROSS JOIN
    LATERAL (
        VALUES
        (
            'amount',
            ' by its transfers',
            CASE l.category WHEN 'paid' THEN m.purchased ELSE m.granted END
            - coalesce(r.amount, 0),
            l.amount
        ),
        (
            'remaining',
            ' by its transfers with the wallet',
            m.wallet,
            CASE WHEN l.is_upcoming THEN 0 ELSE l.remaining END
        ),
        (
            'remaining',
            ' by its transfers with upcoming',
            m.upcoming,
            CASE WHEN l.is_upcoming THEN l.remaining ELSE 0 END
        ),
        ('expired', ' by its transfers', m.expired, l.expired),
        (
            'voided',
            ' by its transfers',
            coalesce(CASE l.category WHEN 'paid' THEN m.purchased_back ELSE m.granted_back END, 0)
            - coalesce(r.amount, 0),
            l.voided
        ),
        ('burned', ' by its transfers', m.burned, l.amount - l.remaining - l.expired - l.voided),
        (
            'unpinned',
            ', which was voided',
            0,
            CASE WHEN l.voided_at IS NULL THEN 0 ELSE l.remaining - l.pinned END
        )
    ) AS v (name, meaning, moved, stored)
WHERE coalesce(v.moved, 0) <> v.stored
ORDER BY l.customer_no, l.lot_no, what
LIMIT $1::integer;

-- proof_pending --
-- What a wallet has set aside is what open holds have pinned, and open freezes of lots that have
-- started.
WITH pins AS (
    SELECT h.customer_no, h.asset, p.amount
    FROM holds AS h
    CROSS JOIN LATERAL unnest(h.pin_amounts) AS p (amount)
    WHERE h.is_open
    UNION ALL
    SELECT f.customer_no, f.asset, f.amount
    FROM freezes AS f
    LEFT JOIN lots AS l ON f.customer_no = l.customer_no AND f.lot_no = l.lot_no
    WHERE f.is_open AND NOT coalesce(l.is_upcoming, false)
),

pinned AS (
    SELECT customer_no, asset, sum(amount) AS amount
    FROM pins
    GROUP BY customer_no, asset
)

SELECT
    a.customer_no,
    a.asset,
    'pending, which is what open holds and freezes have pinned' AS what,
    coalesce(p.amount, 0) AS expected,
    a.wallet_pending AS found
FROM accounts AS a
LEFT JOIN pinned AS p ON a.customer_no = p.customer_no AND a.asset = p.asset
WHERE coalesce(p.amount, 0) <> a.wallet_pending
ORDER BY a.customer_no, a.asset
LIMIT $1::integer;

-- proof_pins --
-- What is pinned of each lot is what open holds and freezes have pinned of it; none pins a lot of
-- another asset or one that does not exist.
WITH pins AS (
    SELECT h.customer_no, p.lot_no, p.amount, h.asset
    FROM holds AS h
    CROSS JOIN LATERAL unnest(h.pin_lots, h.pin_amounts) AS p (lot_no, amount)
    WHERE h.is_open
    UNION ALL
    SELECT customer_no, lot_no, amount, asset
    FROM freezes
    WHERE is_open
),

pinned AS (
    SELECT
        customer_no, lot_no, sum(amount) AS amount, min(asset) AS asset, max(asset) AS other_asset
    FROM pins
    GROUP BY customer_no, lot_no
)

SELECT
    coalesce(l.customer_no, p.customer_no) AS customer_no,
    coalesce(l.asset, p.asset) AS asset,
    CASE
        WHEN l.lot_no IS NULL
            THEN 'lot ' || p.lot_no || ', which is pinned, does not exist'
        WHEN p.asset <> l.asset OR p.other_asset <> l.asset
            THEN 'lot ' || l.lot_no || ' is pinned by a hold or freeze of another asset'
        ELSE 'pinned of lot ' || l.lot_no || ' by open holds and freezes'
    END AS what,
    CASE
        WHEN p.lot_no IS NULL THEN 0
        WHEN p.asset = l.asset AND p.other_asset = l.asset THEN p.amount
    END AS expected,
    l.pinned AS found
FROM lots AS l
FULL JOIN pinned AS p ON l.customer_no = p.customer_no AND l.lot_no = p.lot_no
WHERE
    l.pinned IS DISTINCT FROM coalesce(p.amount, 0)
    OR p.asset <> l.asset
    OR p.other_asset <> l.asset
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_holds --
-- What each hold has captured is the sum of its charges. What an open one has left, pinned or
-- uncovered, is its amount less what was captured. A capture above the hold breaks that rule (it
-- leaves 0, and what is added later is whole): then more is left than the difference.
WITH charged AS (
    SELECT j.customer_no, j.hold_no, sum(t.amount) AS amount
    FROM journals AS j
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    WHERE j.kind = 'charge' AND j.hold_no IS NOT NULL AND t.credit = 'burned'
    GROUP BY j.customer_no, j.hold_no
),

steps AS (
    SELECT
        customer_no, hold_no, count(*) AS count, bool_or(pinned_before = 0) AS was_empty
    FROM hold_steps
    GROUP BY customer_no, hold_no
),

compared AS (
    SELECT
        h.customer_no,
        h.asset,
        h.hold_no,
        h.is_open,
        h.captured,
        h.amount - h.captured AS left_by_amount,
        h.uncovered + CASE
            WHEN h.is_open
                THEN (SELECT coalesce(sum(p.amount), 0) FROM unnest(h.pin_amounts) AS p (amount))
        END AS left_by_parts,
        coalesce(c.amount, 0) AS charged,
        coalesce(s.was_empty, false) AS was_empty,
        coalesce(s.count, 0) AS steps_kept,
        h.steps
    FROM holds AS h
    LEFT JOIN charged AS c ON h.customer_no = c.customer_no AND h.hold_no = c.hold_no
    LEFT JOIN steps AS s ON h.customer_no = s.customer_no AND h.hold_no = s.hold_no
)

SELECT
    c.customer_no,
    c.asset,
    v.what || c.hold_no || v.meaning AS what,
    v.expected,
    v.found
FROM compared AS c
CROSS JOIN
    LATERAL (
        VALUES
        ('captured of hold ', ' by its charges', c.charged, c.captured, c.charged <> c.captured),
        (
            'pinned and uncovered of open hold ',
            ', which is its amount less what was captured',
            greatest(c.left_by_amount, 0),
            c.left_by_parts,
            c.is_open
            AND c.left_by_parts <> c.left_by_amount
            AND NOT (
                c.left_by_parts > c.left_by_amount
                AND c.captured > 0
                AND (c.left_by_parts = 0 OR c.was_empty)
            )
        ),
        (
            'hold ',
            ' does not have as many steps kept as it counts',
            NULL,
            NULL,
            c.steps_kept <> c.steps
        )
    ) AS v (what, meaning, expected, found, is_wrong)
WHERE
    (c.is_open OR c.charged <> c.captured OR c.steps_kept <> c.steps)
    AND v.is_wrong
ORDER BY c.customer_no, c.hold_no, what
LIMIT $1::integer;

-- proof_uncovered --
-- What is promised beyond the wallet is what open holds have uncovered, per policy.
WITH promised AS (
    SELECT
        customer_no,
        asset,
        coalesce(sum(uncovered) FILTER (WHERE policy = 'owe'), 0) AS owe,
        coalesce(sum(uncovered) FILTER (WHERE policy = 'bill'), 0) AS bill,
        coalesce(sum(uncovered) FILTER (WHERE policy IS NULL), 0) AS neither
    FROM holds
    WHERE is_open
    GROUP BY customer_no, asset
)

SELECT
    a.customer_no,
    a.asset,
    'uncovered of open holds ' || v.policy AS what,
    coalesce(v.promised, 0) AS expected,
    v.counted AS found
FROM accounts AS a
LEFT JOIN promised AS p ON a.customer_no = p.customer_no AND a.asset = p.asset
CROSS JOIN
    LATERAL (
        VALUES
        ('under owe', p.owe, a.uncovered_owe),
        ('under bill', p.bill, a.uncovered_bill),
        ('under no policy', p.neither, 0)
    ) AS v (policy, promised, counted)
WHERE coalesce(v.promised, 0) <> v.counted
ORDER BY a.customer_no, a.asset, what
LIMIT $1::integer;

-- proof_owed --
-- The balance of owed is what the debts have open.
WITH open_debts AS (
    SELECT customer_no, asset, sum(amount::numeric - repaid - cancelled) AS amount
    FROM debts
    GROUP BY customer_no, asset
)

SELECT
    a.customer_no,
    a.asset,
    'owed, which is what the debts have open' AS what,
    coalesce(d.amount, 0) AS expected,
    a.owed_debits - a.owed_credits AS found
FROM accounts AS a
LEFT JOIN open_debts AS d ON a.customer_no = d.customer_no AND a.asset = d.asset
WHERE coalesce(d.amount, 0) <> a.owed_debits - a.owed_credits
ORDER BY a.customer_no, a.asset
LIMIT $1::integer;

-- proof_billed --
-- What `bill` covered is known by its own time: each journal's share, at the time of its charge.
WITH moved AS (
    SELECT
        customer_no,
        seq,
        sum(CASE WHEN debit = 'billed' THEN amount::numeric ELSE -amount END) AS amount
    FROM transfers
    WHERE debit = 'billed' OR credit = 'billed'
    GROUP BY customer_no, seq
)

SELECT
    coalesce(m.customer_no, b.customer_no) AS customer_no,
    'credits' AS asset,
    'billed usage of journal ' || coalesce(m.seq, b.seq) AS what,
    coalesce(m.amount, 0) AS expected,
    coalesce(b.amount, 0) AS found
FROM moved AS m
FULL JOIN billed_usage AS b ON m.customer_no = b.customer_no AND m.seq = b.seq
LEFT JOIN
    journals AS j
    ON
        coalesce(m.customer_no, b.customer_no) = j.customer_no
        AND coalesce(m.seq, b.seq) = j.seq
LEFT JOIN journals AS c ON j.customer_no = c.customer_no AND j.charge_seq = c.seq
WHERE
    coalesce(m.amount, 0) <> coalesce(b.amount, 0)
    OR b.effective_at IS DISTINCT FROM coalesce(c.effective_at, j.effective_at)
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_debts --
-- Each debt is what its charge or clawback left owed, and what its transfers repaid, cancelled and
-- returned. Of a clawback's debt the part that is returned leaves `owed` and enters it again.
WITH moved AS (
    SELECT
        customer_no,
        debt_no,
        asset,
        sum(amount) FILTER (WHERE debit = 'wallet' AND credit = 'owed') AS repaid,
        sum(CASE WHEN debit = 'owed' THEN -amount ELSE amount END) FILTER (
            WHERE
            (debit IN ('burned', 'purchased', 'granted') AND credit = 'owed')
            OR (debit = 'owed' AND credit = 'wallet')
        ) AS cancelled,
        sum(amount) FILTER (WHERE debit IN ('burned', 'owed') AND credit = 'wallet') AS returned
    FROM transfers
    WHERE debt_no IS NOT NULL
    GROUP BY customer_no, debt_no, asset
),

owed AS (
    SELECT customer_no, seq, asset, sum(amount) AS amount
    FROM transfers
    WHERE debit = 'owed' AND credit IN ('burned', 'purchased', 'granted')
    GROUP BY customer_no, seq, asset
),

found AS (
    SELECT
        d.customer_no,
        d.asset,
        v.name || ' of debt ' || d.debt_no || ' by its transfers' AS what,
        coalesce(v.moved, 0) AS expected,
        v.stored AS found
    FROM debts AS d
    LEFT JOIN
        moved AS m
        ON d.customer_no = m.customer_no AND d.debt_no = m.debt_no AND d.asset = m.asset
    CROSS JOIN
        LATERAL (
            VALUES
            ('repaid', m.repaid, d.repaid),
            ('cancelled', m.cancelled, d.cancelled),
            ('returned', m.returned, d.returned)
        ) AS v (name, moved, stored)
    WHERE coalesce(v.moved, 0) <> v.stored
    UNION ALL
    SELECT
        coalesce(o.customer_no, d.customer_no) AS customer_no,
        coalesce(o.asset, d.asset) AS asset,
        'debts of journal ' || coalesce(o.seq, d.charge_seq) || ', which left so much owed' AS what,
        coalesce(o.amount, 0) AS expected,
        coalesce(d.amount, 0) AS found
    FROM owed AS o
    FULL JOIN
        (
            SELECT customer_no, charge_seq, asset, sum(amount) AS amount
            FROM debts
            GROUP BY customer_no, charge_seq, asset
        ) AS d
        ON o.customer_no = d.customer_no AND o.seq = d.charge_seq AND o.asset = d.asset
    WHERE coalesce(o.amount, 0) <> coalesce(d.amount, 0)
)

SELECT customer_no, asset, what, expected, found
FROM found
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_reversals --
-- What was undone of each charge is what its reversals took out of burned, at most the charge.
WITH undone AS (
    SELECT j.customer_no, j.charge_seq, min(t.asset) AS asset, sum(t.amount) AS amount
    FROM journals AS j
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    WHERE j.kind = 'reversal' AND t.debit = 'burned'
    GROUP BY j.customer_no, j.charge_seq
),

compared AS (
    SELECT
        coalesce(u.customer_no, r.customer_no) AS customer_no,
        coalesce(u.charge_seq, r.charge_seq) AS charge_seq,
        coalesce(u.asset, 'credits') AS asset,
        coalesce(u.amount, 0) AS undone,
        coalesce(r.reversed, 0) AS reversed
    FROM undone AS u
    FULL JOIN
        reversed_charges AS r
        ON u.customer_no = r.customer_no AND u.charge_seq = r.charge_seq
),

charged AS (
    SELECT c.customer_no, c.charge_seq, sum(t.amount) AS amount
    FROM compared AS c
    INNER JOIN transfers AS t ON c.customer_no = t.customer_no AND c.charge_seq = t.seq
    WHERE t.credit = 'burned'
    GROUP BY c.customer_no, c.charge_seq
)

SELECT
    c.customer_no,
    c.asset,
    v.what || c.charge_seq || v.meaning AS what,
    v.expected,
    v.found
FROM compared AS c
LEFT JOIN charged AS h ON c.customer_no = h.customer_no AND c.charge_seq = h.charge_seq
CROSS JOIN
    LATERAL (
        VALUES
        (
            'reversed of charge ',
            ' by its reversals',
            c.undone,
            c.reversed,
            c.undone <> c.reversed
        ),
        (
            'reversed of charge ',
            ', which is at most the charge',
            coalesce(h.amount, 0),
            c.undone,
            c.undone > coalesce(h.amount, 0)
        )
    ) AS v (what, meaning, expected, found, is_wrong)
WHERE v.is_wrong
ORDER BY c.customer_no, c.charge_seq, what
LIMIT $1::integer;

-- proof_sequence --
-- A customer's journals are numbered from 1 without a gap, each made after the one before, and the
-- customer's row knows the last.
WITH ordered AS (
    SELECT
        customer_no,
        seq,
        created_at,
        lag(seq) OVER by_seq AS seq_before,
        lag(created_at) OVER by_seq AS created_before,
        lead(seq) OVER by_seq IS NULL AS is_last
    FROM journals
    WINDOW by_seq AS (PARTITION BY customer_no ORDER BY seq)
),

found AS (
    SELECT
        customer_no,
        'journal ' || seq || ' follows on '
        || coalesce('journal ' || seq_before, 'nothing') AS what
    FROM ordered
    WHERE seq <> coalesce(seq_before, 0) + 1
    UNION ALL
    SELECT
        customer_no,
        'journal ' || seq || ' was not created after the one before: expected later than '
        || created_before || ', found ' || created_at AS what
    FROM ordered
    WHERE created_at <= created_before
    UNION ALL
    SELECT
        coalesce(c.customer_no, o.customer_no) AS customer_no,
        'the last journal: expected ' || coalesce(o.seq, 0) || ' of '
        || coalesce(o.created_at::text, 'never') || ', found '
        || coalesce(c.last_seq::text, 'no customer') || ' of '
        || coalesce(c.last_created_at::text, 'never') AS what
    FROM customers AS c
    FULL JOIN (SELECT * FROM ordered WHERE is_last) AS o ON c.customer_no = o.customer_no
    WHERE
        coalesce(o.seq, 0) IS DISTINCT FROM c.last_seq
        OR o.created_at > coalesce(c.last_created_at, '-infinity')
)

SELECT customer_no, NULL AS asset, what, NULL AS expected, NULL AS found
FROM found
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_links --
-- Each journal names the hash of the one before (the first: 32 zero bytes), and the customer's row
-- that of the last.
WITH ordered AS (
    SELECT
        customer_no,
        seq,
        prev_hash,
        hash,
        lag(hash) OVER by_seq AS hash_before,
        lead(seq) OVER by_seq IS NULL AS is_last
    FROM journals
    WINDOW by_seq AS (PARTITION BY customer_no ORDER BY seq)
),

found AS (
    SELECT
        customer_no,
        'the hash before journal ' || seq AS what,
        coalesce(hash_before, decode(repeat('00', 32), 'hex')) AS expected,
        prev_hash AS found
    FROM ordered
    UNION ALL
    SELECT
        c.customer_no,
        'the hash of the last journal on the customer' AS what,
        coalesce(o.hash, decode(repeat('00', 32), 'hex')) AS expected,
        c.last_hash AS found
    FROM customers AS c
    LEFT JOIN ordered AS o ON c.customer_no = o.customer_no AND o.is_last
)

SELECT
    customer_no,
    NULL AS asset,
    what || ': expected ' || encode(expected, 'hex') || ', found ' || encode(found, 'hex') AS what,
    NULL AS expected,
    NULL AS found
FROM found
WHERE expected <> found
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_journals --
-- A journal has transfers, numbered from 1 without a gap; a transfer has its journal. Only usage
-- that was charged, or taken back, at a price of 0 moves nothing: it has charge lines.
WITH lines AS (
    SELECT customer_no, seq, count(*) AS count, min(line) AS first_line, max(line) AS last_line
    FROM transfers
    GROUP BY customer_no, seq
)

SELECT
    coalesce(j.customer_no, l.customer_no) AS customer_no,
    NULL AS asset,
    CASE
        WHEN l.seq IS NULL THEN 'journal ' || j.seq || ' has no transfers'
        WHEN j.seq IS NULL THEN 'there is no journal ' || l.seq || ', but transfers of it'
        ELSE 'the transfers of journal ' || j.seq || ' are not numbered from 1 without a gap'
    END AS what,
    NULL AS expected,
    NULL AS found
FROM journals AS j
FULL JOIN lines AS l ON j.customer_no = l.customer_no AND j.seq = l.seq
WHERE
    j.seq IS NULL
    OR (
        l.seq IS NULL
        AND NOT EXISTS (
            SELECT 1
            FROM charge_lines AS c
            WHERE c.customer_no = j.customer_no AND c.seq = j.seq
        )
    )
    OR l.first_line <> 1
    OR l.last_line <> l.count
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_lines --
-- The lines of a charge come to what it burned; what lines gave back, to what reversals of usage
-- undid. A line belongs to a journal.
WITH sums AS (
    SELECT
        customer_no,
        seq,
        min(asset) AS asset,
        sum(amount) FILTER (WHERE amount > 0) AS charged,
        -sum(amount) FILTER (WHERE amount < 0) AS given_back
    FROM charge_lines
    GROUP BY customer_no, seq
),

compared AS (
    SELECT
        s.customer_no,
        s.asset,
        CASE
            WHEN j.seq IS NULL THEN 'there is no journal ' || s.seq || ', but charge lines of it'
            ELSE 'lines of the charge ' || s.seq
        END AS what,
        coalesce(t.burned, 0) AS expected,
        coalesce(s.charged, 0) AS found,
        j.seq IS NULL AS is_alone
    FROM sums AS s
    LEFT JOIN
        journals AS j
        ON
            s.customer_no = j.customer_no
            AND s.seq = j.seq
            AND j.kind IN ('charge', 'reversal')
    LEFT JOIN LATERAL (
        SELECT sum(t.amount) AS burned
        FROM transfers AS t
        WHERE t.customer_no = s.customer_no AND t.seq = s.seq AND t.credit = 'burned'
    ) AS t ON true
    UNION ALL
    SELECT
        coalesce(l.customer_no, u.customer_no),
        coalesce(l.asset, u.asset),
        'what charge lines gave back',
        coalesce(u.amount, 0),
        coalesce(l.given_back, 0),
        false
    FROM (
        SELECT customer_no, asset, sum(given_back) AS given_back
        FROM sums
        WHERE given_back > 0
        GROUP BY customer_no, asset
    ) AS l
    FULL JOIN (
        SELECT j.customer_no, t.asset, sum(t.amount) AS amount
        FROM journals AS j
        INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
        WHERE j.kind = 'reversal' AND j.origin = 'usage' AND t.debit = 'burned'
        GROUP BY j.customer_no, t.asset
    ) AS u ON l.customer_no = u.customer_no AND l.asset = u.asset
)

SELECT
    customer_no,
    asset,
    what,
    CASE WHEN NOT is_alone THEN expected END AS expected,
    CASE WHEN NOT is_alone THEN found END AS found
FROM compared
WHERE is_alone OR expected <> found
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_tiers --
-- What was counted in a period is the sum of the lines that were counted on it.
WITH counted AS (
    SELECT customer_no, counter, period_start, sum(quantity) AS quantity
    FROM charge_lines
    WHERE counter IS NOT NULL
    GROUP BY customer_no, counter, period_start
)

SELECT
    coalesce(c.customer_no, p.customer_no) AS customer_no,
    NULL AS asset,
    'quantity of the counter ' || coalesce(c.counter, p.counter) || ' from '
    || coalesce(c.period_start, p.period_start) || ': expected '
    || trim_scale(coalesce(c.quantity, 0)) || ', found ' || trim_scale(coalesce(p.quantity, 0))
        AS what,
    NULL AS expected,
    NULL AS found
FROM counted AS c
FULL JOIN
    price_counters AS p
    ON
        c.customer_no = p.customer_no
        AND c.counter = p.counter
        AND c.period_start = p.period_start
WHERE coalesce(c.quantity, 0) <> coalesce(p.quantity, 0)
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_charged --
-- A line that names an event has it, as far as its month is kept. An event of a meter with
-- `charge: events` is charged or waits for it; and where nothing of a customer waits and the meter
-- never changed, what was charged is what it counted. A window is priced whole.
WITH per_event AS (
    SELECT *
    FROM meters
    WHERE aggregation IN ('count', 'sum')
),

named AS (
    SELECT DISTINCT customer_no, event_at, source, event_id, meter_no
    FROM charge_lines
    WHERE event_id IS NOT NULL
),

missing AS (
    SELECT e.customer_no, e.source, e.id, m.meter
    FROM events AS e
    INNER JOIN per_event AS m ON e.type = m.event_type
    LEFT JOIN
        corrections AS c
        ON
            e.customer_no = c.customer_no
            AND e.time = c.time
            AND e.source = c.source
            AND e.id = c.id
            AND c.is_latest
    LEFT JOIN
        meter_rejects AS r
        ON
            e.customer_no = r.customer_no
            AND e.time = r.time
            AND e.source = r.source
            AND e.id = r.id
            AND m.meter_no = r.meter_no
    LEFT JOIN
        unrated_events AS u
        ON
            e.customer_no = u.customer_no
            AND e.source = u.source
            AND e.id = u.id
            AND m.meter_no = u.meter_no
    LEFT JOIN
        named AS l
        ON
            e.customer_no = l.customer_no
            AND e.source = l.source
            AND e.id = l.event_id
            AND m.meter_no = l.meter_no
    WHERE
        m.charge = 'events'
        AND m.filters IS NULL
        AND e.meters IS NULL
        AND e.received_at >= m.changed_at
        AND c.action IS DISTINCT FROM 'cancel'
        AND r.customer_no IS NULL
        AND u.customer_no IS NULL
        AND l.customer_no IS NULL
),

counted AS (
    SELECT
        r.customer_no,
        r.meter_no,
        sum(CASE WHEN m.aggregation = 'count' THEN r.events ELSE r.total END) AS quantity
    FROM rollups AS r
    INNER JOIN per_event AS m ON r.meter_no = m.meter_no
    GROUP BY r.customer_no, r.meter_no
),

charged AS (
    SELECT customer_no, meter_no, sum(quantity) AS quantity
    FROM charge_lines
    GROUP BY customer_no, meter_no
),

waiting AS (
    SELECT customer_no, meter_no
    FROM unrated_events
    UNION
    SELECT customer_no, meter_no
    FROM meter_rebuilds
)

SELECT
    n.customer_no,
    'events' AS asset,
    'the event ' || n.source || ' ' || n.event_id || ' was charged and is not there' AS what,
    NULL AS expected,
    NULL AS found
FROM named AS n
INNER JOIN
    event_months AS k
    ON date_trunc('month', n.event_at AT TIME ZONE 'UTC')::date = k.month
LEFT JOIN
    events AS e
    ON
        n.customer_no = e.customer_no
        AND n.event_at = e.time
        AND n.source = e.source
        AND n.event_id = e.id
WHERE e.customer_no IS NULL
UNION ALL
SELECT
    m.customer_no,
    'events',
    'the event ' || m.source || ' ' || m.id || ' is neither charged for meter ' || m.meter
    || ' nor waits for it',
    NULL,
    NULL
FROM missing AS m
UNION ALL
SELECT
    coalesce(c.customer_no, l.customer_no),
    m.unit,
    'charged of what meter ' || m.meter || ' counted: expected '
    || trim_scale(coalesce(c.quantity, 0)) || ', found ' || trim_scale(coalesce(l.quantity, 0)),
    NULL,
    NULL
FROM counted AS c
FULL JOIN charged AS l ON c.customer_no = l.customer_no AND c.meter_no = l.meter_no
INNER JOIN
    per_event AS m
    ON coalesce(c.meter_no, l.meter_no) = m.meter_no
LEFT JOIN
    waiting AS w
    ON
        coalesce(c.customer_no, l.customer_no) = w.customer_no
        AND coalesce(c.meter_no, l.meter_no) = w.meter_no
WHERE
    m.charge = 'events'
    AND m.changed_at = m.created_at
    AND w.customer_no IS NULL
    AND coalesce(c.quantity, 0) <> coalesce(l.quantity, 0)
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_references --
-- What one row names of the same customer exists.
WITH found AS (
    SELECT
        t.customer_no,
        'transfer ' || t.line || ' of journal ' || t.seq || ' names lot ' || t.lot_no AS what
    FROM transfers AS t
    LEFT JOIN
        lots AS l
        ON t.customer_no = l.customer_no AND t.lot_no = l.lot_no AND t.asset = l.asset
    WHERE t.lot_no IS NOT NULL AND l.lot_no IS NULL
    UNION ALL
    SELECT
        t.customer_no,
        'transfer ' || t.line || ' of journal ' || t.seq || ' names debt ' || t.debt_no AS what
    FROM transfers AS t
    LEFT JOIN
        debts AS d
        ON t.customer_no = d.customer_no AND t.debt_no = d.debt_no AND t.asset = d.asset
    WHERE t.debt_no IS NOT NULL AND d.debt_no IS NULL
    UNION ALL
    SELECT j.customer_no, 'journal ' || j.seq || ' names lot ' || j.lot_no AS what
    FROM journals AS j
    LEFT JOIN lots AS l ON j.customer_no = l.customer_no AND j.lot_no = l.lot_no
    WHERE j.lot_no IS NOT NULL AND l.lot_no IS NULL
    UNION ALL
    SELECT j.customer_no, 'journal ' || j.seq || ' names hold ' || j.hold_no AS what
    FROM journals AS j
    LEFT JOIN holds AS h ON j.customer_no = h.customer_no AND j.hold_no = h.hold_no
    WHERE j.hold_no IS NOT NULL AND h.hold_no IS NULL
    UNION ALL
    SELECT j.customer_no, 'journal ' || j.seq || ' names grant ' || j.grant_no AS what
    FROM journals AS j
    LEFT JOIN grants AS g ON j.customer_no = g.customer_no AND j.grant_no = g.grant_no
    WHERE j.grant_no IS NOT NULL AND g.grant_no IS NULL
    UNION ALL
    SELECT j.customer_no, 'journal ' || j.seq || ' names debt ' || j.debt_no AS what
    FROM journals AS j
    LEFT JOIN debts AS d ON j.customer_no = d.customer_no AND j.debt_no = d.debt_no
    WHERE j.debt_no IS NOT NULL AND d.debt_no IS NULL
    UNION ALL
    SELECT r.customer_no, r.what || ' names charge ' || r.charge_seq AS what
    FROM
        (
            SELECT customer_no, charge_seq, 'journal ' || seq AS what
            FROM journals
            WHERE charge_seq IS NOT NULL
            UNION ALL
            SELECT customer_no, charge_seq, 'debt ' || debt_no AS what
            FROM debts
            WHERE lot_no IS NULL
            UNION ALL
            SELECT customer_no, charge_seq, 'a reversed amount' AS what
            FROM reversed_charges
        ) AS r
    LEFT JOIN
        journals AS j
        ON r.customer_no = j.customer_no AND r.charge_seq = j.seq AND j.kind = 'charge'
    WHERE j.seq IS NULL
    UNION ALL
    SELECT d.customer_no, 'debt ' || d.debt_no || ' names clawback ' || d.charge_seq AS what
    FROM debts AS d
    LEFT JOIN
        journals AS j
        ON d.customer_no = j.customer_no AND d.charge_seq = j.seq AND j.kind = 'clawback'
    WHERE d.lot_no IS NOT NULL AND j.seq IS NULL
    UNION ALL
    SELECT d.customer_no, 'debt ' || d.debt_no || ' names lot ' || d.lot_no AS what
    FROM debts AS d
    LEFT JOIN
        lots AS l
        ON d.customer_no = l.customer_no AND d.lot_no = l.lot_no AND l.purchase_no IS NOT NULL
    WHERE d.lot_no IS NOT NULL AND l.lot_no IS NULL
    UNION ALL
    SELECT l.customer_no, 'lot ' || l.lot_no || ' names purchase ' || l.purchase_no AS what
    FROM lots AS l
    LEFT JOIN
        purchases AS p
        ON
            l.customer_no = p.customer_no
            AND l.purchase_no = p.purchase_no
            AND p.status = 'credited'
    WHERE l.purchase_no IS NOT NULL AND p.purchase_no IS NULL
    UNION ALL
    SELECT f.customer_no, 'freeze ' || f.freeze_no || ' names lot ' || f.lot_no AS what
    FROM freezes AS f
    LEFT JOIN
        lots AS l
        ON
            f.customer_no = l.customer_no
            AND f.lot_no = l.lot_no
            AND f.purchase_no = l.purchase_no
    WHERE l.lot_no IS NULL
    UNION ALL
    SELECT o.customer_no, o.object_id || ' names purchase ' || o.purchase_no AS what
    FROM purchase_objects AS o
    LEFT JOIN
        purchases AS p
        ON o.customer_no = p.customer_no AND o.purchase_no = p.purchase_no
    WHERE p.purchase_no IS NULL
    UNION ALL
    SELECT g.customer_no, 'grant ' || g.grant_no || ' names journal ' || g.journal_seq AS what
    FROM grants AS g
    LEFT JOIN
        journals AS j
        ON
            g.customer_no = j.customer_no
            AND g.journal_seq = j.seq
            AND g.grant_no = j.grant_no
            AND j.kind = 'grant'
    WHERE j.seq IS NULL
    UNION ALL
    SELECT s.customer_no, 'step ' || s.step_no || ' names hold ' || s.hold_no AS what
    FROM hold_steps AS s
    LEFT JOIN holds AS h ON s.customer_no = h.customer_no AND s.hold_no = h.hold_no
    WHERE h.hold_no IS NULL
    UNION ALL
    SELECT n.customer_no, 'a note names journal ' || n.seq AS what
    FROM notes AS n
    LEFT JOIN journals AS j ON n.customer_no = j.customer_no AND n.seq = j.seq
    WHERE j.seq IS NULL
)

SELECT
    customer_no,
    NULL AS asset,
    what || ', which does not exist as such' AS what,
    NULL AS expected,
    NULL AS found
FROM found
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_grants --
-- Every lot belongs to a grant of its asset and category; a voided grant gives no more; a grant has
-- a purchase if its lot has.
SELECT
    v.customer_no,
    NULL AS asset,
    v.what,
    NULL AS expected,
    NULL AS found
FROM
    (
        SELECT
            l.customer_no,
            'lot ' || l.lot_no || ' is not of the asset and category of its grant ' || l.grant_no
            || ', or there is no such grant' AS what
        FROM lots AS l
        LEFT JOIN
            grants AS g
            ON
                l.customer_no = g.customer_no
                AND l.grant_no = g.grant_no
                AND l.asset = g.asset
                AND l.category = g.category
        WHERE g.grant_no IS NULL
        UNION ALL
        SELECT
            l.customer_no,
            'grant ' || g.grant_no || ' says otherwise than its lot ' || l.lot_no
            || ' whether it was bought' AS what
        FROM lots AS l
        INNER JOIN grants AS g ON l.customer_no = g.customer_no AND l.grant_no = g.grant_no
        WHERE g.has_purchase <> (l.purchase_no IS NOT NULL)
        UNION ALL
        SELECT
            customer_no,
            'grant ' || grant_no || ' was voided and has a next period' AS what
        FROM grants
        WHERE voided_at IS NOT NULL AND next_start_at IS NOT NULL
        UNION ALL
        SELECT
            g.customer_no,
            'grant ' || g.grant_no || ' has no lot' AS what
        FROM grants AS g
        LEFT JOIN lots AS l ON g.customer_no = l.customer_no AND g.grant_no = l.grant_no
        WHERE l.lot_no IS NULL
    ) AS v
ORDER BY v.customer_no, v.what
LIMIT $1::integer;

-- proof_purchases --
-- A credited purchase has one lot of what was paid for, at its cost, and one of the bonus if there
-- is one; a purchase that is not credited has none.
WITH given AS (
    SELECT
        customer_no,
        purchase_no,
        min(asset) AS asset,
        sum(amount) FILTER (WHERE category = 'paid') AS paid,
        sum(amount) FILTER (WHERE category = 'promotional') AS bonus,
        sum(cost_amount) AS cost,
        min(currency) AS currency,
        count(*) AS count
    FROM lots
    WHERE purchase_no IS NOT NULL
    GROUP BY customer_no, purchase_no
)

SELECT
    p.customer_no,
    v.asset,
    v.name || ' of purchase ' || p.purchase_no AS what,
    CASE WHEN v.asset IS NOT NULL THEN v.expected END AS expected,
    CASE WHEN v.asset IS NOT NULL THEN v.found END AS found
FROM purchases AS p
LEFT JOIN given AS g ON p.customer_no = g.customer_no AND p.purchase_no = g.purchase_no
CROSS JOIN LATERAL (SELECT (p.status = 'credited')::integer AS is_given) AS s
CROSS JOIN
    LATERAL (
        VALUES
        ('credits', p.asset, p.credits::numeric * s.is_given, coalesce(g.paid, 0)),
        ('bonus', p.asset, p.bonus::numeric * s.is_given, coalesce(g.bonus, 0)),
        (
            'cost',
            p.currency,
            (p.captured_amount - p.tax_amount)::numeric * s.is_given,
            coalesce(g.cost, 0)
        ),
        (
            'wrong number of lots',
            NULL,
            s.is_given * (1 + (p.bonus > 0)::integer)::numeric,
            coalesce(g.count, 0)
        ),
        (
            'lots in another asset or currency',
            NULL,
            0,
            (g.asset <> p.asset OR g.currency <> p.currency)::integer
        )
    ) AS v (name, asset, expected, found)
WHERE v.expected <> v.found
ORDER BY p.customer_no, p.purchase_no, what
LIMIT $1::integer;

-- proof_clawbacks --
-- Of each bought lot, what has come back or is booked to is its share of what has gone back of the
-- purchase's money: taken, due, forgiven, run out, or made a debt. While any of it is due or
-- forgiven the lot has nothing that could be taken.
WITH owed AS (
    SELECT customer_no, lot_no, sum(amount::numeric - cancelled - returned) AS amount
    FROM debts
    WHERE lot_no IS NOT NULL
    GROUP BY customer_no, lot_no
),

frozen AS (
    SELECT customer_no, lot_no, sum(amount) AS amount
    FROM freezes
    WHERE is_open
    GROUP BY customer_no, lot_no
)

SELECT
    l.customer_no,
    l.asset,
    v.name || ' of lot ' || l.lot_no || v.meaning AS what,
    v.expected,
    v.found
FROM lots AS l
LEFT JOIN purchases AS p ON l.customer_no = p.customer_no AND l.purchase_no = p.purchase_no
LEFT JOIN owed AS o ON l.customer_no = o.customer_no AND l.lot_no = o.lot_no
LEFT JOIN frozen AS f ON l.customer_no = f.customer_no AND l.lot_no = f.lot_no
CROSS JOIN
    LATERAL (
        VALUES
        (
            'taken back',
            ' by the money of its purchase',
            CASE
                WHEN p.purchase_no IS NULL THEN 0
                ELSE
                    claw_v1(
                        l.amount,
                        least(
                            p.captured_amount, p.refunded_amount::numeric + p.lost_amount
                        ),
                        p.captured_amount
                    )
            END,
            CASE WHEN l.purchase_no IS NULL THEN 0 ELSE l.voided END
            + l.clawback_due + l.written_off + l.lapsed + coalesce(o.amount, 0)
        ),
        (
            'unpinned or frozen',
            ', of which more is to be taken',
            0,
            CASE
                WHEN l.clawback_due + l.written_off > 0
                    THEN l.remaining - l.pinned + coalesce(f.amount, 0)
                ELSE 0
            END
        )
    ) AS v (name, meaning, expected, found)
WHERE
    (l.purchase_no IS NOT NULL OR l.clawback_due + l.written_off + l.lapsed > 0)
    AND v.expected <> v.found
ORDER BY l.customer_no, l.lot_no, what
LIMIT $1::integer;

-- proof_money --
-- What is booked of each purchase is what its journals moved, account by account, so that of its
-- cost what is not deferred was earned or went back; of what went back, tax is its share; and no
-- more than the rest of the cost is deferred.
WITH paid AS (
    SELECT customer_no, purchase_no, lot_no, currency, cost_amount, deferred_amount
    FROM lots
    WHERE purchase_no IS NOT NULL AND category = 'paid'
),

moved AS (
    SELECT
        l.customer_no,
        l.purchase_no,
        coalesce(sum(s.amount) FILTER (WHERE s.account = 'cash'), 0) AS cash,
        coalesce(sum(s.amount) FILTER (WHERE s.account = 'fees'), 0) AS fees,
        coalesce(sum(s.amount) FILTER (WHERE s.account = 'refunds'), 0) AS refunds,
        coalesce(sum(s.amount) FILTER (WHERE s.account = 'disputed'), 0) AS disputed,
        coalesce(sum(s.amount) FILTER (WHERE s.account = 'tax'), 0) AS tax,
        coalesce(sum(s.amount) FILTER (WHERE s.account = 'deferred_revenue'), 0) AS deferred
    FROM paid AS l
    INNER JOIN
        journals AS j
        ON
            l.customer_no = j.customer_no
            AND l.lot_no = j.lot_no
            AND j.kind IN ('grant', 'clawback', 'restore', 'dispute', 'fee')
    INNER JOIN
        transfers AS t
        ON j.customer_no = t.customer_no AND j.seq = t.seq AND l.currency = t.asset
    CROSS JOIN
        LATERAL (VALUES (t.debit, t.amount), (t.credit, -t.amount)) AS s (account, amount)
    GROUP BY l.customer_no, l.purchase_no
)

SELECT
    p.customer_no,
    p.currency AS asset,
    v.name || ' of purchase ' || p.purchase_no || v.meaning AS what,
    v.expected,
    v.found
FROM purchases AS p
LEFT JOIN paid AS l ON p.customer_no = l.customer_no AND p.purchase_no = l.purchase_no
LEFT JOIN moved AS m ON p.customer_no = m.customer_no AND p.purchase_no = m.purchase_no
CROSS JOIN
    LATERAL (
        SELECT
            p.refunded_amount::numeric + p.lost_amount AS returned,
            (p.captured_amount - p.tax_amount)::numeric AS cost
    ) AS s
CROSS JOIN
    LATERAL (
        VALUES
        (
            'cash',
            ' by its journals',
            m.cash,
            p.captured_amount - s.returned - p.disputed_amount - p.fee_amount
        ),
        ('fees', ' by its journals', m.fees, p.fee_amount),
        ('disputed', ' by its journals', m.disputed, p.disputed_amount),
        ('tax', ' by its journals', -m.tax, p.tax_amount - p.tax_returned),
        ('deferred', ' by its journals', -m.deferred, s.cost - p.deferred_returned),
        (
            'refunds',
            ' by its journals',
            m.refunds,
            s.returned - p.tax_returned - p.deferred_returned
        ),
        (
            'tax returned',
            ' by what has gone back',
            claw_v1(p.tax_amount, least(p.captured_amount, s.returned), p.captured_amount),
            p.tax_returned
        ),
        (
            'deferred at the last refund',
            ', which is at most its cost less what was returned',
            0,
            greatest(l.deferred_amount - (l.cost_amount - p.deferred_returned), 0)
        )
    ) AS v (name, meaning, expected, found)
WHERE coalesce(v.expected, 0) <> coalesce(v.found, 0)
ORDER BY p.customer_no, p.purchase_no, what
LIMIT $1::integer;

-- proof_recognised --
-- The cost of each paid lot is accounted for: what is noted as earned is what its journals of
-- recognition posted; what a purchase gave back is noted; and once everything of a customer is
-- recognised, revenue + breakage + returned + deferred = cost.
WITH posted AS (
    SELECT
        j.customer_no,
        j.lot_no,
        sum(
            CASE
                WHEN t.credit = 'revenue' THEN t.amount WHEN t.debit = 'revenue' THEN -t.amount
                ELSE 0
            END
        ) AS revenue,
        sum(
            CASE
                WHEN t.credit = 'breakage_revenue' THEN t.amount
                WHEN t.debit = 'breakage_revenue' THEN -t.amount
                ELSE 0
            END
        ) AS breakage
    FROM journals AS j
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    WHERE j.kind = 'recognition'
    GROUP BY j.customer_no, j.lot_no
),

accounted AS (
    SELECT
        coalesce(r.customer_no, p.customer_no) AS customer_no,
        coalesce(r.lot_no, p.lot_no) AS lot_no,
        coalesce(r.revenue, 0) AS revenue,
        coalesce(r.breakage, 0) AS breakage,
        coalesce(r.returned, 0) AS returned,
        coalesce(p.revenue, 0) AS revenue_posted,
        coalesce(p.breakage, 0) AS breakage_posted
    FROM recognitions AS r
    FULL JOIN posted AS p ON r.customer_no = p.customer_no AND r.lot_no = p.lot_no
)

SELECT
    v.customer_no,
    v.currency AS asset,
    v.name || ' of lot ' || v.lot_no || v.meaning AS what,
    v.expected,
    v.found
FROM (
    SELECT
        l.customer_no,
        l.lot_no,
        l.currency,
        s.name,
        s.meaning,
        s.expected,
        s.found
    FROM lots AS l
    INNER JOIN customers AS c ON l.customer_no = c.customer_no
    LEFT JOIN accounted AS a ON l.customer_no = a.customer_no AND l.lot_no = a.lot_no
    LEFT JOIN
        purchases AS p
        ON l.customer_no = p.customer_no AND l.purchase_no = p.purchase_no
    CROSS JOIN
        LATERAL (
            VALUES
            (
                'revenue',
                ' by its journals of recognition',
                coalesce(a.revenue_posted, 0),
                coalesce(a.revenue, 0)::numeric
            ),
            (
                'breakage',
                ' by its journals of recognition',
                coalesce(a.breakage_posted, 0),
                coalesce(a.breakage, 0)::numeric
            ),
            (
                'what was returned',
                ' by its purchase',
                coalesce(p.deferred_returned, a.returned, 0)::numeric,
                coalesce(a.returned, 0)::numeric
            ),
            (
                'what is deferred',
                ' by what is left of it',
                CASE
                    WHEN c.last_seq = c.recognised_seq THEN
                        least(
                            deferred_v1(
                                l.deferred_amount,
                                l.deferred_units,
                                l.remaining::numeric - l.clawback_due
                            ),
                            l.cost_amount::numeric - coalesce(a.returned, 0)
                        )
                END,
                CASE
                    WHEN c.last_seq = c.recognised_seq THEN
                        l.cost_amount::numeric - coalesce(a.revenue, 0) - coalesce(a.breakage, 0)
                        - coalesce(a.returned, 0)
                END
            )
        ) AS s (name, meaning, expected, found)
    WHERE l.cost_amount IS NOT NULL
    UNION ALL
    SELECT
        a.customer_no,
        a.lot_no,
        l.currency,
        'something was earned' AS name,
        ', which nobody paid for' AS meaning,
        0 AS expected,
        abs(a.revenue::numeric) + abs(a.breakage::numeric) + abs(a.returned::numeric)
        + abs(a.revenue_posted) + abs(a.breakage_posted) AS found
    FROM accounted AS a
    LEFT JOIN lots AS l ON a.customer_no = l.customer_no AND a.lot_no = l.lot_no
    WHERE l.cost_amount IS NULL
) AS v
WHERE v.expected <> v.found
ORDER BY v.customer_no, v.lot_no, what
LIMIT $1::integer;

-- proof_deferred --
-- What is deferred of a customer in a currency is what is deferred of its lots.
WITH of_lots AS (
    SELECT
        l.customer_no,
        l.currency AS asset,
        sum(
            l.cost_amount::numeric - coalesce(r.revenue, 0) - coalesce(r.breakage, 0)
            - coalesce(r.returned, 0)
        ) AS amount
    FROM lots AS l
    LEFT JOIN recognitions AS r ON l.customer_no = r.customer_no AND l.lot_no = r.lot_no
    WHERE l.cost_amount IS NOT NULL
    GROUP BY l.customer_no, l.currency
)

SELECT
    m.customer_no,
    m.asset,
    'deferred_revenue, which is what is deferred of its lots' AS what,
    coalesce(o.amount, 0) AS expected,
    m.deferred_revenue_credits - m.deferred_revenue_debits AS found
FROM money_accounts AS m
LEFT JOIN of_lots AS o ON m.customer_no = o.customer_no AND m.asset = o.asset
WHERE coalesce(o.amount, 0) <> m.deferred_revenue_credits - m.deferred_revenue_debits
ORDER BY m.customer_no, m.asset
LIMIT $1::integer;

-- proof_periods --
-- What a closed month says is what its journals come to, account by account; and what is closed is
-- what is kept from being booked in.
WITH moved AS (
    SELECT
        p.period,
        t.asset,
        s.account,
        sum(s.debits) AS debits,
        sum(s.credits) AS credits
    FROM periods AS p
    INNER JOIN
        journals AS j
        ON j.book_date <= p.ends_on AND j.book_date >= coalesce(p.starts_on, '-infinity')
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    CROSS JOIN
        LATERAL (VALUES (t.debit, t.amount, 0), (t.credit, 0, t.amount))
        AS s (account, debits, credits)
    WHERE p.closed_at IS NOT NULL
    GROUP BY p.period, t.asset, s.account
),

counted AS (
    SELECT p.period, count(j.seq) AS journals
    FROM periods AS p
    LEFT JOIN
        journals AS j
        ON j.book_date <= p.ends_on AND j.book_date >= coalesce(p.starts_on, '-infinity')
    WHERE p.closed_at IS NOT NULL
    GROUP BY p.period
)

SELECT
    0 AS customer_no,
    v.asset,
    v.what,
    v.expected,
    v.found
FROM (
    SELECT
        coalesce(m.asset, t.asset) AS asset,
        s.side || ' of ' || coalesce(m.account, t.account) || ' in '
        || coalesce(m.period, t.period) || ', which are those of its journals' AS what,
        s.expected,
        s.found
    FROM moved AS m
    FULL JOIN
        period_totals AS t
        ON m.period = t.period AND m.asset = t.asset AND m.account = t.account
    CROSS JOIN
        LATERAL (
            VALUES
            ('debits', coalesce(m.debits, 0), coalesce(t.debits, 0)),
            ('credits', coalesce(m.credits, 0), coalesce(t.credits, 0))
        ) AS s (side, expected, found)
    WHERE s.expected <> s.found
    UNION ALL
    SELECT
        NULL AS asset,
        'month ' || p.period || ' was closed with ' || p.journals || ' journals and has '
        || c.journals AS what,
        NULL AS expected,
        NULL AS found
    FROM periods AS p
    INNER JOIN counted AS c ON p.period = c.period
    WHERE p.journals <> c.journals
    UNION ALL
    SELECT
        NULL AS asset,
        'month ' || p.period || ' is closed, and can still be booked in' AS what,
        NULL AS expected,
        NULL AS found
    FROM periods AS p
    CROSS JOIN installation AS i
    WHERE i.closed_through IS NULL OR i.closed_through < p.ends_on
) AS v
ORDER BY v.what
LIMIT $1::integer;

-- proof_due --
-- Nothing falls due before the instant that the customer's row names: no deadline of an open hold,
-- end of a lot with something unpinned, start of an upcoming lot or of a period; and no debt is
-- open beside available credit unless its repayment is due already.
WITH due AS (
    SELECT customer_no, expires_at AS at, 'hold ' || hold_no || ' ends' AS event
    FROM holds
    WHERE is_open
    UNION ALL
    SELECT customer_no, effective_at AS at, 'lot ' || lot_no || ' starts' AS event
    FROM lots
    WHERE is_upcoming
    UNION ALL
    SELECT customer_no, expires_at AS at, 'lot ' || lot_no || ' ends' AS event
    FROM lots
    WHERE
        is_open
        AND NOT is_upcoming
        AND remaining > pinned
        AND expires_at IS NOT NULL
    UNION ALL
    SELECT customer_no, next_start_at AS at, 'grant ' || grant_no || ' gives a lot' AS event
    FROM grants
    WHERE next_start_at IS NOT NULL
    UNION ALL
    SELECT customer_no, service_now_v1() AS at, 'a debt in ' || asset || ' is repaid' AS event
    FROM accounts
    WHERE owed_debits > owed_credits AND wallet_credits - wallet_debits > wallet_pending
)

SELECT
    d.customer_no,
    NULL AS asset,
    'what is due next: expected ' || d.at || ' or earlier (' || d.event || '), found '
    || coalesce(c.next_due_at::text, 'nothing') AS what,
    NULL AS expected,
    NULL AS found
FROM due AS d
LEFT JOIN customers AS c ON d.customer_no = c.customer_no
WHERE c.next_due_at IS NULL OR c.next_due_at > d.at
ORDER BY d.customer_no, d.at, what
LIMIT $1::integer;

-- proof_requests --
-- Only answers that a key must repeat are remembered. $2: their statuses.
SELECT
    customer_no,
    NULL AS asset,
    'the answer to key ' || key || ' was remembered with status ' || status AS what,
    NULL AS expected,
    NULL AS found
FROM requests
WHERE NOT status = any($2::smallint[])
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_customers --
-- A customer is in the directory under its own id, every row is of a customer that exists, and no
-- object has a number that is yet to be given.
WITH numbers AS (
    SELECT customer_no, max(no) AS no
    FROM
        (
            SELECT customer_no, max(hold_no) AS no FROM holds
            GROUP BY customer_no
            UNION ALL
            SELECT customer_no, max(lot_no) AS no FROM lots
            GROUP BY customer_no
            UNION ALL
            SELECT customer_no, max(grant_no) AS no FROM grants
            GROUP BY customer_no
            UNION ALL
            SELECT customer_no, max(debt_no) AS no FROM debts
            GROUP BY customer_no
            UNION ALL
            SELECT customer_no, max(purchase_no) AS no FROM purchases
            GROUP BY customer_no
            UNION ALL
            SELECT customer_no, max(freeze_no) AS no FROM freezes
            GROUP BY customer_no
            UNION ALL
            SELECT customer_no, 0 AS no FROM accounts
            UNION ALL
            SELECT customer_no, 0 AS no FROM money_accounts
        ) AS n
    GROUP BY customer_no
),

found AS (
    SELECT
        c.customer_no,
        'the directory does not lead from ' || c.customer_id || ' to this customer' AS what
    FROM customers AS c
    LEFT JOIN
        customer_directory AS d
        ON c.customer_no = d.customer_no AND c.customer_id = d.customer_id
    WHERE d.customer_no IS NULL
    UNION ALL
    SELECT
        n.customer_no,
        coalesce(
            'the last number given: expected at least ' || n.no || ', found ' || c.last_no,
            'there is no row of this customer, but others of it'
        ) AS what
    FROM numbers AS n
    LEFT JOIN customers AS c ON n.customer_no = c.customer_no
    WHERE c.customer_no IS NULL OR c.last_no < n.no
)

SELECT customer_no, NULL AS asset, what, NULL AS expected, NULL AS found
FROM found
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_hashes --
-- The hash of each journal is that of its canonical form, made anew from the rows as they are.
WITH lines AS (
    SELECT
        customer_no,
        seq,
        string_agg(
            E'\n' || asset || '|' || debit || '|' || credit || '|' || amount
            || '|' || coalesce(lot_no::text, '') || '|' || coalesce(debt_no::text, ''),
            '' ORDER BY line
        ) AS text
    FROM transfers
    GROUP BY customer_no, seq
),

hashed AS (
    SELECT
        j.customer_no,
        j.seq,
        j.hash,
        sha256(j.prev_hash || convert_to(
            concat_ws(
                '|',
                'v1',
                j.customer_no,
                j.seq,
                j.kind,
                (extract(EPOCH FROM j.effective_at) * 1000000)::bigint,
                (extract(EPOCH FROM j.created_at) * 1000000)::bigint,
                to_char(j.book_date, 'YYYY-MM-DD'),
                coalesce(j.late_for, ''),
                coalesce(j.hold_no::text, ''),
                coalesce(j.grant_no::text, ''),
                coalesce(j.lot_no::text, ''),
                coalesce(j.charge_seq::text, ''),
                coalesce(j.debt_no::text, ''),
                CASE WHEN j.is_late THEN 't' ELSE 'f' END,
                j.origin,
                coalesce(encode(j.notes_digest, 'hex'), ''),
                coalesce(j.request_key, '')
            ) || coalesce(l.text, ''),
            'UTF8'
        )) AS made
    FROM journals AS j
    LEFT JOIN lines AS l ON j.customer_no = l.customer_no AND j.seq = l.seq
)

SELECT
    customer_no,
    NULL AS asset,
    'the hash of journal ' || seq || ': expected ' || encode(made, 'hex')
    || ' by its rows, found ' || encode(hash, 'hex') AS what,
    NULL AS expected,
    NULL AS found
FROM hashed
WHERE made <> hash
ORDER BY customer_no, seq
LIMIT $1::integer;

-- proof_heads --
-- Since a month was closed nothing of any chain was changed, removed or cut off: every journal that
-- was the last one then is there with its hash; and the month's own hash covers all that it says.
SELECT
    v.customer_no,
    NULL AS asset,
    v.what,
    NULL AS expected,
    NULL AS found
FROM (
    SELECT
        h.customer_no,
        'journal ' || h.seq || CASE
            WHEN j.seq IS NULL THEN ', the last one when ' || h.period || ' was closed, is gone'
            ELSE ' is another than when ' || h.period || ' was closed'
        END AS what
    FROM period_heads AS h
    LEFT JOIN journals AS j ON h.customer_no = j.customer_no AND h.seq = j.seq
    WHERE j.seq IS NULL OR j.hash <> h.hash
    UNION ALL
    SELECT
        0 AS customer_no,
        'the hash of ' || p.period || ' is not that of what it says' AS what
    FROM periods AS p
    WHERE p.closed_at IS NOT NULL AND p.hash <> period_hash_v1(p.period)
) AS v
ORDER BY v.customer_no, v.what
LIMIT $1::integer;

-- proof_notes --
-- The texts beside a journal are those that entered its hash. An erased text has no row.
WITH digested AS (
    SELECT
        j.customer_no,
        j.seq,
        j.notes_digest,
        sha256(n.salt || convert_to(
            '[' || coalesce(to_json(n.reference)::text, 'null')
            || ',' || coalesce(to_json(n.reason)::text, 'null')
            || ',' || coalesce(to_json(n.metadata)::text, 'null') || ']',
            'UTF8'
        )) AS made
    FROM notes AS n
    INNER JOIN journals AS j ON n.customer_no = j.customer_no AND n.seq = j.seq
)

SELECT
    customer_no,
    NULL AS asset,
    'the digest of the texts of journal ' || seq || ': expected ' || encode(made, 'hex')
    || ' by its texts, found ' || coalesce(encode(notes_digest, 'hex'), 'none') AS what,
    NULL AS expected,
    NULL AS found
FROM digested
WHERE made IS DISTINCT FROM notes_digest
ORDER BY customer_no, seq
LIMIT $1::integer;

-- proof_identities --
-- Every identity has its event, and every event from outside its identity for as long as those are
-- kept. Events of months that were dropped are gone.
SELECT
    g.customer_no,
    'events' AS asset,
    'the identity ' || g.source || ' ' || g.id || ' has no event' AS what,
    NULL AS expected,
    NULL AS found
FROM event_guards AS g
INNER JOIN
    event_months AS m
    ON date_trunc('month', g.time AT TIME ZONE 'UTC')::date = m.month
LEFT JOIN
    events AS e
    ON
        g.customer_no = e.customer_no
        AND g.time = e.time
        AND g.source = e.source
        AND g.id = e.id
WHERE e.customer_no IS NULL
UNION ALL
SELECT
    e.customer_no,
    'events',
    'the event ' || e.source || ' ' || e.id || ' has no identity',
    NULL,
    NULL
FROM events AS e
LEFT JOIN
    event_guards AS g
    ON
        e.customer_no = g.customer_no
        AND e.source = g.source
        AND e.id = g.id
        AND e.time = g.time
WHERE
    g.customer_no IS NULL
    AND e.source <> 'drawdown'
    AND e.received_at > (SELECT service_now_v1() - interval '35 days')
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_corrections --
-- The corrections of an event are numbered without gaps, the last one is the latest, none follows a
-- cancellation, and the event exists.
WITH chains AS (
    SELECT
        customer_no,
        time,
        source,
        id,
        count(*) AS corrections,
        max(number) AS last,
        min(number) FILTER (WHERE is_latest) AS latest,
        count(*) FILTER (WHERE is_latest) AS latests,
        min(number) FILTER (WHERE action = 'cancel') AS cancelled
    FROM corrections
    GROUP BY customer_no, time, source, id
)

SELECT
    c.customer_no,
    'events' AS asset,
    CASE
        WHEN e.customer_no IS NULL
            THEN 'the event ' || c.source || ' ' || c.id || ' was corrected and is not there'
        ELSE 'the corrections of ' || c.source || ' ' || c.id || ' do not follow each other'
    END AS what,
    NULL AS expected,
    NULL AS found
FROM chains AS c
LEFT JOIN
    event_months AS m
    ON date_trunc('month', c.time AT TIME ZONE 'UTC')::date = m.month
LEFT JOIN
    events AS e
    ON
        c.customer_no = e.customer_no
        AND c.time = e.time
        AND c.source = e.source
        AND c.id = e.id
WHERE
    (m.month IS NOT NULL AND e.customer_no IS NULL)
    OR c.corrections <> c.last
    OR c.latests <> 1
    OR c.latest <> c.last
    OR c.cancelled < c.last
ORDER BY c.customer_no, what
LIMIT $1::integer;

-- proof_rollups --
-- Of each grain a meter has counted, or rejected, exactly the events that it reads: those of its
-- type, or recorded for it; not cancelled; received since it was defined, or before if it was
-- rebuilt. A meter with filters has counted no more than those. What it made of their values,
-- `drawdown usage rebuild --check` counts again.
WITH readable AS (
    SELECT
        e.customer_no,
        m.meter_no,
        date_bin('15 minutes', e.time, '1970-01-01 00:00:00+00') AS grain,
        count(*) AS events
    FROM events AS e
    INNER JOIN
        meters AS m
        ON e.type = m.event_type AND (e.meters IS NULL OR m.meter_no = any(e.meters))
    LEFT JOIN
        meter_rebuilds AS b
        ON e.customer_no = b.customer_no AND m.meter_no = b.meter_no
    LEFT JOIN
        corrections AS c
        ON
            e.customer_no = c.customer_no
            AND e.time = c.time
            AND e.source = c.source
            AND e.id = c.id
            AND c.is_latest
    WHERE
        c.action IS DISTINCT FROM 'cancel'
        AND (e.received_at >= m.defined_at OR e.time < b.through)
    GROUP BY e.customer_no, m.meter_no, grain
),

counted AS (
    SELECT p.customer_no, p.meter_no, p.grain, sum(p.events) AS events
    FROM (
        SELECT customer_no, meter_no, grain, sum(events) AS events
        FROM rollups
        GROUP BY customer_no, meter_no, grain
        UNION ALL
        SELECT
            customer_no,
            meter_no,
            date_bin('15 minutes', time, '1970-01-01 00:00:00+00') AS grain,
            count(*)
        FROM meter_rejects
        GROUP BY customer_no, meter_no, grain
    ) AS p
    INNER JOIN
        event_months AS k
        ON date_trunc('month', p.grain AT TIME ZONE 'UTC')::date = k.month
    GROUP BY p.customer_no, p.meter_no, p.grain
)

SELECT
    coalesce(r.customer_no, c.customer_no) AS customer_no,
    'events' AS asset,
    'meter ' || coalesce(m.meter, '?') || ' at '
    || to_char(coalesce(r.grain, c.grain) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS what,
    coalesce(r.events, 0)::numeric AS expected,
    coalesce(c.events, 0)::numeric AS found
FROM readable AS r
FULL JOIN
    counted AS c
    ON r.customer_no = c.customer_no AND r.meter_no = c.meter_no AND r.grain = c.grain
LEFT JOIN meters AS m ON coalesce(r.meter_no, c.meter_no) = m.meter_no
WHERE
    coalesce(c.events, 0) > coalesce(r.events, 0)
    OR (m.filters IS NULL AND coalesce(c.events, 0) < coalesce(r.events, 0))
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_values --
-- Every event that a meter of distinct values counted has one of them.
SELECT
    coalesce(r.customer_no, v.customer_no) AS customer_no,
    'events' AS asset,
    'distinct values of meter ' || m.meter || ' at '
    || to_char(coalesce(r.grain, v.grain) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS what,
    coalesce(r.events, 0)::numeric AS expected,
    coalesce(v.events, 0)::numeric AS found
FROM (
    SELECT x.*
    FROM rollups AS x
    INNER JOIN meters AS u ON x.meter_no = u.meter_no
    WHERE u.aggregation = 'unique'
) AS r
FULL JOIN (
    SELECT customer_no, meter_no, grain, dims, sum(events) AS events
    FROM rollup_values
    GROUP BY customer_no, meter_no, grain, dims
) AS v
    ON
        r.customer_no = v.customer_no
        AND r.meter_no = v.meter_no
        AND r.grain = v.grain
        AND r.dims = v.dims
LEFT JOIN meters AS m ON coalesce(r.meter_no, v.meter_no) = m.meter_no
WHERE coalesce(r.events, 0) <> coalesce(v.events, 0)
ORDER BY customer_no, what
LIMIT $1::integer;

-- proof_unrated --
-- What is still to be priced is there: its event, and its meter.
SELECT
    u.customer_no,
    'events' AS asset,
    'the event ' || u.source || ' ' || u.id || ' is to be priced and is not there' AS what,
    NULL AS expected,
    NULL AS found
FROM unrated_events AS u
LEFT JOIN
    events AS e
    ON
        u.customer_no = e.customer_no
        AND u.time = e.time
        AND u.source = e.source
        AND u.id = e.id
WHERE e.customer_no IS NULL
UNION ALL
SELECT
    u.customer_no,
    'events',
    'meter no. ' || u.meter_no || ' has something to be priced and is not there',
    NULL,
    NULL
FROM (
    SELECT customer_no, meter_no FROM unrated_events
    UNION
    SELECT customer_no, meter_no FROM unrated_windows
) AS u
LEFT JOIN meters AS m ON u.meter_no = m.meter_no
WHERE m.meter_no IS NULL
ORDER BY customer_no, what
LIMIT $1::integer;
