-- Personal fields of one customer go; numbers, dates and who paid for what stay. Each statement
-- finds what is left to do, so that a run that died is simply run again.

-- erase_blockers --
-- What stands in the way of erasing customer $1, and what has to be known of it. One row.
SELECT
    p.stripe_customer_id,
    array(
        SELECT k.object_id
        FROM stripe_calls AS k
        WHERE k.customer_no = $1::bigint AND k.kind = 'customer' AND k.object_id IS NOT NULL
        UNION
        SELECT p.stripe_customer_id WHERE p.stripe_customer_id IS NOT NULL
        UNION
        SELECT i.stripe_customer_id FROM report_items AS i WHERE i.customer_no = $1::bigint
        UNION
        SELECT s.state::json ->> 'customer_id'
        FROM subscriptions AS s
        WHERE s.customer_no = $1::bigint
    ) AS names_at_stripe,
    c.closed_at IS NULL AS is_open,
    0 < (
        SELECT count(*) FROM holds AS h WHERE h.customer_no = $1::bigint AND h.is_open
    ) AS has_holds,
    0 < (
        SELECT count(*) FROM subscriptions AS s WHERE s.customer_no = $1::bigint AND s.is_live
    ) AS has_subscription,
    0 < (
        SELECT count(*)
        FROM stripe_calls AS k
        WHERE
            k.customer_no = $1::bigint
            AND k.is_queued
            AND k.object_id IS NULL
            AND NOT k.is_parked
    ) AS has_calls,
    0 < (
        SELECT count(*)
        FROM top_up_attempts AS t
        WHERE t.customer_no = $1::bigint AND t.status = 'open'
    ) AS has_top_up
FROM customers AS c
INNER JOIN profiles AS p ON c.customer_no = p.customer_no
WHERE c.customer_no = $1::bigint;

-- profile_erase --
-- The profile without what names a person; when that was first done.
UPDATE profiles SET
    name = NULL,
    email = NULL,
    metadata = '{}',
    stripe_customer_id = NULL,
    erased_at = coalesce(erased_at, service_now_v1()),
    updated_at = service_now_v1()
WHERE customer_no = $1::bigint
RETURNING erased_at;

-- keys_erase --
-- The customer's own keys and tokens end, and lose their names.
UPDATE api_keys SET name = '', revoked_at = coalesce(revoked_at, service_now_v1())
WHERE customer_no = $1::bigint;

-- cards_erase --
-- Cards are recognised no more, and nothing is charged by itself.
WITH attempts AS (
    UPDATE top_up_attempts SET fingerprint = NULL, error = NULL WHERE customer_no = $1::bigint
)

UPDATE auto_top_ups SET is_enabled = false, bad_card = NULL, error = NULL
WHERE customer_no = $1::bigint;

-- stripe_calls_erase --
-- What Stripe was sent and told goes, but which objects were made and how an action left its
-- subscription; of refunds the amounts stay. Links to invoices go. What was not made is never sent
-- again as it was.
WITH ended AS (
    UPDATE subscriptions SET state = jsonb_set(state::jsonb, '{invoice}', 'null')::text
    WHERE customer_no = $1::bigint
)

UPDATE stripe_calls SET
    params = CASE WHEN kind = 'refund' THEN params ELSE '{}' END,
    answer = CASE
        WHEN kind = 'action'
            THEN jsonb_set(answer::jsonb, '{subscription,invoice}', 'null', false)::text
        WHEN answer IS NOT NULL THEN json_build_object('object_id', object_id)::text
    END,
    error = NULL,
    revision = CASE WHEN object_id IS NULL THEN revision + 1 ELSE revision END,
    first_sent_at = CASE WHEN object_id IS NULL THEN NULL ELSE first_sent_at END
WHERE customer_no = $1::bigint;

-- deliveries_page --
-- Up to $4 deliveries of Stripe after the id $3: the last id, how many, and which of them are about
-- customer $1, by its objects or because they name it as Stripe knows it: one of $2.
WITH page AS (
    SELECT event_id, object_id, body
    FROM stripe_events
    WHERE event_id > $3::text
    ORDER BY event_id
    LIMIT $4::integer
),

about AS (
    SELECT p.event_id
    FROM page AS p
    WHERE
        p.body <> '{}'
        AND (
            p.object_id = any($2::text[])
            OR 0 < (
                SELECT count(*) FROM purchase_objects AS o
                WHERE o.object_id = p.object_id AND o.customer_no = $1::bigint
            )
            OR 0 < (
                SELECT count(*) FROM subscriptions AS s
                WHERE s.customer_no = $1::bigint AND s.subscription_id = p.object_id
            )
            OR 0 < (
                SELECT count(*) FROM unnest($2::text[]) AS n (name)
                WHERE position(convert_to('"' || n.name || '"', 'UTF8') IN p.body) > 0
            )
        )
)

SELECT
    max(p.event_id) AS last_id,
    count(*) AS looked_at,
    array(SELECT a.event_id FROM about AS a) AS event_ids
FROM page AS p;

-- deliveries_erase --
-- The bodies of these deliveries.
UPDATE stripe_events SET body = '{}' WHERE event_id = any($1::text[]);

-- holds_erase --
-- The texts of up to $2 holds.
UPDATE holds AS h SET reference = NULL, metadata = NULL
FROM (
    SELECT hold_no
    FROM holds
    WHERE customer_no = $1::bigint AND (reference IS NOT NULL OR metadata IS NOT NULL)
    LIMIT $2::integer
) AS part
WHERE h.customer_no = $1::bigint AND h.hold_no = part.hold_no;

-- notes_erase --
-- The texts of up to $2 journals. Their digests stay in the chain, which so still proves.
DELETE FROM notes AS n
USING (
    SELECT seq FROM notes WHERE customer_no = $1::bigint LIMIT $2::integer
) AS part
WHERE n.customer_no = $1::bigint AND n.seq = part.seq;

-- answers_page --
-- Up to $3 stored answers of a customer, by key, after the key $2.
SELECT key, body
FROM requests
WHERE customer_no = $1::bigint AND key > $2::text
ORDER BY key
LIMIT $3::integer;

-- answers_put --
-- Stored answers without their texts.
UPDATE requests AS r SET body = n.body
FROM unnest($2::text[], $3::bytea[]) AS n (key, body)
WHERE r.customer_no = $1::bigint AND r.key = n.key;

-- events_page --
-- Up to $5 stored events of a customer, in order, after ($2, $3, $4).
SELECT time, source, id, type, data, extensions
FROM events
WHERE
    customer_no = $1::bigint
    AND (time, source, id) > ($2::timestamptz, $3::text, $4::text)
ORDER BY time, source, id
LIMIT $5::integer;

-- events_put --
-- Stored events with less data, and without extensions.
UPDATE events AS e SET data = n.data, extensions = NULL
FROM unnest($2::timestamptz[], $3::text[], $4::text[], $5::text[]) AS n (time, source, id, data)
WHERE
    e.customer_no = $1::bigint AND e.time = n.time AND e.source = n.source AND e.id = n.id;

-- corrections_page --
-- Up to $3 corrections of a customer's events that hold data, by id, after the id $2.
SELECT c.correction_id, c.data, e.type
FROM corrections AS c
LEFT JOIN
    events AS e
    ON c.customer_no = e.customer_no AND c.time = e.time AND c.source = e.source AND c.id = e.id
WHERE c.customer_no = $1::bigint AND c.correction_id > $2::text AND c.data IS NOT NULL
ORDER BY c.correction_id
LIMIT $3::integer;

-- corrections_put --
-- Corrections with less data.
UPDATE corrections AS c SET data = n.data
FROM unnest($2::text[], $3::text[]) AS n (correction_id, data)
WHERE c.customer_no = $1::bigint AND c.correction_id = n.correction_id;
