"""What a past window would have come to under other rates: drafts are tried before publishing."""

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Raw, Struct

from ledger.amounts import format_amount
from ledger.answers import Metadata
from ledger.rated import CardVersion
from meter import catalog, parse
from meter.catalog import PER_EVENT, Catalog
from meter.http.bodies import Body, CustomerId, Time
from meter.http.paging import LIMIT, link, next_cursor, place
from meter.http.reads import guarded
from meter.problems import ProblemError
from meter.publishing import meters_of_rates
from meter.rate_cards import RATES_MAX, RateBody, compile_rates
from meter.rates import Rate
from meter.rerate import PastLine, Rerated, Rerating
from meter.route import Call, Reply, Route
from sql import queries
from sql.pool import Connection, transaction

WINDOW_MAX: Final = timedelta(days=93)
"""A quarter and a day: finance compares quarters."""
LINES_MAX: Final = 200_000
"""Lines that one page reads, some seconds of work."""
CUSTOMERS_LOOKED_MAX: Final = 1_000
"""Customers that one page looks at; of most there may be nothing in the window."""
FETCHED: Final = 1_000
"""Lines in memory at a time."""


class ReplayBody(Body, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Usage in [from, to), by `rates` or by the published `version`."""

    from_: Time
    to: Time
    rates: Annotated[list[RateBody], Meta(min_length=1, max_length=RATES_MAX)] | None = None
    asset: str | None = None
    version: Annotated[int, Meta(ge=1)] | None = None
    customer_id: CustomerId | None = None


class Unrated(Struct, frozen=True):
    """Lines that the rates have no price for. They are in neither sum."""

    lines: int
    old: str
    meter: str
    """The first of them was usage of this meter, with these dimensions."""
    dimensions: Metadata


class CustomerReplay(Struct, frozen=True, kw_only=True):
    """What one customer's usage came to, and would have come to."""

    customer_id: str
    lines: int
    old: str
    new: str
    difference: str
    """new − old."""
    unrated: Unrated | None


class ReplayPage(Struct, frozen=True, kw_only=True):
    rate_card: str
    version: int | None
    """null: the rates of the body."""
    asset: str
    data: list[CustomerReplay]
    has_more: bool
    next_cursor: str | None


class _Draft(Struct, frozen=True):
    """The rates to price by, and the window."""

    key: str
    version: int | None
    asset: str
    scale: int
    by_meter: dict[str, tuple[Rate, ...]]
    grouped: frozenset[str]
    start: datetime
    end: datetime


async def replay(call: Call) -> Reply:
    """Prices the lines that this rate card charged in a window again, and compares the sums.

    Counters of tiers, allowances and minimums begin where their periods do, also before `from`.
    What reversals gave back afterwards is not looked at. Writes nothing.
    """
    assert call.body is not None
    wanted = parse.decode(call.body, ReplayBody)
    name = f"rate_card_replay/{sha256(call.body.canonical).hexdigest()}"
    at = place(call, name)
    number = None
    if wanted.customer_id is not None:
        number = await call.service.customer_no(call, wanted.customer_id)
    async with transaction(call.service.pool, snapshot=True) as conn:
        known = await catalog.read(conn)
        draft = _draft(call, known, wanted)
        data, more = await _replay_page(conn, draft, at.after or 0, at.limit, number)
    cursor = next_cursor(call, name, more)
    answer = ReplayPage(
        rate_card=draft.key,
        version=draft.version,
        asset=draft.asset,
        data=data,
        has_more=cursor is not None,
        next_cursor=cursor,
    )
    return Reply(200, msgspec.json.encode(answer), link(call, cursor))


def _draft(call: Call, known: Catalog, wanted: ReplayBody) -> _Draft:
    """The window and the rates that a body names. Raises ProblemError."""
    start = parse.timestamp(wanted.from_, "/from")
    end = parse.timestamp(wanted.to, "/to")
    if not start < end <= start + WINDOW_MAX:
        raise _wrong(
            f"The window ends after it begins, and at most {WINDOW_MAX.days} days later.", "/to"
        )
    key = call.ids[0]
    versions = known.cards.get(key)
    if not versions:
        raise _absent(key)
    if (wanted.version is None) == (wanted.rates is None):
        raise _wrong("Say by what: rates, or the version of a published card.", "/rates")
    if wanted.rates is not None:
        by_meter = compile_rates(wanted.rates, meters_of_rates(known.meters))
        asset = wanted.asset or versions[-1].asset
    else:
        assert wanted.version is not None
        card = known.versions.get(CardVersion(key, wanted.version))
        if card is None:
            raise _absent(f"{key}@{wanted.version}")
        if wanted.asset not in {None, card.asset}:
            raise _wrong("A published version has its own asset: leave asset out.", "/asset")
        by_meter, asset = card.by_meter, card.asset
    return _Draft(
        key=key,
        version=wanted.version,
        asset=asset,
        scale=call.service.credit_scale(asset),
        by_meter=by_meter,
        grouped=frozenset(k for k, m in known.meters.items() if m.aggregation not in PER_EVENT),
        start=start,
        end=end,
    )


def _wrong(words: str, pointer: str) -> ProblemError:
    return ProblemError(422, "invalid_replay", words, pointer=pointer)


def _absent(what: str) -> ProblemError:
    return ProblemError(404, "rate_card_not_found", f"There is no rate card {what}.")


async def _replay_page(
    conn: Connection, draft: _Draft, after: int, limit: int, only: int | None
) -> tuple[list[CustomerReplay], int | None]:
    """Customers after number `after` with lines in the window, and where the next page begins.

    Raises ProblemError 422 for one customer with more than LINES_MAX lines.
    """
    found: list[CustomerReplay] = []
    left = LINES_MAX
    customers = await conn.fetch(queries.lines_customers, after, CUSTOMERS_LOOKED_MAX + 1, only)
    for row in customers[:CUSTOMERS_LOOKED_MAX]:
        if len(found) == limit:
            return found, after
        rerated, read = await _customer(conn, draft, row[0], row[2], left)
        if rerated is None:
            if found or left < LINES_MAX:
                return found, after
            raise _wrong(
                f"The customer {row[1]} has more than {LINES_MAX} charge lines in this window: "
                "choose a shorter one.",
                "/to",
            )
        left -= read
        after = row[0]
        if rerated.lines or rerated.unrated_lines:
            found.append(_answer(row[1], rerated, draft.scale))
    return found, after if len(customers) > CUSTOMERS_LOOKED_MAX else None


async def _customer(
    conn: Connection, draft: _Draft, number: int, zone: str, left: int
) -> tuple[Rerated | None, int]:
    """One customer's lines priced again, and how many were read; None if over `left`."""
    rerating = Rerating(
        draft.by_meter,
        scale=draft.scale,
        zone=ZoneInfo(zone),
        start=draft.start,
        grouped=draft.grouped,
    )
    read = 0
    lines = conn.cursor(
        queries.lines_of_card,
        number,
        draft.key,
        draft.asset,
        rerating.begins,
        draft.end,
        prefetch=FETCHED,
    )
    async for row in lines:
        read += 1
        if read > left:
            return None, read
        rerating.add(PastLine(row[0], row[1], int(row[2]), row[3], row[4]))
    return rerating.done(), read


def _answer(customer_id: str, done: Rerated, scale: int) -> CustomerReplay:
    unrated = None
    if done.unrated is not None:
        unrated = Unrated(
            done.unrated_lines,
            format_amount(done.unrated_old, scale),
            done.unrated[0],
            Raw(done.unrated[1].encode()),
        )
    return CustomerReplay(
        customer_id=customer_id,
        lines=done.lines,
        old=format_amount(done.old, scale),
        new=format_amount(done.new, scale),
        difference=format_amount(done.new - done.old, scale),
        unrated=unrated,
    )


_EXAMPLE: Final[dict[str, Any]] = {
    "from": "2026-04-01T00:00:00Z",
    "to": "2026-05-01T00:00:00Z",
    "rates": [{"meter": "llm_input_tokens", "unit_price": "0.9", "per": 1_000_000}],
}

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/rate-cards/{rate_card}/replay",
        operation="replay_rate_card",
        summary="What past usage would have cost by other rates. Writes nothing.",
        scope="catalog:write",
        handler=guarded(replay),
        tag="Prices",
        body=ReplayBody,
        answers={200: ReplayPage},
        errors=(
            "rate_card_not_found",
            "customer_not_found",
            "invalid_replay",
            "invalid_rate",
            "ambiguous_rates",
            "invalid_asset",
        ),
        query=LIMIT,
        example=_EXAMPLE,
    ),
)
