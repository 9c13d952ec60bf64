-- Reports: which journals are of a month, and public ids as the API writes them.

-- Book dates grow with the table, so a block range says where a month is and costs writers nothing.
CREATE INDEX journals_book_date ON journals USING brin (book_date)
WITH (pages_per_range = 32, autosummarize = on);

-- The public id of object `no` of a customer: see `ledger/ids.py`.
CREATE FUNCTION public_id_v1(prefix text, customer_no bigint, no bigint)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT prefix || '_' || upper(lpad(to_hex(customer_no), 16, '0') || lpad(to_hex(no), 16, '0'))
$$;

GRANT EXECUTE ON FUNCTION public_id_v1 TO drawdown_app;
