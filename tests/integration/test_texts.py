"""Texts that break carelessly written statements are stored and given back as sent."""

import pytest

from sql.pool import Pool
from tests.http import serving

NASTY = ['"', "\\", '\\"', "{NULL}", "NULL", ",", "a\nb\tc", "'; --", '{"a,b"}', "é\u2028😀", ""]


@pytest.mark.parametrize("text", NASTY)
async def test_reserve_and_consume_with_any_text_keep_it_as_sent(pool: Pool, text: str) -> None:
    async with serving(pool) as run:
        await run.api.customer("acme")
        await run.api.grant("5")
        body = {
            "customer_id": "acme",
            "amount": "1",
            "reference": text,
            "metadata": {"note": text, text or "empty": 1},
        }
        hold = await run.api.post("/v1/reserve", body)
        charge = await run.api.post("/v1/consume", body)
        assert (hold.status, charge.status) == (201, 201)
        for found in (
            await run.api.get(f"/v1/holds/{hold.body['id']}"),
            await run.api.get(f"/v1/charges/{charge.body['id']}"),
        ):
            assert found.body["reference"] == text
            assert found.body["metadata"] == body["metadata"]
