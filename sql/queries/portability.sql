-- Everything that is kept of one customer, for that customer: a statement for each kind of record.
-- Amounts are in whole units of their asset. Read in one snapshot, some rows at a time.

-- own_profile --
-- Who the customer is.
SELECT
    c.customer_id, p.name, p.email, p.time_zone, p.currency, p.metadata, p.rate_card,
    p.stripe_customer_id, p.subscription_id, p.subscription_status, p.plan, p.plan_tier,
    c.overage_policy, c.created_at, p.updated_at, c.closed_at, p.erased_at
FROM customers AS c
INNER JOIN profiles AS p ON c.customer_no = p.customer_no
WHERE c.customer_no = $1::bigint;

-- own_accounts --
-- What every account of the customer comes to: debits and credits ever posted.
SELECT
    b.asset,
    b.account,
    trim_scale(b.debits * ('1e-' || s.scale)::numeric) AS debits,
    trim_scale(b.credits * ('1e-' || s.scale)::numeric) AS credits
FROM account_balances AS b
INNER JOIN assets AS s ON b.asset = s.asset
WHERE b.customer_no = $1::bigint AND (b.debits <> 0 OR b.credits <> 0)
ORDER BY b.asset, b.account;

-- own_grants --
-- What was given, and on which terms.
SELECT
    public_id_v1('grt', g.customer_no, g.grant_no) AS id,
    g.asset,
    trim_scale(g.amount * ('1e-' || s.scale)::numeric) AS amount,
    g.category,
    trim_scale(g.cost_amount * ('1e-' || m.scale)::numeric) AS cost,
    g.currency,
    g.priority,
    g.effective_at,
    g.expires_at,
    g.recur_interval,
    g.recur_count,
    g.next_start_at,
    g.voided_at,
    g.origin,
    g.created_at
FROM grants AS g
INNER JOIN assets AS s ON g.asset = s.asset
LEFT JOIN assets AS m ON g.currency = m.asset
WHERE g.customer_no = $1::bigint
ORDER BY g.grant_no;

-- own_lots --
-- The parcels of credit that grants made, and what is left of each.
SELECT
    public_id_v1('lot', l.customer_no, l.lot_no) AS id,
    public_id_v1('grt', l.customer_no, l.grant_no) AS grant_id,
    l.asset,
    trim_scale(l.amount * ('1e-' || s.scale)::numeric) AS amount,
    trim_scale(l.remaining * ('1e-' || s.scale)::numeric) AS remaining,
    trim_scale(l.pinned * ('1e-' || s.scale)::numeric) AS held,
    trim_scale(l.expired * ('1e-' || s.scale)::numeric) AS expired,
    trim_scale(l.voided * ('1e-' || s.scale)::numeric) AS voided,
    l.effective_at,
    l.expires_at,
    l.created_at
FROM lots AS l
INNER JOIN assets AS s ON l.asset = s.asset
WHERE l.customer_no = $1::bigint
ORDER BY l.lot_no;

-- own_holds --
-- What was set aside, and what became of it.
SELECT
    public_id_v1('hld', h.customer_no, h.hold_no) AS id,
    h.asset,
    h.status,
    trim_scale(h.requested * ('1e-' || s.scale)::numeric) AS requested,
    trim_scale(h.amount * ('1e-' || s.scale)::numeric) AS amount,
    trim_scale(h.captured * ('1e-' || s.scale)::numeric) AS captured,
    h.reference,
    h.metadata,
    h.expires_at,
    h.created_at,
    h.ended_at
FROM holds AS h
INNER JOIN assets AS s ON h.asset = s.asset
WHERE h.customer_no = $1::bigint
ORDER BY h.hold_no;

-- own_journals --
-- Every fact of the books with its transfers, its texts, and its place in the chain.
SELECT
    public_id_v1('jrn', j.customer_no, j.seq) AS id,
    j.seq,
    j.kind,
    j.effective_at,
    j.created_at,
    j.book_date::text AS book_date,
    j.late_for,
    j.origin,
    j.request_key,
    n.reference,
    n.reason,
    n.metadata,
    (
        SELECT
            json_agg(
                json_build_object(
                    'asset', t.asset,
                    'debit', t.debit,
                    'credit', t.credit,
                    'amount', trim_scale(t.amount * ('1e-' || s.scale)::numeric)::text,
                    'lot_id', public_id_v1('lot', t.customer_no, t.lot_no)
                )
                ORDER BY t.line
            )
        FROM transfers AS t
        INNER JOIN assets AS s ON t.asset = s.asset
        WHERE t.customer_no = j.customer_no AND t.seq = j.seq
    ) AS transfers,
    encode(j.hash, 'hex') AS hash
FROM journals AS j
LEFT JOIN notes AS n ON j.customer_no = n.customer_no AND j.seq = n.seq
WHERE j.customer_no = $1::bigint
ORDER BY j.seq;

-- own_charge_lines --
-- What usage was charged for, line by line.
SELECT
    public_id_v1('chg', c.customer_no, c.seq) AS charge_id,
    c.line,
    m.meter,
    trim_scale(c.quantity) AS quantity,
    c.dimensions,
    c.rate_card,
    c.rate_version,
    c.asset,
    trim_scale(c.amount * ('1e-' || s.scale)::numeric) AS amount,
    c.source,
    c.event_id,
    c.event_at
FROM charge_lines AS c
INNER JOIN meters AS m ON c.meter_no = m.meter_no
INNER JOIN assets AS s ON c.asset = s.asset
WHERE c.customer_no = $1::bigint
ORDER BY c.seq, c.line;

-- own_requests --
-- What was asked under idempotency keys, and answered.
SELECT
    r.key,
    r.operation,
    r.status,
    convert_from(r.body, 'UTF8') AS body,
    r.created_at
FROM requests AS r
WHERE r.customer_no = $1::bigint
ORDER BY r.created_at, r.key;

-- own_events --
-- Usage events whose content is still kept.
SELECT e.source, e.id, e.type, e.time, e.data, e.extensions, e.received_at
FROM events AS e
WHERE e.customer_no = $1::bigint
ORDER BY e.time, e.source, e.id;

-- own_corrections --
-- Corrections of usage events.
SELECT c.correction_id, c.source, c.id, c.action, c.data, c.created_at
FROM corrections AS c
WHERE c.customer_no = $1::bigint
ORDER BY c.created_at, c.correction_id;

-- own_purchases --
-- What was bought, paid and given back.
SELECT
    public_id_v1('pur', p.customer_no, p.purchase_no) AS id,
    p.kind,
    p.status,
    p.product,
    p.quantity,
    p.asset,
    trim_scale(p.credits * ('1e-' || s.scale)::numeric) AS credits,
    trim_scale(p.bonus * ('1e-' || s.scale)::numeric) AS bonus,
    p.currency,
    trim_scale(p.amount * ('1e-' || m.scale)::numeric) AS amount,
    trim_scale(p.captured_amount * ('1e-' || m.scale)::numeric) AS captured,
    trim_scale(p.tax_amount * ('1e-' || m.scale)::numeric) AS tax,
    trim_scale(p.refunded_amount * ('1e-' || m.scale)::numeric) AS refunded,
    trim_scale(p.lost_amount * ('1e-' || m.scale)::numeric) AS lost,
    p.invoice_id,
    p.created_at,
    p.credited_at
FROM purchases AS p
INNER JOIN assets AS s ON p.asset = s.asset
INNER JOIN assets AS m ON p.currency = m.asset
WHERE p.customer_no = $1::bigint
ORDER BY p.purchase_no;

-- own_subscriptions --
-- Plans that were subscribed to.
SELECT
    s.subscription_id AS id, s.status, s.plan, s.version, s.quantity, s.period_start, s.period_end,
    s.started_at, s.fetched_at
FROM subscriptions AS s
WHERE s.customer_no = $1::bigint
ORDER BY s.started_at, s.subscription_id;

-- own_deliveries --
-- What Stripe told about the customer, as it came: of the last 90 days.
SELECT e.event_id AS id, e.type, e.created_at, convert_from(e.body, 'UTF8') AS body
FROM stripe_events AS e
WHERE
    e.object_id IN (
        SELECT o.object_id FROM purchase_objects AS o WHERE o.customer_no = $1::bigint
        UNION ALL
        SELECT s.subscription_id FROM subscriptions AS s WHERE s.customer_no = $1::bigint
        UNION ALL
        SELECT p.stripe_customer_id FROM profiles AS p WHERE p.customer_no = $1::bigint
    )
ORDER BY e.created_at, e.event_id;
