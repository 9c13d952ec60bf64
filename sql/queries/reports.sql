-- Reports of finance. A report is about book days from $1 on (NULL: from the first) before $2; what
-- it says of closed months comes from journals alone, so it never changes. Balances are debits
-- minus credits. Amounts are in whole units of their asset, with as many decimals as it has.

-- report_settings --
-- How a report reads: every row is wanted, times are UTC, and $1 is the most a statement may take.
SELECT
    set_config('statement_timeout', $1::text, true),
    set_config('cursor_tuple_fraction', '1', true),
    set_config('TimeZone', 'UTC', true);

-- report_customer --
-- Whom a statement is sent to.
SELECT c.customer_id, p.name
FROM customers AS c
INNER JOIN profiles AS p ON c.customer_no = p.customer_no
WHERE c.customer_no = $1::bigint;

-- report_assets --
-- What a journal file declares: the assets that any customer has an account in.
SELECT a.asset, a.scale, a.is_money
FROM assets AS a
WHERE
    EXISTS (SELECT 1 FROM accounts AS c WHERE c.asset = a.asset)
    OR EXISTS (SELECT 1 FROM money_accounts AS m WHERE m.asset = a.asset)
ORDER BY a.asset;

-- report_trial_balance --
-- Every account of the business: what it had, what moved, what it has. Each asset's sums are 0.
WITH units AS MATERIALIZED (
    SELECT asset, ('1e-' || scale)::numeric AS unit FROM assets
),

moved AS (
    SELECT
        t.asset,
        coalesce(j.book_date < $1::date, false) AS is_before,
        t.debit,
        t.credit,
        sum(t.amount) AS amount
    FROM journals AS j
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    WHERE j.book_date < $2::date
    GROUP BY t.asset, is_before, t.debit, t.credit
),

sided AS (
    SELECT
        m.asset,
        s.account,
        sum(s.debit - s.credit) FILTER (WHERE m.is_before) AS opening,
        sum(s.debit) FILTER (WHERE NOT m.is_before) AS debits,
        sum(s.credit) FILTER (WHERE NOT m.is_before) AS credits,
        sum(s.debit - s.credit) AS closing
    FROM moved AS m
    CROSS JOIN
        LATERAL (VALUES (m.debit, m.amount, 0), (m.credit, 0, m.amount))
        AS s (account, debit, credit)
    GROUP BY m.asset, s.account
)

SELECT
    b.asset,
    b.account,
    coalesce(b.opening, 0) * u.unit AS opening,
    coalesce(b.debits, 0) * u.unit AS debits,
    coalesce(b.credits, 0) * u.unit AS credits,
    b.closing * u.unit AS closing
FROM sided AS b
INNER JOIN units AS u ON b.asset = u.asset
ORDER BY b.asset, b.account;

-- report_journal --
-- Every transfer, in the order of customers' chains.
WITH units AS MATERIALIZED (
    SELECT asset, ('1e-' || scale)::numeric AS unit FROM assets
)

SELECT
    j.book_date,
    public_id_v1('jrn', j.customer_no, j.seq) AS journal_id,
    t.line,
    c.customer_id,
    j.kind,
    t.debit,
    t.credit,
    t.asset,
    t.amount * u.unit AS amount,
    CASE
        WHEN coalesce(t.lot_no, j.lot_no) IS NOT NULL
            THEN public_id_v1('lot', j.customer_no, coalesce(t.lot_no, j.lot_no))
    END AS lot_id,
    j.late_for,
    j.effective_at,
    j.created_at
FROM journals AS j
INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
INNER JOIN customers AS c ON j.customer_no = c.customer_no
INNER JOIN units AS u ON t.asset = u.asset
WHERE ($1::date IS NULL OR j.book_date >= $1::date) AND j.book_date < $2::date
ORDER BY j.customer_no, j.seq, t.line;

-- report_statement --
-- What moved the wallet of customer $3 in asset $4, with the balance after each journal.
WITH unit AS MATERIALIZED (
    SELECT ('1e-' || scale)::numeric AS unit FROM assets WHERE asset = $4::text
),

moved AS (
    SELECT
        j.seq,
        j.kind,
        j.book_date,
        j.effective_at,
        sum(
            CASE
                WHEN t.credit = 'wallet' THEN t.amount WHEN t.debit = 'wallet' THEN -t.amount ELSE 0
            END
        ) AS amount
    FROM journals AS j
    INNER JOIN
        transfers AS t
        ON
            j.customer_no = t.customer_no
            AND j.seq = t.seq
            AND t.asset = $4::text
            AND (t.debit = 'wallet' OR t.credit = 'wallet')
    WHERE j.customer_no = $3::bigint AND j.book_date < $2::date
    GROUP BY j.seq, j.kind, j.book_date, j.effective_at
),

lines AS (
    SELECT
        1 AS part,
        seq,
        book_date,
        kind,
        effective_at,
        amount
    FROM moved
    WHERE $1::date IS NULL OR book_date >= $1::date
    UNION ALL
    SELECT
        0 AS part,
        0 AS seq,
        $1::date AS book_date,
        'opening' AS kind,
        NULL AS effective_at,
        (SELECT coalesce(sum(amount), 0) FROM moved WHERE book_date < $1::date) AS amount
    UNION ALL
    SELECT
        2 AS part,
        0 AS seq,
        $2::date - 1 AS book_date,
        'closing' AS kind,
        NULL AS effective_at,
        0 AS amount
)

SELECT
    l.book_date,
    CASE WHEN l.part = 1 THEN public_id_v1('jrn', $3::bigint, l.seq) END AS journal_id,
    l.kind,
    l.effective_at,
    $4::text AS asset,
    CASE WHEN l.part = 1 THEN l.amount * u.unit END AS amount,
    sum(l.amount) OVER (ORDER BY l.part, l.book_date, l.seq) * u.unit AS balance
FROM lines AS l
CROSS JOIN unit AS u
ORDER BY l.part, l.book_date, l.seq;

-- report_deferred_revenue --
-- The roll-forward by month and currency: opening + imported + sold - recognised - breakage -
-- refunded = closing. Imported: taken over from another system, where it was sold.
WITH units AS MATERIALIZED (
    SELECT asset, ('1e-' || scale)::numeric AS unit FROM assets
),

moved AS (
    SELECT
        t.asset,
        CASE
            WHEN j.book_date < $1::date THEN NULL
            ELSE date_trunc('month', j.book_date::timestamp)::date
        END AS month,
        CASE
            WHEN t.debit = 'opening' THEN 'imported'
            WHEN 'breakage_revenue' IN (t.debit, t.credit) THEN 'breakage'
            WHEN 'revenue' IN (t.debit, t.credit) THEN 'recognised'
            WHEN j.kind = 'grant' THEN 'sold'
            ELSE 'refunded'
        END AS what,
        sum(CASE WHEN t.credit = 'deferred_revenue' THEN t.amount ELSE -t.amount END) AS amount
    FROM journals AS j
    INNER JOIN
        transfers AS t
        ON
            j.customer_no = t.customer_no
            AND j.seq = t.seq
            AND 'deferred_revenue' IN (t.debit, t.credit)
    WHERE j.book_date < $2::date
    GROUP BY t.asset, month, what
),

months AS (
    SELECT
        c.asset,
        m.month::date AS month
    FROM (
        SELECT
            asset,
            min(coalesce(month, date_trunc('month', $1::date::timestamp)::date)) AS first
        FROM moved
        GROUP BY asset
    ) AS c
    CROSS JOIN
        LATERAL generate_series(
            c.first::timestamp, date_trunc('month', ($2::date - 1)::timestamp), interval '1 month'
        ) AS m (month)
),

sums AS (
    SELECT
        s.month,
        s.asset,
        coalesce(sum(m.amount) FILTER (WHERE m.what = 'imported'), 0) AS imported,
        coalesce(sum(m.amount) FILTER (WHERE m.what = 'sold'), 0) AS sold,
        coalesce(-sum(m.amount) FILTER (WHERE m.what = 'recognised'), 0) AS recognised,
        coalesce(-sum(m.amount) FILTER (WHERE m.what = 'breakage'), 0) AS breakage,
        coalesce(-sum(m.amount) FILTER (WHERE m.what = 'refunded'), 0) AS refunded,
        coalesce(sum(m.amount), 0) AS change
    FROM months AS s
    LEFT JOIN moved AS m ON s.asset = m.asset AND s.month = m.month
    GROUP BY s.month, s.asset
),

running AS (
    SELECT
        s.*,
        coalesce(
            (SELECT sum(m.amount) FROM moved AS m WHERE m.asset = s.asset AND m.month IS NULL), 0
        )
        + sum(s.change) OVER (PARTITION BY s.asset ORDER BY s.month) AS closing
    FROM sums AS s
)

SELECT
    to_char(r.month, 'YYYY-MM') AS month,
    r.asset AS currency,
    (r.closing - r.change) * u.unit AS opening,
    r.imported * u.unit AS imported,
    r.sold * u.unit AS sold,
    r.recognised * u.unit AS recognised,
    r.breakage * u.unit AS breakage,
    r.refunded * u.unit AS refunded,
    r.closing * u.unit AS closing
FROM running AS r
INNER JOIN units AS u ON r.asset = u.asset
ORDER BY r.month, r.asset;

-- report_breakage --
-- What was earned of credit that nobody used, lot by lot.
WITH units AS MATERIALIZED (
    SELECT asset, ('1e-' || scale)::numeric AS unit FROM assets
)

SELECT
    j.book_date,
    public_id_v1('jrn', j.customer_no, j.seq) AS journal_id,
    c.customer_id,
    j.kind,
    CASE WHEN j.lot_no IS NOT NULL THEN public_id_v1('lot', j.customer_no, j.lot_no) END AS lot_id,
    j.late_for,
    t.asset AS currency,
    sum(CASE WHEN t.credit = 'breakage_revenue' THEN t.amount ELSE -t.amount END) * u.unit
        AS breakage
FROM journals AS j
INNER JOIN
    transfers AS t
    ON
        j.customer_no = t.customer_no
        AND j.seq = t.seq
        AND 'breakage_revenue' IN (t.debit, t.credit)
INNER JOIN customers AS c ON j.customer_no = c.customer_no
INNER JOIN units AS u ON t.asset = u.asset
WHERE ($1::date IS NULL OR j.book_date >= $1::date) AND j.book_date < $2::date
GROUP BY j.customer_no, j.seq, c.customer_id, t.asset, u.unit
ORDER BY j.customer_no, j.seq, t.asset;

-- report_lots --
-- What was left of each lot at the end of the day before $2, by how long it is still good. It is
-- of a moment: $1 says nothing.
WITH units AS MATERIALIZED (
    SELECT asset, ('1e-' || scale)::numeric AS unit FROM assets
),

left_over AS (
    SELECT
        t.customer_no,
        t.lot_no,
        sum(
            CASE WHEN t.credit IN ('wallet', 'upcoming') THEN t.amount ELSE 0 END
            - CASE WHEN t.debit IN ('wallet', 'upcoming') THEN t.amount ELSE 0 END
        ) AS units
    FROM journals AS j
    INNER JOIN
        transfers AS t
        ON j.customer_no = t.customer_no AND j.seq = t.seq AND t.lot_no IS NOT NULL
    WHERE j.book_date < $2::date
    GROUP BY t.customer_no, t.lot_no
)

SELECT
    c.customer_id,
    public_id_v1('lot', l.customer_no, l.lot_no) AS lot_id,
    l.category,
    l.effective_at,
    e.expires_at,
    CASE
        WHEN e.expires_at IS NULL THEN 'never'
        WHEN e.expires_at < $2::date + 1 THEN 'ended'
        WHEN e.expires_at < $2::date + 31 THEN '30 days'
        WHEN e.expires_at < $2::date + 91 THEN '90 days'
        WHEN e.expires_at < $2::date + 366 THEN '1 year'
        ELSE 'later'
    END AS good_for,
    greatest($2::date - l.effective_at::date, 0) AS age_days,
    l.asset,
    l.amount * u.unit AS amount,
    o.units * u.unit AS remaining,
    l.currency,
    l.cost_amount * m.unit AS cost
FROM left_over AS o
INNER JOIN lots AS l ON o.customer_no = l.customer_no AND o.lot_no = l.lot_no
INNER JOIN customers AS c ON l.customer_no = c.customer_no
INNER JOIN grants AS g ON l.customer_no = g.customer_no AND l.grant_no = g.grant_no
CROSS JOIN LATERAL (
    -- A plan's lot that was kept longer ended with its period before that.
    SELECT
        CASE
            WHEN l.is_rollover AND g.has_purchase AND g.expires_at >= $2::date THEN g.expires_at
            ELSE l.expires_at
        END AS expires_at
) AS e
INNER JOIN units AS u ON l.asset = u.asset
LEFT JOIN units AS m ON l.currency = m.asset
WHERE o.units > 0 AND ($1::date IS NULL OR $1::date < $2::date)
ORDER BY l.customer_no, l.lot_no;

-- report_usage --
-- What was used and charged, by customer, meter and dimensions; what has no meter; what was undone.
WITH units AS MATERIALIZED (
    SELECT asset, ('1e-' || scale)::numeric AS unit FROM assets
),

chosen AS (
    SELECT
        j.customer_no,
        j.seq,
        j.kind
    FROM journals AS j
    WHERE
        ($1::date IS NULL OR j.book_date >= $1::date)
        AND j.book_date < $2::date
        AND j.kind IN ('charge', 'reversal')
),

burned AS (
    SELECT
        s.customer_no,
        s.kind,
        t.asset,
        sum(CASE WHEN t.credit = 'burned' THEN t.amount ELSE -t.amount END) AS amount
    FROM chosen AS s
    INNER JOIN
        transfers AS t
        ON s.customer_no = t.customer_no AND s.seq = t.seq AND 'burned' IN (t.debit, t.credit)
    GROUP BY s.customer_no, s.kind, t.asset
),

metered AS (
    SELECT
        s.customer_no,
        n.meter_no,
        n.dimensions,
        n.rate_card,
        n.asset,
        sum(n.quantity) AS quantity,
        sum(n.amount) AS amount
    FROM chosen AS s
    INNER JOIN charge_lines AS n ON s.customer_no = n.customer_no AND s.seq = n.seq
    GROUP BY s.customer_no, n.meter_no, n.dimensions, n.rate_card, n.asset
),

parts AS (
    SELECT
        customer_no,
        1 AS part,
        'usage' AS what,
        meter_no,
        dimensions,
        rate_card,
        quantity,
        asset,
        amount
    FROM metered
    UNION ALL
    SELECT
        b.customer_no,
        2 AS part,
        'amount' AS what,
        NULL AS meter_no,
        NULL AS dimensions,
        NULL AS rate_card,
        NULL AS quantity,
        b.asset,
        b.amount - coalesce((
            SELECT sum(m.amount)
            FROM metered AS m
            WHERE m.customer_no = b.customer_no AND m.asset = b.asset
        ), 0) AS amount
    FROM burned AS b
    WHERE b.kind = 'charge'
    UNION ALL
    SELECT
        b.customer_no,
        3 AS part,
        'reversal' AS what,
        NULL AS meter_no,
        NULL AS dimensions,
        NULL AS rate_card,
        NULL AS quantity,
        b.asset,
        b.amount
    FROM burned AS b
    WHERE b.kind = 'reversal'
)

SELECT
    c.customer_id,
    p.what,
    m.meter,
    p.dimensions,
    p.rate_card,
    p.quantity,
    p.asset,
    p.amount * u.unit AS amount
FROM parts AS p
INNER JOIN customers AS c ON p.customer_no = c.customer_no
INNER JOIN units AS u ON p.asset = u.asset
LEFT JOIN meters AS m ON p.meter_no = m.meter_no
WHERE p.amount <> 0 OR p.quantity IS NOT NULL
ORDER BY p.customer_no, p.part, m.meter, p.dimensions, p.rate_card, p.asset;

-- report_purchases --
-- What each sale moved of each account of money, without what was earned later. A sale by hand has
-- no purchase; what was taken over from another system is none. Debits are cash, fees, disputed and
-- refunds; credits are tax and deferred revenue.
WITH units AS MATERIALIZED (
    SELECT asset, ('1e-' || scale)::numeric AS unit FROM assets WHERE is_money
),

moved AS (
    SELECT
        j.customer_no,
        coalesce(j.grant_no, l.grant_no) AS grant_no,
        t.asset,
        min(j.book_date) FILTER (WHERE j.kind = 'grant') AS sold_on,
        sum(s.amount) FILTER (WHERE s.account = 'cash' AND j.kind = 'grant') AS gross,
        sum(s.amount) FILTER (WHERE s.account = 'cash') AS cash,
        sum(s.amount) FILTER (WHERE s.account = 'fees') AS fees,
        sum(s.amount) FILTER (WHERE s.account = 'disputed') AS disputed,
        sum(s.amount) FILTER (WHERE s.account = 'refunds') AS refunds,
        -sum(s.amount) FILTER (WHERE s.account = 'tax') AS tax,
        -sum(s.amount) FILTER (WHERE s.account = 'deferred_revenue') AS deferred_revenue
    FROM journals AS j
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    INNER JOIN units AS u ON t.asset = u.asset
    CROSS JOIN
        LATERAL (VALUES (t.debit, t.amount), (t.credit, -t.amount)) AS s (account, amount)
    LEFT JOIN lots AS l ON j.customer_no = l.customer_no AND j.lot_no = l.lot_no
    WHERE
        ($1::date IS NULL OR j.book_date >= $1::date)
        AND j.book_date < $2::date
        AND t.debit <> 'opening'
        AND 'revenue' NOT IN (t.debit, t.credit)
        AND 'breakage_revenue' NOT IN (t.debit, t.credit)
    GROUP BY j.customer_no, coalesce(j.grant_no, l.grant_no), t.asset
)

SELECT
    m.sold_on,
    c.customer_id,
    CASE
        WHEN f.purchase_no IS NOT NULL THEN public_id_v1('pur', m.customer_no, f.purchase_no)
    END AS purchase_id,
    public_id_v1('grt', m.customer_no, m.grant_no) AS grant_id,
    coalesce(p.kind, 'manual') AS kind,
    p.product,
    p.invoice_id,
    m.asset AS currency,
    coalesce(m.gross, 0) * u.unit AS gross,
    coalesce(m.tax, 0) * u.unit AS tax,
    coalesce(m.deferred_revenue, 0) * u.unit AS deferred_revenue,
    coalesce(m.refunds, 0) * u.unit AS refunds,
    coalesce(m.disputed, 0) * u.unit AS disputed,
    coalesce(m.fees, 0) * u.unit AS fees,
    coalesce(m.cash, 0) * u.unit AS cash
FROM moved AS m
INNER JOIN customers AS c ON m.customer_no = c.customer_no
INNER JOIN units AS u ON m.asset = u.asset
LEFT JOIN LATERAL (
    SELECT max(l.purchase_no) AS purchase_no
    FROM lots AS l
    WHERE l.customer_no = m.customer_no AND l.grant_no = m.grant_no
) AS f ON true
LEFT JOIN purchases AS p ON m.customer_no = p.customer_no AND f.purchase_no = p.purchase_no
ORDER BY m.customer_no, m.grant_no, m.asset;
