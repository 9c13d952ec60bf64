"""One batch in one transaction: lock → load → decide → post. The caller commits, then answers."""

from collections.abc import Callable, Sequence
from datetime import datetime
from time import perf_counter

import msgspec
from msgspec import Struct

from ledger.answers import Problem
from ledger.decide import decide_one
from ledger.load import Depth, Loaded, TooMuch, load, lock, look
from ledger.load_purchases import OfPurchase
from ledger.load_usage import Facts
from ledger.outcome import Outcome, refuse
from ledger.post import Reply, post
from ledger.rated import CounterKey
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


async def transact(
    conn: Connection,
    requests: Sequence[Request],
    settings: Settings,
    render: Render,
    *,
    wait: bool,
    facts: Facts | None = None,
    timed: Callable[[str, float], None] | None = None,
) -> list[Result | None]:
    """Decide a batch in the open transaction of `conn`. `timed` is told the seconds of each step.

    One result per request, in order. Without `wait` a customer locked by somebody else is left out:
    None for its requests, nothing written for it. `facts` stores the events of charged usage.
    Raises what PostgreSQL raises, ScaleChanged and CatalogChanged.
    """
    started = perf_counter()
    customers = await lock(conn, sorted({r.customer_no for r in requests}), wait=wait)
    locked = perf_counter()
    results: list[Result | None] = [None] * len(requests)
    if absent := {r.customer_no for r in requests} - customers.keys():
        # Held by somebody else, or an id that names a customer who does not exist.
        held = {} if wait else await look(conn, sorted(absent))
        nobody = absent - held.keys()
        for place, request in enumerate(requests):
            if request.customer_no in nobody:
                results[place] = _nobody(request, render)
    mine = [place for place, request in enumerate(requests) if request.customer_no in customers]
    if not mine:
        return results
    chosen = [requests[place] for place in mine]
    outcomes, now = await _decide(conn, customers, chosen, settings, facts)
    bodies: dict[int, bytes] = {}
    replies: list[Reply] = []
    for place, outcome in zip(mine, outcomes, strict=True):
        request, first = requests[place], outcome.first or outcome
        body = outcome.body
        if body is None:
            body = bodies.get(id(first))
        if body is None:
            body = bodies[id(first)] = render(request, first)
        code = outcome.answer.code if isinstance(outcome.answer, Problem) else None
        results[place] = Result(outcome.status, body, outcome.is_replayed, code)
        if request.key is not None and outcome.is_remembered and not outcome.is_replayed:
            replies.append(Reply(request, outcome.status, body))
    posting = perf_counter()
    await post(conn, customers.values(), replies, now)
    if facts is not None:
        await _record(conn, customers, facts, now)
    if timed is not None:
        timed("lock", locked - started)
        timed("decide", posting - locked)
        timed("post", perf_counter() - posting)
    return results


async def _record(
    conn: Connection, customers: dict[int, Books], facts: Facts, now: datetime
) -> None:
    """Store the events that charged usage made."""
    made = [
        (books.customer_no, seq, place, line)
        for books in customers.values()
        for seq, place, line in books.lines
        if line.makes_event
    ]
    if made:
        await facts.record(conn, made, now)


async def _decide(
    conn: Connection,
    customers: dict[int, Books],
    requests: list[Request],
    settings: Settings,
    facts: Facts | None,
) -> tuple[list[Outcome], datetime]:
    """Load and decide; again, with more rows, for the customers of whom they are missing.

    The outcomes in order, and the time they were decided at.
    """
    pricing = settings.pricing
    loaded = await load(conn, customers, requests, settings.scales, pricing=pricing, facts=facts)
    live = msgspec.structs.replace(settings, closed_through=loaded.closed_through)
    outcomes: dict[int, Outcome] = {}
    depths: dict[int, Depth] = {}
    counters: dict[int, set[CounterKey]] = {}
    waiting = list(enumerate(requests))
    while needs := _decide_live(customers, waiting, live, loaded, outcomes):
        for no, need in needs.items():
            if need.counter is not None:
                counters.setdefault(no, set()).add(need.counter)
            else:
                depths[no] = _deeper(need, depths.get(no))
        again = await lock(conn, sorted(needs), wait=True)  # ours already: start over
        customers.update(again)
        waiting = [(place, request) for place, request in waiting if request.customer_no in needs]
        await load(
            conn,
            again,
            [request for _, request in waiting],
            settings.scales,
            depths={no: depth for no, depth in depths.items() if no in needs},
            pricing=pricing,
            facts=facts,
            counters={no: keys for no, keys in counters.items() if no in needs},
        )
    return [outcomes[place] for place in range(len(requests))], loaded.now


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
    elif isinstance(request, OfPurchase):
        code, what = "purchase_not_found", "purchase"
    return Result(404, render(request, refuse(404, code, f"No such {what}.")), False, code)


def _decide_live(
    customers: dict[int, Books],
    requests: list[tuple[int, Request]],
    settings: Settings,
    loaded: Loaded,
    outcomes: dict[int, Outcome],
) -> dict[int, NeedMore]:
    """Add the outcomes by place; returns of which customers more has to be loaded."""
    needs: dict[int, NeedMore] = {}
    for place, request in requests:
        if request.customer_no in needs:
            continue
        if request.api_key_no in loaded.dead_keys:
            outcomes[place] = refuse(
                401, "key_revoked", "This API key was revoked or has expired. Use another."
            )
            continue
        books = customers[request.customer_no]
        try:
            outcomes[place] = decide_one(books, request, settings, loaded.now)
        except NeedMore as need:
            needs[need.customer_no] = need
    return needs
