-- The catalog: meters and rate cards.

-- catalog_version --
-- Grows with every change of the catalog.
SELECT catalog_version FROM installation;

-- catalog_hold --
-- Nobody changes the catalog until this transaction ends. ("drawdown", "catalog" as numbers.)
SELECT pg_advisory_xact_lock_shared(1685217655, 1667331169);

-- catalog_change_lock --
-- One change of the catalog at a time, after everyone who holds it.
SELECT pg_advisory_xact_lock(1685217655, 1667331169);

-- catalog_change --
-- A new version of the catalog.
UPDATE installation SET catalog_version = catalog_version + 1;

-- meters_read --
-- Every meter, in the order they were made.
SELECT
    meter_no, meter, event_type, aggregation, value_property, group_by, filters, unit, charge,
    created_at, changed_at, defined_at, is_used, is_reported
FROM meters
ORDER BY meter_no;

-- meter_put --
-- Makes a meter, or changes one.
INSERT INTO meters AS m (
    meter, event_type, aggregation, value_property, group_by, filters, unit, charge,
    created_at, changed_at, defined_at
)
SELECT
    $1::text, $2::text, $3::text, $4::text, $5::text, $6::text, $7::text, $8::text,
    clock.at AS created_at, clock.at AS changed_at, clock.at AS defined_at
FROM (SELECT service_now_v1() AS at) AS clock
ON CONFLICT (meter) DO UPDATE SET
    event_type = excluded.event_type,
    aggregation = excluded.aggregation,
    value_property = excluded.value_property,
    group_by = excluded.group_by,
    filters = excluded.filters,
    unit = excluded.unit,
    charge = excluded.charge,
    changed_at = excluded.changed_at,
    defined_at = CASE WHEN $9::boolean THEN excluded.defined_at ELSE m.defined_at END;

-- meter_rebuilds_forget --
-- A meter with a new definition has counted nothing of the past.
UPDATE meter_rebuilds SET through = '-infinity' WHERE meter_no = $1::integer;

-- meter_rejects_count --
-- How many events each of these meters could not read, and when the latest came.
SELECT
    m.meter_no,
    count(r.meter_no) AS rejects,
    max(r.received_at) AS latest_at
FROM unnest($1::integer[]) AS m (meter_no)
LEFT JOIN meter_rejects AS r ON m.meter_no = r.meter_no
GROUP BY m.meter_no;

-- meter_rejects_list --
-- The latest events that a meter could not read.
SELECT c.customer_id, r.source, r.id, r.time, r.reason, r.received_at
FROM meter_rejects AS r
INNER JOIN customers AS c ON r.customer_no = c.customer_no
WHERE r.meter_no = $1::integer
ORDER BY r.received_at DESC, r.customer_no, r.time, r.source, r.id
LIMIT $2::integer;
