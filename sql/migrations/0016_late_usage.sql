-- Usage that missed its invoice can be billed by the subscription's next one.

ALTER TABLE report_periods
-- The price at Stripe that the item had in it when that was last looked at.
ADD COLUMN price_id text COLLATE "C";

ALTER TABLE report_rows
DROP CONSTRAINT report_rows_status_check,
ADD CONSTRAINT report_rows_status_check CHECK (status IN (
    'due', 'sending', 'sent', 'confirmed', 'billed', 'rejected', 'disputed', 'unknown',
    'superseded', 'unreportable', 'missed_invoice', 'next_invoice'
)),
-- The call that makes the invoice item which bills it.
ADD COLUMN call_name text COLLATE "C",
-- Why no later invoice bills what missed its own; NULL: that is not decided.
ADD COLUMN not_billed text CHECK (
    not_billed IN ('written_off', 'no_next_invoice', 'no_price', 'refused', 'unsure')
);

-- Until now nothing was billed later: that stays so.
UPDATE report_rows SET not_billed = 'written_off' WHERE status = 'missed_invoice';

CREATE INDEX report_rows_missed ON report_rows (customer_no, item_no, window_at)
WHERE status = 'missed_invoice' AND not_billed IS NULL;
