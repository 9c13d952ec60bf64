-- The books as rows of FOCUS 1.2, the FinOps Open Cost and Usage Specification (decision 0037). A
-- report as those of reports.sql are. Of BilledCost and EffectiveCost one is always 0, so what is
-- contracted and listed is their sum.

-- report_focus --
-- Use in credits by day, what was earned by day, and what was paid and given back by grant and day.
-- A correction is of a month before its own. A row of credits names the currency that its customer
-- first paid in, up to that day; XXX is ISO 4217's word for none.
WITH units AS MATERIALIZED (
    SELECT
        asset,
        is_money,
        ('1e-' || scale)::numeric AS unit
    FROM assets
),

used AS (
    SELECT
        j.customer_no,
        j.seq,
        j.book_date,
        j.kind,
        coalesce(
            date_trunc('month', o.book_date::timestamp)
            < date_trunc('month', j.book_date::timestamp), false
        ) AS is_correction
    FROM journals AS j
    LEFT JOIN
        journals AS o
        ON j.kind = 'reversal' AND j.customer_no = o.customer_no AND j.charge_seq = o.seq
    WHERE
        ($1::date IS NULL OR j.book_date >= $1::date)
        AND j.book_date < $2::date
        AND j.kind IN ('charge', 'reversal')
),

burned AS (
    SELECT
        s.customer_no,
        s.book_date,
        s.kind,
        s.is_correction,
        t.asset,
        sum(CASE WHEN t.credit = 'burned' THEN t.amount ELSE -t.amount END) AS amount
    FROM used AS s
    INNER JOIN
        transfers AS t
        ON s.customer_no = t.customer_no AND s.seq = t.seq AND 'burned' IN (t.debit, t.credit)
    GROUP BY s.customer_no, s.book_date, s.kind, s.is_correction, t.asset
),

metered AS (
    SELECT
        s.customer_no,
        s.book_date,
        s.kind,
        s.is_correction,
        n.meter_no,
        n.dimensions,
        n.rate_card,
        n.asset,
        sum(n.quantity) AS quantity,
        sum(n.amount) AS amount
    FROM used AS s
    INNER JOIN charge_lines AS n ON s.customer_no = n.customer_no AND s.seq = n.seq
    GROUP BY
        s.customer_no, s.book_date, s.kind, s.is_correction,
        n.meter_no, n.dimensions, n.rate_card, n.asset
),

of_meters AS (
    SELECT
        customer_no,
        book_date,
        kind,
        is_correction,
        asset,
        sum(amount) AS amount
    FROM metered
    GROUP BY customer_no, book_date, kind, is_correction, asset
),

earned AS (
    SELECT
        j.customer_no,
        j.book_date,
        t.asset,
        'breakage_revenue' IN (t.debit, t.credit) AS is_breakage,
        sum(
            CASE WHEN t.credit IN ('revenue', 'breakage_revenue') THEN t.amount ELSE -t.amount END
        ) AS amount
    FROM journals AS j
    INNER JOIN
        transfers AS t
        ON
            j.customer_no = t.customer_no
            AND j.seq = t.seq
            AND (
                'revenue' IN (t.debit, t.credit) OR 'breakage_revenue' IN (t.debit, t.credit)
            )
    WHERE ($1::date IS NULL OR j.book_date >= $1::date) AND j.book_date < $2::date
    GROUP BY j.customer_no, j.book_date, t.asset, is_breakage
),

paid AS (
    SELECT
        j.customer_no,
        j.book_date,
        coalesce(j.grant_no, l.grant_no) AS grant_no,
        t.asset,
        CASE
            WHEN j.kind = 'grant' THEN 'sale'
            WHEN 'disputed' IN (t.debit, t.credit) THEN 'dispute'
            ELSE 'refund'
        END AS kind,
        s.account = 'tax' AS is_tax,
        sum(s.amount) AS amount
    FROM journals AS j
    INNER JOIN transfers AS t ON j.customer_no = t.customer_no AND j.seq = t.seq
    INNER JOIN units AS u ON t.asset = u.asset AND u.is_money
    CROSS JOIN
        LATERAL (VALUES (t.debit, -t.amount), (t.credit, t.amount)) AS s (account, amount)
    LEFT JOIN lots AS l ON j.customer_no = l.customer_no AND j.lot_no = l.lot_no
    WHERE
        ($1::date IS NULL OR j.book_date >= $1::date)
        AND j.book_date < $2::date
        AND t.debit <> 'opening'
        AND 'revenue' NOT IN (t.debit, t.credit)
        AND 'breakage_revenue' NOT IN (t.debit, t.credit)
        AND s.account IN ('deferred_revenue', 'refunds', 'tax')
    GROUP BY
        j.customer_no, j.book_date, coalesce(j.grant_no, l.grant_no), t.asset,
        CASE
            WHEN j.kind = 'grant' THEN 'sale'
            WHEN 'disputed' IN (t.debit, t.credit) THEN 'dispute'
            ELSE 'refund'
        END,
        s.account = 'tax'
),

issued AS (
    SELECT
        j.customer_no,
        j.book_date,
        j.grant_no,
        t.asset,
        sum(t.amount) AS amount
    FROM journals AS j
    INNER JOIN
        transfers AS t
        ON j.customer_no = t.customer_no AND j.seq = t.seq AND t.debit = 'purchased'
    WHERE
        ($1::date IS NULL OR j.book_date >= $1::date)
        AND j.book_date < $2::date
        AND j.kind = 'grant'
    GROUP BY j.customer_no, j.book_date, j.grant_no, t.asset
),

parts AS (
    SELECT
        customer_no,
        book_date,
        1 AS part,
        CASE WHEN kind = 'reversal' THEN 'reversal' ELSE 'usage' END AS kind,
        is_correction,
        NULL AS currency,
        NULL::numeric AS money,
        asset,
        amount,
        quantity,
        meter_no,
        dimensions,
        rate_card,
        NULL::bigint AS grant_no
    FROM metered
    UNION ALL
    SELECT
        b.customer_no,
        b.book_date,
        2 AS part,
        CASE WHEN b.kind = 'reversal' THEN 'reversal' ELSE 'amount' END AS kind,
        b.is_correction,
        NULL AS currency,
        NULL AS money,
        b.asset,
        b.amount - coalesce(o.amount, 0) AS amount,
        NULL AS quantity,
        NULL AS meter_no,
        NULL AS dimensions,
        NULL AS rate_card,
        NULL AS grant_no
    FROM burned AS b
    LEFT JOIN
        of_meters AS o
        ON
            b.customer_no = o.customer_no
            AND b.book_date = o.book_date
            AND b.kind = o.kind
            AND b.is_correction = o.is_correction
            AND b.asset = o.asset
    WHERE b.amount <> coalesce(o.amount, 0)
    UNION ALL
    SELECT
        customer_no,
        book_date,
        CASE WHEN is_breakage THEN 4 ELSE 3 END AS part,
        CASE WHEN is_breakage THEN 'breakage' ELSE 'recognised' END AS kind,
        false AS is_correction,
        asset AS currency,
        amount AS money,
        NULL AS asset,
        NULL AS amount,
        NULL AS quantity,
        NULL AS meter_no,
        NULL AS dimensions,
        NULL AS rate_card,
        NULL AS grant_no
    FROM earned
    WHERE amount <> 0
    UNION ALL
    SELECT
        p.customer_no,
        p.book_date,
        CASE WHEN p.is_tax THEN 6 ELSE 5 END AS part,
        p.kind,
        p.kind <> 'sale'
        AND date_trunc('month', o.book_date::timestamp)
        < date_trunc('month', p.book_date::timestamp) AS is_correction,
        p.asset AS currency,
        p.amount AS money,
        i.asset,
        i.amount,
        NULL AS quantity,
        NULL AS meter_no,
        NULL AS dimensions,
        NULL AS rate_card,
        p.grant_no
    FROM paid AS p
    INNER JOIN grants AS g ON p.customer_no = g.customer_no AND p.grant_no = g.grant_no
    INNER JOIN journals AS o ON g.customer_no = o.customer_no AND g.journal_seq = o.seq
    LEFT JOIN
        issued AS i
        ON
            NOT p.is_tax
            AND p.kind = 'sale'
            AND p.customer_no = i.customer_no
            AND p.book_date = i.book_date
            AND p.grant_no = i.grant_no
    WHERE p.amount <> 0
),

first_paid AS (
    SELECT DISTINCT ON (g.customer_no)
        g.customer_no,
        j.book_date,
        g.currency
    FROM grants AS g
    INNER JOIN journals AS j ON g.customer_no = j.customer_no AND g.journal_seq = j.seq
    WHERE g.currency IS NOT NULL
    ORDER BY g.customer_no, j.book_date, j.seq
),

told AS (
    SELECT
        p.*,
        date_trunc('month', p.book_date::timestamp) AS month,
        p.part IN (1, 2) AS is_use,
        p.part IN (5, 6) AS is_sale,
        coalesce(p.currency, f.currency, 'XXX') AS billing_currency,
        coalesce(p.money * c.unit, 0) AS cost,
        p.amount * u.unit AS credits
    FROM parts AS p
    LEFT JOIN first_paid AS f ON p.customer_no = f.customer_no AND p.book_date >= f.book_date
    LEFT JOIN units AS c ON p.currency = c.asset
    LEFT JOIN units AS u ON p.asset = u.asset
)

SELECT
    CASE WHEN t.is_sale THEN t.cost ELSE 0 END AS "BilledCost",
    c.customer_id AS "BillingAccountId",
    NULL AS "BillingAccountName",
    t.billing_currency AS "BillingCurrency",
    (t.month + interval '1 month') AT TIME ZONE 'UTC' AS "BillingPeriodEnd",
    t.month AT TIME ZONE 'UTC' AS "BillingPeriodStart",
    CASE t.part WHEN 4 THEN 'Adjustment' WHEN 5 THEN 'Purchase' WHEN 6 THEN 'Tax' ELSE 'Usage' END
        AS "ChargeCategory",
    CASE WHEN t.is_correction THEN 'Correction' END AS "ChargeClass",
    CASE
        WHEN t.kind = 'usage' THEN 'Use of ' || m.meter
        WHEN t.kind = 'amount' THEN 'Use without a meter'
        WHEN t.kind = 'reversal' THEN 'Use that was undone'
        WHEN t.kind = 'recognised' THEN 'Paid credit that was used'
        WHEN t.kind = 'breakage' THEN 'Paid credit that stayed unused'
        ELSE
            CASE t.kind WHEN 'sale' THEN 'Sale' WHEN 'refund' THEN 'Refund' ELSE 'Lost dispute' END
            || CASE WHEN t.part = 6 THEN ', tax: ' ELSE ': ' END
            || coalesce(p.product, 'by hand')
    END AS "ChargeDescription",
    CASE
        WHEN t.part <= 3 THEN 'Usage-Based' WHEN p.kind = 'plan' THEN 'Recurring' ELSE 'One-Time'
    END AS "ChargeFrequency",
    (t.book_date + 1)::timestamp AT TIME ZONE 'UTC' AS "ChargePeriodEnd",
    t.book_date::timestamp AT TIME ZONE 'UTC' AS "ChargePeriodStart",
    CASE WHEN t.is_use THEN coalesce(t.quantity, t.credits) WHEN t.part = 3 THEN 1 END
        AS "ConsumedQuantity",
    CASE WHEN t.is_use THEN coalesce(m.meter, t.asset) WHEN t.part = 3 THEN 'Days' END
        AS "ConsumedUnit",
    t.cost AS "ContractedCost",
    CASE WHEN t.is_sale THEN 0 ELSE t.cost END AS "EffectiveCost",
    CASE WHEN t.kind = 'sale' THEN p.invoice_id END AS "InvoiceId",
    'drawdown' AS "InvoiceIssuerName",
    t.cost AS "ListCost",
    CASE WHEN t.is_use THEN t.asset ELSE t.billing_currency END AS "PricingCurrency",
    CASE WHEN t.is_use THEN t.credits WHEN t.is_sale THEN 0 ELSE t.cost END
        AS "PricingCurrencyEffectiveCost",
    CASE WHEN t.part = 3 THEN 1 ELSE coalesce(t.quantity, t.credits) END AS "PricingQuantity",
    CASE WHEN t.part = 3 THEN 'Days' ELSE coalesce(m.meter, t.asset) END AS "PricingUnit",
    'drawdown' AS "ProviderName",
    'drawdown' AS "PublisherName",
    'Other' AS "ServiceCategory",
    'Prepaid usage' AS "ServiceName",
    'Other (Other)' AS "ServiceSubcategory",
    t.dimensions AS "x_Dimensions",
    CASE WHEN t.is_sale THEN public_id_v1('grt', t.customer_no, t.grant_no) END AS "x_GrantId",
    t.kind AS "x_Kind",
    m.meter AS "x_Meter",
    CASE
        WHEN b.purchase_no IS NOT NULL THEN public_id_v1('pur', t.customer_no, b.purchase_no)
    END AS "x_PurchaseId",
    t.rate_card AS "x_RateCard",
    CASE WHEN t.kind <> 'sale' THEN p.invoice_id END AS "x_ReturnedInvoiceId"
FROM told AS t
INNER JOIN customers AS c ON t.customer_no = c.customer_no
LEFT JOIN meters AS m ON t.meter_no = m.meter_no
LEFT JOIN LATERAL (
    SELECT max(l.purchase_no) AS purchase_no
    FROM lots AS l
    WHERE l.customer_no = t.customer_no AND l.grant_no = t.grant_no
) AS b ON true
LEFT JOIN purchases AS p ON t.customer_no = p.customer_no AND b.purchase_no = p.purchase_no
ORDER BY
    t.customer_no, t.book_date, t.part, m.meter, t.dimensions, t.rate_card, t.grant_no, t.kind,
    t.is_correction, t.asset, t.billing_currency;
