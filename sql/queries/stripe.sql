-- What is sold through Stripe, made there, and told by it.

-- packs_read --
-- The latest version of each pack, or of pack $1.
SELECT DISTINCT ON (pack)
    pack, version, name, asset, credits, bonus, bonus_expires_in, expires_in, priority, prices,
    tax_code, tax_behavior, is_active, metadata, created_at
FROM packs
WHERE $1::text IS NULL OR pack = $1::text
ORDER BY pack, version DESC;

-- pack_lock --
-- One changer of a pack at a time. ("pack", and which.)
SELECT pg_advisory_xact_lock(1885430635, hashtext($1::text));

-- pack_add --
-- The next version of a pack.
INSERT INTO packs (
    pack, version, name, asset, credits, bonus, bonus_expires_in, expires_in, priority, prices,
    tax_code, tax_behavior, is_active, metadata, created_at
)
SELECT
    $1::text,
    coalesce(max(version), 0) + 1,
    $2::text, $3::text, $4::bigint, $5::bigint, $6::bigint, $7::bigint, $8::smallint, $9::text,
    $10::text, $11::text, $12::boolean, $13::text,
    service_now_v1()
FROM packs
WHERE pack = $1::text;

-- pack_version --
-- Version $2 of pack $1.
SELECT
    pack, version, name, asset, credits, bonus, bonus_expires_in, expires_in, priority, prices,
    tax_code, tax_behavior, is_active, metadata, created_at
FROM packs
WHERE pack = $1::text AND version = $2::integer;

-- stripe_epoch --
-- Grows with each restore: what is named from then on has new names at Stripe.
SELECT epoch FROM installation;

-- stripe_call_add --
-- Notes what is to be made at Stripe; anew as long as nothing was sent under its key.
INSERT INTO stripe_calls AS c (
    name, kind, customer_no, purchase_no, params, is_queued, request_key, created_at
)
VALUES (
    $1::text, $2::text, $3::bigint, $4::bigint, $5::text, $6::boolean, $7::text, service_now_v1()
)
ON CONFLICT (name) DO UPDATE SET params = excluded.params
WHERE c.object_id IS NULL AND c.first_sent_at IS NULL AND NOT c.is_queued;

-- stripe_call_send --
-- Says that a call is about to be sent, and what is known of it.
UPDATE stripe_calls SET
    first_sent_at = coalesce(first_sent_at, service_now_v1()),
    attempts = attempts + CASE WHEN object_id IS NULL THEN 1 ELSE 0 END
WHERE name = $1::text
RETURNING
    name, kind, customer_no, purchase_no, params, revision, object_id, answer, attempts, is_queued,
    first_sent_at < service_now_v1() - interval '23 hours' AS is_old, first_sent_at;

-- stripe_call_renew --
-- Sends a call under a new key from now on; nothing if somebody else has begun that.
UPDATE stripe_calls SET revision = revision + 1, first_sent_at = NULL
WHERE name = $1::text AND revision = $2::integer AND object_id IS NULL;

-- stripe_call_forget --
-- The object was deleted at Stripe: it would be made again.
UPDATE stripe_calls SET
    revision = revision + 1, first_sent_at = NULL, object_id = NULL, answer = NULL, done_at = NULL
WHERE name = $1::text AND object_id = $2::text;

-- stripe_call_done --
-- What was made, as it was told first; no row: somebody else has said so.
UPDATE stripe_calls SET
    object_id = $2::text, answer = $3::text, done_at = service_now_v1(), error = NULL
WHERE name = $1::text AND object_id IS NULL
RETURNING name;

-- stripe_call_failed --
-- Why a call was not done; it is tried again later and later ($3, doubled up to $4), or parked.
UPDATE stripe_calls SET
    error = $2::text,
    not_before = service_now_v1() + least($4::interval, $3::interval * 2 ^ least(attempts, 20)),
    is_parked = $5::boolean
WHERE name = $1::text AND object_id IS NULL AND NOT is_parked
RETURNING customer_no, purchase_no;

-- stripe_call_owner --
-- The purchase that a call was made for, and the object that it made.
SELECT customer_no, purchase_no, object_id
FROM stripe_calls
WHERE name = $1::text AND purchase_no IS NOT NULL;

-- stripe_call_intent --
-- The payment intent that a refund is of.
SELECT params::json ->> 'payment_intent' FROM stripe_calls WHERE name = $1::text;

-- stripe_call_read --
-- A call as it stands.
SELECT name, object_id, answer, error, is_parked, done_at
FROM stripe_calls
WHERE name = $1::text;

-- stripe_calls_queued --
-- Calls that a job sends now, the oldest first.
SELECT name
FROM stripe_calls
WHERE
    is_queued
    AND object_id IS NULL
    AND NOT is_parked
    AND (not_before IS NULL OR not_before <= (SELECT service_now_v1()))
ORDER BY created_at
LIMIT $1::integer;

-- stripe_outbox_age --
-- How many seconds the oldest call waits that a job has still to send.
SELECT coalesce(extract(EPOCH FROM service_now_v1() - min(created_at)), 0)::double precision
FROM stripe_calls
WHERE is_queued AND object_id IS NULL AND NOT is_parked;

-- stripe_refunds_waiting --
-- How much money of a purchase is in refunds of ours that Stripe was not yet asked for, or did not
-- answer.
SELECT coalesce(sum((params::json ->> 'amount')::bigint), 0)::bigint
FROM stripe_calls
WHERE
    customer_no = $1::bigint
    AND purchase_no = $2::bigint
    AND kind = 'refund'
    AND object_id IS NULL
    AND NOT is_parked;

-- stripe_refund_number --
-- The number of a new refund of ours.
SELECT nextval('stripe_refund_no');

-- stripe_event_keep --
-- Keeps a delivery; no row: it is kept already.
INSERT INTO stripe_events (event_id, type, object_id, outcome, body, created_at, received_at)
VALUES (
    $1::text, $2::text, $3::text, $4::text, $5::bytea, $6::timestamptz, service_now_v1()
)
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id;

-- stripe_event_read --
-- A delivery that was kept.
SELECT event_id, type, object_id, outcome, body, created_at
FROM stripe_events
WHERE event_id = $1::text;

-- stripe_mark --
-- There is news of an object.
INSERT INTO stripe_objects AS o (object_id, kind, marked_at)
VALUES ($1::text, $2::text, service_now_v1())
ON CONFLICT (object_id) DO UPDATE SET
    marked = o.marked + 1,
    marked_at = CASE WHEN o.marked > o.done THEN o.marked_at ELSE excluded.marked_at END,
    is_parked = false,
    attempts = 0,
    not_before = NULL;

-- stripe_take --
-- Takes objects that there is news of, at most $1, for $2 of real time.
UPDATE stripe_objects AS o SET
    fence = o.fence + 1,
    lease_until = clock_timestamp() + $2::interval
FROM (
    SELECT object_id
    FROM stripe_objects
    WHERE
        is_open
        AND (not_before IS NULL OR not_before <= clock_timestamp())
        AND (lease_until IS NULL OR lease_until <= clock_timestamp())
    ORDER BY marked_at
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
) AS t
WHERE o.object_id = t.object_id
RETURNING o.object_id, o.kind, o.marked, o.fence, o.attempts;

-- stripe_hold --
-- Keeps others from an object until the transaction ends; no row: somebody else has taken it.
SELECT object_id
FROM stripe_objects
WHERE object_id = $1::text AND fence = $2::bigint
FOR UPDATE;

-- stripe_applied --
-- What was known of an object when it was taken is applied.
UPDATE stripe_objects SET
    done = $3::bigint, lease_until = NULL, attempts = 0, error = NULL, not_before = NULL,
    done_at = service_now_v1()
WHERE object_id = $1::text AND fence = $2::bigint;

-- stripe_not_applied --
-- Why news was not applied; tried again after $4 of real time, or parked for a person ($5); at once
-- if there is other news since it was taken at $6.
UPDATE stripe_objects SET
    error = $3::text,
    lease_until = NULL,
    attempts = CASE WHEN marked = $6::bigint THEN attempts + 1 ELSE 0 END,
    not_before = CASE WHEN marked = $6::bigint THEN clock_timestamp() + $4::interval END,
    is_parked = $5::boolean AND marked = $6::bigint
WHERE object_id = $1::text AND fence = $2::bigint;

-- stripe_objects_of --
-- What is known of objects.
SELECT object_id, kind, marked > done AS is_waiting, is_parked, error
FROM stripe_objects
WHERE object_id = any($1::text[])
ORDER BY object_id;

-- stripe_events_of --
-- The latest deliveries about objects.
SELECT event_id, type, object_id, created_at, received_at
FROM stripe_events
WHERE object_id = any($1::text[])
ORDER BY created_at DESC, event_id
LIMIT $2::integer;

-- stripe_cursor_read --
-- Up to where a list of Stripe's was read.
SELECT at FROM stripe_cursors WHERE name = $1::text;

-- stripe_cursor_move --
-- A list of Stripe's was read up to $2.
INSERT INTO stripe_cursors AS c (name, at)
VALUES ($1::text, $2::timestamptz)
ON CONFLICT (name) DO UPDATE SET at = greatest(c.at, excluded.at);

-- purchases_unpaid --
-- Objects of purchases that are still open, made after $1 (and object $2) and before $4, by age.
SELECT c.object_id, c.kind, p.created_at
FROM purchases AS p
INNER JOIN stripe_calls AS c ON p.customer_no = c.customer_no AND p.purchase_no = c.purchase_no
WHERE
    p.status = 'open'
    AND c.object_id IS NOT NULL
    AND (p.created_at, c.object_id) > ($1::timestamptz, $2::text)
    AND p.created_at < $4::timestamptz
ORDER BY p.created_at, c.object_id
LIMIT $3::integer;

-- stripe_customer_read --
-- Who a customer is at Stripe, and what Stripe would be told of one who is not there.
SELECT
    c.customer_id, p.stripe_customer_id, p.name, p.email, p.currency, c.closed_at, p.erased_at
FROM profiles AS p
INNER JOIN customers AS c ON p.customer_no = c.customer_no
WHERE p.customer_no = $1::bigint;

-- stripe_customer_link --
-- Who a customer is at Stripe, unless that is known.
UPDATE profiles SET stripe_customer_id = $2::text, updated_at = service_now_v1()
WHERE customer_no = $1::bigint AND stripe_customer_id IS NULL AND erased_at IS NULL;

-- stripe_customer_unlink --
-- A customer was deleted at Stripe; whose that was.
UPDATE profiles SET stripe_customer_id = NULL, updated_at = service_now_v1()
WHERE stripe_customer_id = $1::text
RETURNING customer_no;

-- purchases_list --
-- Purchases, newest first: of customer $1 or all, in status $2 or any; after ($3, $4, $5).
SELECT p.customer_no, p.purchase_no, p.created_at
FROM purchases AS p
WHERE
    ($1::bigint IS NULL OR p.customer_no = $1::bigint)
    AND ($2::text IS NULL OR p.status = $2::text)
    AND (
        $3::timestamptz IS NULL
        OR (p.created_at, p.customer_no, p.purchase_no) < ($3, $4::bigint, $5::bigint)
    )
ORDER BY p.created_at DESC, p.customer_no DESC, p.purchase_no DESC
LIMIT $6::integer;

-- purchase_calls --
-- What was made, or is to be made, at Stripe for a purchase.
SELECT name, kind, params, object_id, error, is_parked, created_at, done_at
FROM stripe_calls
WHERE customer_no = $1::bigint AND purchase_no = $2::bigint
ORDER BY created_at, name;

-- purchase_journals --
-- The journals of a purchase's lots that are not charges, oldest first.
SELECT DISTINCT j.seq, j.kind, j.created_at
FROM lots AS l
INNER JOIN journals AS j ON l.customer_no = j.customer_no AND j.lot_no = l.lot_no
WHERE
    l.customer_no = $1::bigint
    AND l.purchase_no = $2::bigint
    AND j.origin = 'purchase'
ORDER BY j.seq
LIMIT $3::integer;
