-- Jobs: who may run one now, what ran, and what there is to forget.
--
-- Leases and runs go by the real time of the database, not by the service's clock, which a sandbox
-- moves.

-- lease_take --
-- Takes the lease of a job for $3, unless another run holds it or, with $4, a run began less than
-- that ago or the job is paused. Each run has a fence of its own. A run dated after now (the clock
-- went back) counts for nothing.
INSERT INTO job_leases AS l (job, holder, fence, expires_at)
VALUES ($1::text, $2::text, 1, clock_timestamp() + $3::interval)
ON CONFLICT (job) DO UPDATE SET
    holder = excluded.holder,
    fence = l.fence + 1,
    expires_at = clock_timestamp() + $3::interval
WHERE
l.expires_at <= clock_timestamp()
AND (
    $4::interval IS NULL
    OR l.paused_at IS NULL
)
AND (
    $4::interval IS NULL
    OR NOT coalesce((
        SELECT r.started_at BETWEEN clock_timestamp() - $4::interval AND clock_timestamp()
        FROM job_runs AS r
        WHERE r.job = $1::text
        ORDER BY r.run_no DESC
        LIMIT 1
    ), false)
)
RETURNING fence;

-- job_pause --
-- The clock runs a job no more.
INSERT INTO job_leases AS l (job, holder, fence, expires_at, paused_at)
VALUES ($1::text, '', 0, '-infinity', clock_timestamp())
ON CONFLICT (job) DO UPDATE SET paused_at = coalesce(l.paused_at, excluded.paused_at);

-- job_resume --
-- The clock runs a job again.
UPDATE job_leases SET paused_at = NULL WHERE job = $1::text;

-- lease_holder --
-- Who holds the lease of a job now.
SELECT holder FROM job_leases WHERE job = $1::text AND expires_at > clock_timestamp();

-- lease_renew --
-- Moves the end of a lease that is still ours.
UPDATE job_leases SET expires_at = clock_timestamp() + $3::interval
WHERE job = $1::text AND fence = $2::bigint
RETURNING fence;

-- lease_check --
-- A row if the lease is still ours. It then stays so until the transaction ends.
SELECT fence FROM job_leases WHERE job = $1::text AND fence = $2::bigint FOR SHARE;

-- lease_release --
-- Frees a lease that is still ours. Not "now": the clock may go back.
UPDATE job_leases SET expires_at = '-infinity'
WHERE job = $1::text AND fence = $2::bigint;

-- run_abandon --
-- Ends the last run of a job, if nobody else did. Only the last can be open.
UPDATE job_runs SET finished_at = clock_timestamp(), error = $2::text
WHERE
    run_no = (SELECT max(run_no) FROM job_runs WHERE job = $1::text)
    AND finished_at IS NULL;

-- run_start --
-- Records the start of a run. The caller has just taken the lease.
INSERT INTO job_runs (job, started_at)
VALUES ($1::text, clock_timestamp())
RETURNING run_no, started_at;

-- run_finish --
-- Records the end of a run. The caller has checked the lease.
UPDATE job_runs SET finished_at = clock_timestamp(), counts = $2::jsonb, error = $3::text
WHERE run_no = $1::bigint
RETURNING finished_at;

-- jobs_read --
-- Of each job: its last run, its last success, who runs it now; and how late it is: seconds since
-- it should have succeeded again ($2: seconds between runs). Never run: since the first start.
SELECT
    j.job,
    r.started_at,
    r.finished_at,
    r.counts,
    r.error,
    l.holder,
    q.paused_at,
    greatest(
        0,
        extract(EPOCH FROM clock_timestamp() - coalesce(s.finished_at, i.created_at))
        - j.every_seconds
    )::double precision AS overdue_seconds
FROM unnest($1::text[], $2::double precision[]) WITH ORDINALITY AS j (job, every_seconds, place)
LEFT JOIN installation AS i ON true
LEFT JOIN LATERAL (
    SELECT *
    FROM job_runs
    WHERE job_runs.job = j.job
    ORDER BY job_runs.run_no DESC
    LIMIT 1
) AS r ON true
LEFT JOIN LATERAL (
    SELECT job_runs.finished_at
    FROM job_runs
    WHERE job_runs.job = j.job AND job_runs.finished_at IS NOT NULL AND job_runs.error IS NULL
    ORDER BY job_runs.run_no DESC
    LIMIT 1
) AS s ON true
LEFT JOIN job_leases AS l ON j.job = l.job AND l.expires_at > clock_timestamp()
LEFT JOIN job_leases AS q ON j.job = q.job
ORDER BY j.place;

-- holds_overdue --
-- Open holds past their deadline. Their customers are due, so few rows are looked at.
SELECT count(*)
FROM customers AS c
INNER JOIN holds AS h ON c.customer_no = h.customer_no
WHERE
    c.next_due_at <= (SELECT service_now_v1())
    AND h.is_open
    AND h.expires_at <= (SELECT service_now_v1());

-- refusals_forget --
-- Forgets the oldest refusals that are older than $1 of the service's time, at most $2.
DELETE FROM requests AS r
USING (
    SELECT customer_no, key
    FROM requests
    WHERE status >= 400 AND created_at < (SELECT service_now_v1() - $1::interval)
    ORDER BY created_at
    LIMIT $2::integer
) AS old
WHERE r.customer_no = old.customer_no AND r.key = old.key;

-- tokens_forget --
-- Forgets customer tokens that ended more than $1 of the service's time ago, at most $2.
DELETE FROM api_keys
WHERE key_no IN (
    SELECT key_no
    FROM api_keys
    WHERE kind = 'token' AND expires_at < (SELECT service_now_v1() - $1::interval)
    ORDER BY key_no
    LIMIT $2::integer
);

-- runs_forget --
-- Forgets runs of jobs that began more than $1 ago, at most $2.
DELETE FROM job_runs
WHERE run_no IN (
    SELECT run_no
    FROM job_runs
    WHERE started_at < clock_timestamp() - $1::interval
    ORDER BY run_no
    LIMIT $2::integer
);

-- stripe_events_forget --
-- Forgets deliveries of Stripe that came more than $1 ago, at most $2.
DELETE FROM stripe_events
WHERE event_id IN (
    SELECT event_id
    FROM stripe_events
    WHERE received_at < (SELECT service_now_v1() - $1::interval)
    ORDER BY received_at
    LIMIT $2::integer
);

-- event_guards_forget --
-- Forgets identities of events that were received more than $1 ago, at most $2.
DELETE FROM event_guards AS g
USING (
    SELECT customer_no, source, id
    FROM event_guards
    WHERE received_at < (SELECT service_now_v1() - $1::interval)
    LIMIT $2::integer
) AS old
WHERE g.customer_no = old.customer_no AND g.source = old.source AND g.id = old.id;

-- event_months_ahead --
-- Makes the partitions of the last month, this one and the next two; answers how many.
SELECT event_months_make_v1(array(
    SELECT (date_trunc('month', service_now_v1() AT TIME ZONE 'UTC') + n * interval '1 month')::date
    FROM generate_series(-1, 2) AS n
));

-- event_months_old --
-- Months of raw events that ended more than $1 ago, the oldest first.
SELECT month
FROM event_months
WHERE
    (month + interval '1 month') AT TIME ZONE 'UTC' < (SELECT service_now_v1() - $1::interval)
ORDER BY month;

-- event_month_drop --
-- Drops a month of raw events; false if something of it is still open.
SELECT event_month_drop_v1($1::date);

-- event_month_lock_time --
-- Dropping locks all events for a moment: readers must not queue behind it for long.
SET LOCAL lock_timeout = '1s';
