-- What is counted: meters. Small reference tables, the same on every shard.
--
-- `catalog_version` grows with every change of meters and rate cards. A process that decides by its
-- copy of the catalog compares the version inside its transaction, and reads again if it is older.

ALTER TABLE installation ADD COLUMN catalog_version bigint NOT NULL DEFAULT 0;

CREATE TABLE meters (
    meter_no integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    meter text COLLATE "C" NOT NULL UNIQUE,
    event_type text COLLATE "C" NOT NULL,
    aggregation text NOT NULL
    CHECK (aggregation IN ('count', 'sum', 'min', 'max', 'avg', 'unique', 'latest')),
    value_property text,
    -- JSON: name → path in the event's data, in the order the caller gave.
    group_by text NOT NULL DEFAULT '{}',
    filters text,
    unit text,
    charge text NOT NULL DEFAULT 'none' CHECK (charge IN ('none', 'events', 'calls')),
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    CONSTRAINT meters_value_property CHECK ((aggregation = 'count') = (value_property IS NULL))
);

GRANT SELECT, INSERT, UPDATE ON meters TO drawdown_app;
