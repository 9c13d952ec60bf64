-- Plans whose credits roll over, and plans that take their subscribers along.

ALTER TABLE plans
-- Of what a period leaves unused, how much stays for how many seconds longer (NULL: for ever).
ADD COLUMN rollover_max bigint CHECK (rollover_max > 0),
ADD COLUMN rollover_expires_in bigint CHECK (rollover_expires_in > 0),
-- Whether those who have subscribed already move to this version when their period ends.
ADD COLUMN apply_to text NOT NULL DEFAULT 'new' CHECK (apply_to IN ('new', 'next_period')),
ADD CONSTRAINT plans_rollover_has_max
CHECK (rollover_max IS NOT NULL OR rollover_expires_in IS NULL);

ALTER TABLE customers
-- From when on no plan renews: credit of a plan that ends then, or later, does not roll over.
ADD COLUMN plan_until timestamptz;
