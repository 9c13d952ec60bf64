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
    created_at, changed_at
FROM meters
ORDER BY meter_no;
