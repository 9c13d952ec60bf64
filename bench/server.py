"""One server under measurement: drawdown, the naive way, or a no-op, on the same kind of route.

All pass the same edge (request id, trace, key, limits, body, metrics): only the handler differs.
"""

import asyncio
import sys
from typing import Any

import uvloop
from msgspec.structs import replace

from drawdown.up import collect_less
from ledger.ids import parse_id
from meter import parse
from meter.app import HOT_OPERATIONS, create_app
from meter.edge import Edge
from meter.http import ROUTES, bodies
from meter.http.hot import JSON
from meter.route import Call, Reply
from meter.server import Server
from meter.service import Config, Service
from sql.pool import Pool, open_pool

NOTHING = Reply(200, b'{"status":"ok"}', (JSON,))


async def no_op(_: Call) -> Reply:
    return NOTHING


def _canonical(call: Call) -> bytes:
    assert call.body is not None
    return call.body.canonical


class Naive:
    """One transaction a request, over a pool of its own."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def run(self, statement: str, *arguments: Any) -> Reply:
        async with self.pool.acquire() as conn:
            row = await conn.fetchrow(statement, *arguments)
        assert row is not None
        return Reply(row[0], row[1], (JSON,))

    async def reserve(self, call: Call) -> Reply:
        wanted = parse.decode(call.body, bodies.ReserveBody)
        return await self.run(
            "SELECT * FROM naive_reserve($1, $2, $3, $4, $5)",
            await call.service.customer_no(call, wanted.customer_id),
            call.idempotency_key,
            parse.fingerprint("reserve", (), _canonical(call)),
            parse.amount(str(wanted.amount), 9, "/amount"),
            wanted.expires_in,
        )

    async def consume(self, call: Call) -> Reply:
        wanted = parse.decode(call.body, bodies.ConsumeBody)
        return await self.run(
            "SELECT * FROM naive_consume($1, $2, $3, $4)",
            await call.service.customer_no(call, wanted.customer_id),
            call.idempotency_key,
            parse.fingerprint("consume", (), _canonical(call)),
            parse.amount(str(wanted.amount), 9, "/amount"),
        )

    async def capture(self, call: Call) -> Reply:
        parse.decode(call.body, bodies.CaptureBody)
        found = parse_id("hld", call.ids[0])
        assert found is not None
        number, no = found
        return await self.run(
            "SELECT * FROM naive_capture($1, $2, $3, $4)",
            number,
            no,
            call.idempotency_key,
            parse.fingerprint("capture", call.ids, _canonical(call)),
        )


async def serve(variant: str, dsn: str, pool_size: int) -> None:
    pool = await open_pool(dsn, size=10 if variant == "drawdown" else pool_size)
    service = await Service.start(pool, Config(is_sandbox=True))
    app = create_app(service)
    if variant != "drawdown":
        naive = Naive(pool)
        handlers = {"reserve": naive.reserve, "consume": naive.consume, "capture": naive.capture}
        routes = [
            replace(
                route, handler=handlers.get(route.operation, no_op) if variant == "naive" else no_op
            )
            for route in ROUTES
            if route.operation in HOT_OPERATIONS
        ]
        app = Edge(service, routes, app)
    collect_less()
    server = Server()
    await server.start(app, "127.0.0.1", 0)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await server.stop(10)
    await service.close()
    await pool.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
