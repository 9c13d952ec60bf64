-- What was used: events from outside, what meters count of them, and corrections.
--
-- Raw events lie in one partition a month of their time. An event's identity lives in a table of
-- its own that is not cut by event time, so a duplicate never slips past it.

-- Since when a meter reads events by its present definition.
ALTER TABLE meters ADD COLUMN defined_at timestamptz;

UPDATE meters SET defined_at = created_at;

ALTER TABLE meters ALTER COLUMN defined_at SET NOT NULL;

-- It has counted or rejected an event: its definition is fixed.
ALTER TABLE meters ADD COLUMN is_used boolean NOT NULL DEFAULT false;

-- The identities of the events of the last 36 days at least, by which duplicates are found.
CREATE TABLE event_guards (
    customer_no bigint NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    -- The first half of the SHA-256 of the content.
    content_hash bytea NOT NULL,
    -- The event's own time: the way to its row.
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, source, id)
);

CREATE INDEX event_guards_received_at ON event_guards USING brin (received_at);

CREATE TABLE events (
    customer_no bigint NOT NULL,
    time timestamptz NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    data text NOT NULL,
    extensions text,
    -- Recorded by a charge: only these meters read it. NULL: every meter of its type does.
    meters integer[],
    received_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, time, source, id)
) PARTITION BY RANGE (time);

-- The months that have a partition. A row makes it, and its end drops it: so a restore, which
-- writes these rows first, finds the partitions that its events need.
CREATE TABLE event_months (
    month date PRIMARY KEY CHECK (month = date_trunc('month', month::timestamp)::date),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Of each event only the latest correction counts.
CREATE TABLE corrections (
    customer_no bigint NOT NULL,
    correction_id text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    -- Of its event: 1, 2, …
    number integer NOT NULL CHECK (number > 0),
    action text NOT NULL CHECK (action IN ('cancel', 'replace')),
    data text,
    is_latest boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, correction_id),
    CONSTRAINT corrections_replace_has_data CHECK ((action = 'replace') = (data IS NOT NULL))
);

CREATE UNIQUE INDEX corrections_of_event ON corrections (customer_no, time, source, id, number);

CREATE UNIQUE INDEX corrections_latest ON corrections (customer_no, time, source, id)
WHERE is_latest;

-- What a meter counted in a quarter of an hour (UTC), per group. Which of the numbers are kept
-- follows from the meter's aggregation.
CREATE TABLE rollups (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    grain timestamptz NOT NULL,
    -- JSON: the values of the dimensions, in the order of the meter's group_by.
    dims text COLLATE "C" NOT NULL,
    events bigint NOT NULL CHECK (events > 0),
    total numeric,
    least numeric,
    greatest numeric,
    latest_at timestamptz,
    latest_id text COLLATE "C",
    latest_source text COLLATE "C",
    latest_value numeric,
    PRIMARY KEY (customer_no, meter_no, grain, dims)
) WITH (fillfactor = 70);

-- The distinct values of `unique`, and how many events have each.
CREATE TABLE rollup_values (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    grain timestamptz NOT NULL,
    dims text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    events bigint NOT NULL CHECK (events > 0),
    PRIMARY KEY (customer_no, meter_no, grain, dims, value)
) WITH (fillfactor = 70);

-- Events that one meter could not read. The other meters of their type did.
CREATE TABLE meter_rejects (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    time timestamptz NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (customer_no, meter_no, time, source, id)
);

CREATE INDEX meter_rejects_latest ON meter_rejects (meter_no, received_at);

-- What `charge: events` has still to price: single events of count and sum,
CREATE TABLE unrated_events (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    -- Why it could not be priced, and when that is tried again.
    refusal text,
    not_before timestamptz,
    PRIMARY KEY (customer_no, meter_no, source, id)
);

CREATE INDEX unrated_events_meter ON unrated_events (meter_no, refusal);

-- and quarters of an hour of the other aggregations in which something changed.
CREATE TABLE unrated_windows (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    grain timestamptz NOT NULL,
    -- Grows with every change, so that what was priced meanwhile is not taken for done.
    version bigint NOT NULL DEFAULT 1,
    refusal text,
    not_before timestamptz,
    PRIMARY KEY (customer_no, meter_no, grain)
);

CREATE INDEX unrated_windows_meter ON unrated_windows (meter_no, refusal);

-- A meter also counts a customer's events that were received before it was defined, up to here.
CREATE TABLE meter_rebuilds (
    customer_no bigint NOT NULL,
    meter_no integer NOT NULL,
    through timestamptz NOT NULL,
    PRIMARY KEY (customer_no, meter_no)
);

-- Makes the partition of a month that was added. Runs as the owner of the tables.
CREATE FUNCTION event_month_made_v1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    name text := 'events_' || to_char(new.month, 'YYYY_MM');
BEGIN
    -- Made beside and attached: that locks out nobody who reads or writes.
    EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS)', name);
    EXECUTE format(
        'ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name,
        new.month::timestamp AT TIME ZONE 'UTC',
        (new.month + interval '1 month') AT TIME ZONE 'UTC'
    );
    RETURN new;
END
$$;

CREATE TRIGGER event_months_made AFTER INSERT ON event_months
FOR EACH ROW EXECUTE FUNCTION event_month_made_v1();

-- Drops the partition of a month that was taken away.
CREATE FUNCTION event_month_dropped_v1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    EXECUTE format('DROP TABLE %I', 'events_' || to_char(old.month, 'YYYY_MM'));
    RETURN old;
END
$$;

CREATE TRIGGER event_months_dropped AFTER DELETE ON event_months
FOR EACH ROW EXECUTE FUNCTION event_month_dropped_v1();

-- Makes those of these months that have no partition yet; answers how many.
CREATE FUNCTION event_months_make_v1(months date[])
RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    made integer;
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM unnest(months) AS wanted (month)
        WHERE NOT EXISTS (SELECT 1 FROM event_months AS m WHERE m.month = wanted.month)
    ) THEN
        RETURN 0;
    END IF;
    -- One maker at a time; the next one sees what this one made. ("drawdown", "months".)
    PERFORM pg_advisory_xact_lock(1685217655, 1836019828);
    INSERT INTO event_months (month)
    SELECT DISTINCT wanted.month FROM unnest(months) AS wanted (month)
    WHERE NOT EXISTS (SELECT 1 FROM event_months AS m WHERE m.month = wanted.month);
    GET DIAGNOSTICS made = ROW_COUNT;
    RETURN made;
END
$$;

-- Drops a month's raw events. False, and nothing is dropped, while it is younger than is needed to
-- find duplicates, or something of it is still to be priced. The only way for the service.
CREATE FUNCTION event_month_drop_v1(of_month date)
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    starts timestamptz := of_month::timestamp AT TIME ZONE 'UTC';
    ends timestamptz := (of_month + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    IF ends > service_now_v1() - interval '36 days'
        OR EXISTS (SELECT 1 FROM unrated_events WHERE time >= starts AND time < ends)
        OR EXISTS (SELECT 1 FROM unrated_windows WHERE grain >= starts AND grain < ends)
    THEN
        RETURN false;
    END IF;
    DELETE FROM event_months WHERE month = of_month;
    RETURN true;
END
$$;

GRANT SELECT, INSERT ON events, event_months TO drawdown_app;
GRANT SELECT, INSERT, UPDATE ON corrections, meter_rebuilds TO drawdown_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON
rollups, rollup_values, unrated_events, unrated_windows
TO drawdown_app;
GRANT SELECT, INSERT, DELETE ON event_guards, meter_rejects TO drawdown_app;
REVOKE EXECUTE ON FUNCTION event_month_drop_v1(date) FROM public;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO drawdown_app;
