-- Automatic top-up: who can buy nothing now, and whose payment takes long, is looked at seldom;
-- and a month's money has a currency.

ALTER TABLE auto_top_ups
-- Until then nothing can be bought, and why: a cap is reached, or is of another currency than what
-- the pack costs by now; the pack is not for sale; the customer is closed.
ADD COLUMN look_at timestamptz,
ADD COLUMN waits_for text CHECK (waits_for IN ('cap', 'currency', 'pack', 'closed')),
-- Of amount_month.
ADD COLUMN currency text COLLATE "C";

ALTER TABLE top_up_attempts
-- When the intent is looked at again; NULL: at once.
ADD COLUMN look_at timestamptz;
