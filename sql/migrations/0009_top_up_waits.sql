-- Automatic top-up: who can buy nothing now, and whose payment takes long, is looked at seldom.

ALTER TABLE auto_top_ups
-- Until then nothing can be bought, and why: a cap is reached, the pack is not for sale, or the
-- customer is closed.
ADD COLUMN look_at timestamptz,
ADD COLUMN waits_for text CHECK (waits_for IN ('cap', 'pack', 'closed'));

ALTER TABLE top_up_attempts
-- When the intent is looked at again; NULL: at once.
ADD COLUMN look_at timestamptz;
