"""One batch in one transaction: lock → load → decide → post. The caller commits, then answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from msgspec import Struct

from ledger.answers import Problem
from ledger.decide import decide
from ledger.load import Depth, Loaded, TooMuch, load, lock
from ledger.outcome import Outcome, refuse
from ledger.post import Reply, post
from ledger.requests import Capture, Extend, Request, Reverse, VoidGrant, VoidHold
from ledger.state import Books, NeedMore, Settings
from sql.pool import Connection

Render = Callable[[Request, Outcome], bytes]


class Result(Struct, frozen=True):
    """The answer to one request, rendered; it may be sent once the transaction has committed."""

    status: int
    body: bytes
    is_replayed: bool = False
    code: str | None = None
    """The problem code of a refusal, for counting."""


@dataclass
class Deciding:
    """Locked books of one batch, and what was decided on them."""

    requests: list[Request]
    outcomes: list[Outcome]
    customers: dict[int, Books]
    now: datetime


async def transact(
    conn: Connection,
    requests: Sequence[Request],
    settings: Settings,
    render: Render,
    *,
    wait: bool,
) -> list[Result | None]:
    """Decide a batch in the open transaction of `conn`.

    One result per request, in order. Without `wait` a customer locked by somebody else is left out:
    None for its requests, nothing written for it. Raises what PostgreSQL raises, and ScaleChanged.
    """
    customers = await lock(conn, sorted({r.customer_no for r in requests}), wait=wait)
    mine = [r for r in requests if r.customer_no in customers]
    if wait and len(mine) < len(requests):
        # Waited for and not there: an id that names a customer who does not exist.
        return [_nobody(request, render) for request in requests]
    if not mine:
        return [None] * len(requests)
    decided = await _decide(conn, customers, mine, settings)
    bodies: dict[int, bytes] = {}
    results: dict[int, Result] = {}
    replies: list[Reply] = []
    for request, outcome in zip(decided.requests, decided.outcomes, strict=True):
        first = outcome.first or outcome
        body = outcome.body
        if body is None:
            body = bodies.get(id(first))
        if body is None:
            body = bodies[id(first)] = render(request, first)
        code = outcome.answer.code if isinstance(outcome.answer, Problem) else None
        results[id(request)] = Result(outcome.status, body, outcome.is_replayed, code)
        if request.key is not None and outcome.is_remembered and not outcome.is_replayed:
            replies.append(Reply(request, outcome.status, body))
    await post(conn, decided.customers.values(), replies, decided.now)
    return [results.get(id(request)) for request in requests]


async def _decide(
    conn: Connection, customers: dict[int, Books], requests: list[Request], settings: Settings
) -> Deciding:
    """Load and decide, with more rows each time that deciding asks for them."""
    depths: dict[int, Depth] = {}
    while True:
        loaded = await load(conn, customers, requests, settings.scales, depths=depths)
        live = msgspec.structs.replace(settings, closed_through=loaded.closed_through)
        try:
            outcomes = _decide_live(customers, requests, live, loaded)
        except NeedMore as need:
            depths[need.customer_no] = _deeper(need, depths.get(need.customer_no))
            customers = await lock(conn, list(customers), wait=True)  # ours already: start over
            continue
        return Deciding(requests, outcomes, customers, loaded.now)


def _deeper(need: NeedMore, depth: Depth | None) -> Depth:
    """The next depth that has what was missing."""
    if need.late:
        deeper = Depth.LATE
    elif need.wants_due:
        deeper = Depth.DUE
    else:
        deeper = Depth.MORE if depth is None else Depth.FULL
    if depth is not None and depth >= deeper:
        raise TooMuch(need.customer_no)
    return deeper


def _nobody(request: Request, render: Render) -> Result:
    code, what = "customer_not_found", "customer"
    if isinstance(request, Capture | VoidHold | Extend):
        code, what = "hold_not_found", "hold"
    elif isinstance(request, Reverse):
        code, what = "charge_not_found", "charge"
    elif isinstance(request, VoidGrant):
        code, what = "grant_not_found", "grant"
    return Result(404, render(request, refuse(404, code, f"No such {what}.")), False, code)


def _decide_live(
    customers: dict[int, Books], requests: list[Request], settings: Settings, loaded: Loaded
) -> list[Outcome]:
    dead = loaded.dead_keys
    if not dead:
        return decide(customers, requests, settings, loaded.now)
    gone = refuse(401, "key_revoked", "This API key was revoked or has expired. Use another one.")
    return [
        gone
        if request.api_key_no in dead
        else decide(customers, [request], settings, loaded.now)[0]
        for request in requests
    ]
