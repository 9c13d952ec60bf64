-- Personal fields can be erased while the books stay provable.

ALTER TABLE profiles
-- Since when the personal fields of the customer are gone; they are not taken in again.
ADD COLUMN erased_at timestamptz;

-- Of stored events and deliveries only the content ever changes, and only to less.
GRANT UPDATE (data, extensions) ON events TO drawdown_app;
GRANT UPDATE (body) ON stripe_events TO drawdown_app;
