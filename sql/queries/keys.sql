-- API keys and customer tokens. Only the SHA-256 of a secret is stored.

-- key_make --
-- Makes a key ($2 = key) or a token. No row: its end does not lie in the future.
INSERT INTO api_keys (
    hash, kind, name, scopes, customer_no, parent_no, created_at, expires_at
)
SELECT $1::bytea, $2::text, $3::text, $4::text[], $5::bigint, $6::bigint, t.now, $7::timestamptz
FROM (SELECT service_now_v1() AS now) AS t
WHERE $7::timestamptz IS NULL OR $7::timestamptz > t.now
RETURNING key_no, created_at;

-- key_find --
-- The key of a secret's hash, and for how long it is good: seconds from now, NULL without an end,
-- 0 once it or the key its token came from was revoked or has expired.
SELECT
    k.key_no,
    k.kind,
    k.name,
    k.scopes,
    k.customer_no,
    d.customer_id,
    k.expires_at,
    CASE
        WHEN k.revoked_at IS NOT NULL OR p.revoked_at IS NOT NULL THEN 0
        WHEN k.expires_at IS NULL AND p.expires_at IS NULL THEN NULL
        ELSE greatest(
            extract(EPOCH FROM least(k.expires_at, p.expires_at) - service_now_v1()), 0
        )
    END::double precision AS seconds_left
FROM api_keys AS k
LEFT JOIN api_keys AS p ON k.parent_no = p.key_no
LEFT JOIN customer_directory AS d ON k.customer_no = d.customer_no
WHERE k.hash = $1::bytea;

-- keys_list --
-- Keys without their tokens, newest first, after position $1.
SELECT
    k.key_no,
    k.name,
    k.scopes,
    k.customer_no,
    d.customer_id,
    k.created_at,
    k.expires_at,
    k.revoked_at,
    k.last_used_at
FROM api_keys AS k
LEFT JOIN customer_directory AS d ON k.customer_no = d.customer_no
WHERE k.kind = 'key' AND ($1::bigint IS NULL OR k.key_no < $1::bigint)
ORDER BY k.key_no DESC
LIMIT $2::integer;

-- key_revoke --
-- Ends a key, and with it its tokens. A key that was revoked before keeps its time.
UPDATE api_keys AS k
SET revoked_at = coalesce(k.revoked_at, service_now_v1())
WHERE k.key_no = $1::bigint AND k.kind = 'key'
RETURNING
    k.key_no,
    k.name,
    k.scopes,
    k.customer_no,
    (SELECT d.customer_id FROM customer_directory AS d WHERE d.customer_no = k.customer_no)
    AS customer_id,
    k.created_at,
    k.expires_at,
    k.revoked_at,
    k.last_used_at;

-- keys_used --
-- Notes that keys were used just now. Locked in order: two processes may note the same keys.
UPDATE api_keys AS k
SET last_used_at = service_now_v1()
FROM (
    SELECT key_no FROM api_keys
    WHERE key_no = any($1::bigint[])
    ORDER BY key_no
    FOR NO KEY UPDATE
) AS used
WHERE k.key_no = used.key_no;
