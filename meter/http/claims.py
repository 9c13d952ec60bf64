"""Keys of requests whose work is done at Stripe: claimed first, so that it is done once."""

from typing import Any

import msgspec
from msgspec import Struct

from ledger.requests import Claim
from meter.http import readers
from meter.route import Call
from meter.sub_actions import Doing
from sql import queries
from sql.pool import transaction


class _Claimed(Struct, frozen=True):
    id: str


async def begin(call: Call, customer_no: int, operation: str) -> Doing:
    """Claim the request's key. Raises ProblemError 422 if it was another request's."""
    service, body = call.service, call.body
    assert body is not None

    async def claim() -> tuple[str, bool]:
        async with transaction(service.pool) as conn:

            def read(_: Call, __: Any, ___: Any, common: dict[str, Any]) -> Claim:
                return Claim(customer_no=customer_no, **common)

            request = await readers.request_of(
                call, read, operation, call.ids, body, call.idempotency_key
            )
            result = await service.decide_in(conn, request)
            epoch: int = await conn.fetchval(queries.stripe_epoch)
            claimed = msgspec.json.decode(result.body, type=_Claimed)
            return f"{operation}-{claimed.id}-{epoch}", result.is_replayed

    name, is_replayed = await service.retried(claim)
    return Doing(service=service, customer_no=customer_no, name=name, is_replayed=is_replayed)
