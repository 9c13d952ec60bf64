"""A customer who leaves a name wherever one can be left, and a search for it."""

from typing import Any

from sql.pool import Connection
from tests.http import fresh_key
from tests.metering import event, send
from tests.shop import Shop

WORD = "Zoe"
"""In everything that names or describes a person."""
PERSON: dict[str, Any] = {
    "name": WORD,
    "email": f"{WORD}@example.com",
    "metadata": {"title": WORD, WORD: 1},
}
NOTE: dict[str, Any] = {"reference": WORD, "metadata": {"for": WORD}}

TEXT_COLUMNS = """
SELECT c.relname, a.attname, a.atttypid::regtype::text
FROM pg_class AS c
INNER JOIN pg_attribute AS a ON c.oid = a.attrelid
WHERE
    c.relnamespace = 'public'::regnamespace
    AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition
    AND a.attnum > 0
    AND a.atttypid IN (
        'text'::regtype, 'bytea'::regtype, 'jsonb'::regtype, 'json'::regtype, 'text[]'::regtype
    )
"""


async def places_of(owner: Connection, word: str) -> set[str]:
    """The columns of all tables in which a word stands."""
    found: set[str] = set()
    for table, column, kind in await owner.fetch(TEXT_COLUMNS):
        text = f"encode({column}, 'escape')" if kind == "bytea" else f"{column}::text"
        where = f"FROM {table} WHERE strpos(lower({text}), lower($1)) > 0"
        if await owner.fetchval(f"SELECT count(*) {where}", word):
            found.add(f"{table}.{column}")
    return found


async def live(sale: Shop) -> str:
    """A customer who leaves their name everywhere; the key of one of their charges."""
    api = sale.api
    await api.customer(**PERSON)
    await api.put(
        "/v1/meters/calls",
        {
            "event_type": "call",
            "aggregation": "sum",
            "value_property": "n",
            "group_by": {"model": "m.name"},
            "filters": {"and": [{"property": "ok", "eq": True}, {"property": "m.on", "ne": 1}]},
        },
    )
    given = await api.grant("100", reason=WORD, metadata={"by": WORD})
    hold = await api.reserve("10", **NOTE)
    part = {"amount": "4", "metadata": {"for": WORD}}
    assert (await api.post(f"/v1/holds/{hold['id']}/capture", part)).status == 200
    open_hold = await api.reserve("5", **NOTE)
    key = fresh_key()
    body = {"customer_id": "acme", "amount": "7", **NOTE}
    charged = await api.post("/v1/consume", body, key=key)
    undone = {"amount": "1", "reason": WORD}
    await api.post(f"/v1/charges/{charged.body['id']}/reverse", undone)
    assert (await api.post(f"/v1/grants/{given['id']}/void", {"reason": WORD})).status == 200
    data = {"n": 1.50, "ok": True, "m": {"name": "large", "on": 2, "who": WORD}, "user": WORD}
    sent = [event(f"e{n}", data=data, zoe=WORD) for n in range(3)]
    assert await send(api, *sent) == [(202, None)] * 3
    change = {"customer_id": "acme", "source": "app", "correction_id": "c1", "action": "replace"}
    corrected = await api.post("/v1/events/correct", {**change, "id": "e1", "data": data}, key=None)
    assert corrected.status < 300, corrected
    await sale.pack()
    await sale.buy()
    bought = await sale.buy()
    await sale.refund(bought)
    await api.post("/v1/keys", {"name": WORD, "scopes": ["usage:read"], "customer_id": "acme"})
    assert (await api.post("/v1/customers/acme/close", {})).status == 200
    refused = await api.post("/v1/customers/acme/erase", {}, key=None)
    assert (refused.status, refused.body["code"]) == (409, "customer_in_use")
    assert "open holds" in refused.body["detail"]
    assert "Stripe is still to be asked" in refused.body["detail"]
    await api.post(f"/v1/holds/{open_hold['id']}/void", {})
    await sale.job("stripe_outbox")
    await sale.apply()
    return key
