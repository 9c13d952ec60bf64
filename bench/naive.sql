-- What a careful team writes first: one call per request, its own transaction, the customer's row
-- locked, the same rows written as drawdown writes (hold or journal and transfer, lot, accounts,
-- customer, answered request, chain hash). No time to settle, no overage: the shortest honest path.

CREATE OR REPLACE FUNCTION naive_replay(
    p_customer bigint, p_key text, p_fingerprint bytea, OUT status integer, OUT body bytea
) LANGUAGE plpgsql AS $$
DECLARE
    r requests;
BEGIN
    SELECT * INTO r FROM requests WHERE customer_no = p_customer AND key = p_key;
    IF FOUND THEN
        IF r.fingerprint <> p_fingerprint THEN
            status := 422;
        ELSE
            status := r.status;
            body := r.body;
        END IF;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION naive_balance(a accounts) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_object(
        'posted', ((a.wallet_credits - a.wallet_debits) / 1000000000)::text,
        'held', (a.wallet_pending / 1000000000)::text,
        'available',
        ((a.wallet_credits - a.wallet_debits - a.wallet_pending) / 1000000000)::text,
        'owed', ((a.owed_debits - a.owed_credits) / 1000000000)::text
    )
$$;

CREATE OR REPLACE FUNCTION naive_reserve(
    p_customer bigint, p_key text, p_fingerprint bytea, p_amount bigint, p_seconds integer,
    OUT status integer, OUT body bytea
) LANGUAGE plpgsql AS $$
DECLARE
    c customers;
    a accounts;
    l record;
    t timestamptz;
    wanted bigint := p_amount;
    part bigint;
    pin_lots bigint[] := '{}';
    pin_amounts bigint[] := '{}';
    h bigint;
BEGIN
    SELECT * INTO c FROM customers WHERE customer_no = p_customer FOR NO KEY UPDATE;
    SELECT * INTO status, body FROM naive_replay(p_customer, p_key, p_fingerprint);
    IF status IS NOT NULL THEN
        RETURN;
    END IF;
    t := service_now_v1();
    SELECT * INTO a FROM accounts WHERE customer_no = p_customer AND asset = 'credits';
    IF a.wallet_credits - a.wallet_debits - a.wallet_pending < p_amount THEN
        status := 402;
        body := convert_to(json_build_object('code', 'insufficient_credits')::text, 'UTF8');
        INSERT INTO requests VALUES (p_customer, p_key, 'reserve', p_fingerprint, 402, body, NULL, t);
        RETURN;
    END IF;
    FOR l IN
        SELECT lot_no, remaining - pinned AS free FROM lots
        WHERE customer_no = p_customer AND asset = 'credits' AND is_open AND NOT is_upcoming
            AND remaining > pinned AND voided_at IS NULL
        ORDER BY priority, expires_at, category DESC, effective_at, created_at, lot_no
    LOOP
        part := least(wanted, l.free);
        UPDATE lots SET pinned = pinned + part WHERE customer_no = p_customer AND lot_no = l.lot_no;
        pin_lots := pin_lots || l.lot_no;
        pin_amounts := pin_amounts || part;
        wanted := wanted - part;
        EXIT WHEN wanted = 0;
    END LOOP;
    h := c.last_no + 1;
    INSERT INTO holds (
        customer_no, hold_no, asset, status, requested, amount, captured, uncovered, pin_lots,
        pin_amounts, steps, expires_at, created_at
    ) VALUES (
        p_customer, h, 'credits', 'open', p_amount, p_amount, 0, 0, pin_lots, pin_amounts, 0,
        t + make_interval(secs => p_seconds), t
    );
    UPDATE accounts SET wallet_pending = wallet_pending + p_amount
    WHERE customer_no = p_customer AND asset = 'credits' RETURNING * INTO a;
    UPDATE customers SET
        last_no = h,
        next_due_at = least(next_due_at, t + make_interval(secs => p_seconds))
    WHERE customer_no = p_customer;
    status := 201;
    body := convert_to(json_build_object(
        'id', 'hld_' || upper(lpad(to_hex(p_customer), 16, '0') || lpad(to_hex(h), 16, '0')),
        'customer_id', c.customer_id, 'asset', 'credits', 'status', 'open',
        'requested', (p_amount::numeric / 1000000000)::text,
        'amount', (p_amount::numeric / 1000000000)::text, 'captured', '0',
        'remaining', (p_amount::numeric / 1000000000)::text, 'overage_held', '0',
        'expires_at', t + make_interval(secs => p_seconds), 'created_at', t,
        'metadata', '{}'::json, 'charge', NULL, 'charges', '[]'::json,
        'balance', naive_balance(a)
    )::text, 'UTF8');
    INSERT INTO requests VALUES (p_customer, p_key, 'reserve', p_fingerprint, 201, body, NULL, t);
END
$$;

CREATE OR REPLACE FUNCTION naive_charge(
    c customers, p_key text, p_lot bigint, p_amount bigint, p_hold bigint, t timestamptz
) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    new_hash bytea := sha256(c.last_hash || convert_to(concat_ws('|',
        'v1', c.customer_no, c.last_seq + 1, 'charge', extract(EPOCH FROM t), t::date, p_hold, p_key,
        'credits', 'wallet', 'burned', p_amount, p_lot
    ), 'UTF8'));
BEGIN
    INSERT INTO journals (
        customer_no, seq, kind, effective_at, created_at, book_date, hold_no, is_late, origin,
        request_key, prev_hash, hash
    ) VALUES (
        c.customer_no, c.last_seq + 1, 'charge', t, t, t::date, p_hold, false, 'api', p_key,
        c.last_hash, new_hash
    );
    INSERT INTO transfers (customer_no, seq, line, asset, debit, credit, amount, lot_no)
    VALUES (c.customer_no, c.last_seq + 1, 1, 'credits', 'wallet', 'burned', p_amount, p_lot);
    UPDATE customers SET last_seq = c.last_seq + 1, last_hash = new_hash, last_created_at = t
    WHERE customer_no = c.customer_no;
    RETURN new_hash;
END
$$;

CREATE OR REPLACE FUNCTION naive_consume(
    p_customer bigint, p_key text, p_fingerprint bytea, p_amount bigint,
    OUT status integer, OUT body bytea
) LANGUAGE plpgsql AS $$
DECLARE
    c customers;
    a accounts;
    l record;
    t timestamptz;
BEGIN
    SELECT * INTO c FROM customers WHERE customer_no = p_customer FOR NO KEY UPDATE;
    SELECT * INTO status, body FROM naive_replay(p_customer, p_key, p_fingerprint);
    IF status IS NOT NULL THEN
        RETURN;
    END IF;
    t := service_now_v1();
    SELECT * INTO a FROM accounts WHERE customer_no = p_customer AND asset = 'credits';
    IF a.wallet_credits - a.wallet_debits - a.wallet_pending < p_amount THEN
        status := 402;
        body := convert_to(json_build_object('code', 'insufficient_credits')::text, 'UTF8');
        INSERT INTO requests VALUES (p_customer, p_key, 'consume', p_fingerprint, 402, body, NULL, t);
        RETURN;
    END IF;
    SELECT lot_no INTO l FROM lots
    WHERE customer_no = p_customer AND asset = 'credits' AND is_open AND NOT is_upcoming
        AND remaining - pinned >= p_amount AND voided_at IS NULL
    ORDER BY priority, expires_at, category DESC, effective_at, created_at, lot_no
    LIMIT 1;
    UPDATE lots SET remaining = remaining - p_amount
    WHERE customer_no = p_customer AND lot_no = l.lot_no;
    PERFORM naive_charge(c, p_key, l.lot_no, p_amount, NULL, t);
    UPDATE accounts SET
        wallet_debits = wallet_debits + p_amount,
        burned_credits = burned_credits + p_amount
    WHERE customer_no = p_customer AND asset = 'credits' RETURNING * INTO a;
    status := 201;
    body := convert_to(json_build_object(
        'id', 'chg_' || upper(
            lpad(to_hex(p_customer), 16, '0') || lpad(to_hex(c.last_seq + 1), 16, '0')
        ),
        'customer_id', c.customer_id, 'asset', 'credits',
        'amount', (p_amount::numeric / 1000000000)::text,
        'lots', json_build_array(json_build_object(
            'lot_id', 'lot_' || upper(
                lpad(to_hex(p_customer), 16, '0') || lpad(to_hex(l.lot_no), 16, '0')
            ), 'amount', (p_amount::numeric / 1000000000)::text
        )),
        'overage', '0', 'late', false, 'reversed', '0', 'effective_at', t, 'created_at', t,
        'metadata', '{}'::json, 'balance', naive_balance(a)
    )::text, 'UTF8');
    INSERT INTO requests VALUES (p_customer, p_key, 'consume', p_fingerprint, 201, body, NULL, t);
END
$$;

CREATE OR REPLACE FUNCTION naive_capture(
    p_customer bigint, p_hold bigint, p_key text, p_fingerprint bytea,
    OUT status integer, OUT body bytea
) LANGUAGE plpgsql AS $$
DECLARE
    c customers;
    a accounts;
    h holds;
    t timestamptz;
BEGIN
    SELECT * INTO c FROM customers WHERE customer_no = p_customer FOR NO KEY UPDATE;
    SELECT * INTO status, body FROM naive_replay(p_customer, p_key, p_fingerprint);
    IF status IS NOT NULL THEN
        RETURN;
    END IF;
    t := service_now_v1();
    SELECT * INTO h FROM holds WHERE customer_no = p_customer AND hold_no = p_hold;
    IF h.status IS DISTINCT FROM 'open' THEN
        status := 409;
        body := convert_to(json_build_object('code', 'hold_already_captured')::text, 'UTF8');
        INSERT INTO requests VALUES (p_customer, p_key, 'capture', p_fingerprint, 409, body, NULL, t);
        RETURN;
    END IF;
    UPDATE lots SET pinned = pinned - h.amount, remaining = remaining - h.amount
    WHERE customer_no = p_customer AND lot_no = h.pin_lots[1];
    PERFORM naive_charge(c, p_key, h.pin_lots[1], h.amount, p_hold, t);
    UPDATE accounts SET
        wallet_debits = wallet_debits + h.amount,
        wallet_pending = wallet_pending - h.amount,
        burned_credits = burned_credits + h.amount
    WHERE customer_no = p_customer AND asset = 'credits' RETURNING * INTO a;
    UPDATE holds SET
        status = 'captured', captured = h.amount, ended_at = t, ended_created_at = t
    WHERE customer_no = p_customer AND hold_no = p_hold;
    status := 200;
    body := convert_to(json_build_object(
        'id', 'hld_' || upper(lpad(to_hex(p_customer), 16, '0') || lpad(to_hex(p_hold), 16, '0')),
        'customer_id', c.customer_id, 'asset', 'credits', 'status', 'captured',
        'requested', (h.amount::numeric / 1000000000)::text,
        'amount', (h.amount::numeric / 1000000000)::text,
        'captured', (h.amount::numeric / 1000000000)::text,
        'remaining', '0', 'overage_held', '0', 'expires_at', h.expires_at,
        'created_at', h.created_at, 'metadata', '{}'::json,
        'charge', json_build_object(
            'id', 'chg_' || upper(
                lpad(to_hex(p_customer), 16, '0') || lpad(to_hex(c.last_seq + 1), 16, '0')
            ),
            'customer_id', c.customer_id, 'asset', 'credits',
            'amount', (h.amount::numeric / 1000000000)::text, 'overage', '0', 'late', false,
            'reversed', '0', 'effective_at', t, 'created_at', t, 'metadata', '{}'::json
        ),
        'charges', '[]'::json, 'balance', naive_balance(a)
    )::text, 'UTF8');
    INSERT INTO requests VALUES (p_customer, p_key, 'capture', p_fingerprint, 200, body, NULL, t);
END
$$;
