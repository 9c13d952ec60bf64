"""Rate cards and quotes: what usage costs."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ledger import reads
from ledger.amounts import format_amount
from ledger.answers import LineAnswer, line_answer
from ledger.load_usage import load_pricing
from ledger.outcome import Outcome
from ledger.rated import Priced
from meter import catalog, parse
from meter.http.bodies import Body, CustomerId, Time
from meter.http.customers import answer
from meter.http.hot import JSON, REPLAYED, USAGE_ERRORS
from meter.http.paging import LIMIT, Page, page, place
from meter.http.reads import guarded
from meter.http.usage_bodies import RateCardKey, UsageList, read_usage
from meter.problems import ProblemError
from meter.publishing import publish_version
from meter.rate_cards import (
    RATES_MAX,
    RateBody,
    RateCard,
    check_key,
    rates_json,
)
from meter.route import Call, Query, Reply, Route
from meter.service import refused
from sql import queries
from sql.pool import Connection, transaction


class RateCardBody(Body, frozen=True, kw_only=True):
    key: RateCardKey
    asset: str = "credits"
    effective_at: Time | None = None
    rates: Annotated[list[RateBody], Meta(min_length=1, max_length=RATES_MAX)]


class RateCardAnswer(Struct, frozen=True, kw_only=True):
    """One version of a rate card, as it was published."""

    key: str
    version: int
    asset: str
    effective_at: datetime
    created_at: datetime
    rates: list[dict[str, Any]]


class QuoteBody(Body, frozen=True, kw_only=True):
    customer_id: CustomerId
    usage: UsageList
    rate_card: RateCardKey | UnsetType = UNSET
    effective_at: Time | None = None


class Quote(Struct, frozen=True, kw_only=True):
    """What usage would cost now; nothing is written."""

    rate_card: str
    version: int
    asset: str
    lines: list[LineAnswer]
    total: str


def card_answer(card: RateCard) -> RateCardAnswer:
    return RateCardAnswer(
        key=card.card.rate_card,
        version=card.card.version,
        asset=card.asset,
        effective_at=card.effective_at,
        created_at=card.created_at,
        rates=msgspec.json.decode(rates_json(card.rates)),
    )


async def publish(call: Call) -> Reply:
    """A version is immutable and takes effect now or later: the past is never priced anew."""
    assert call.body is not None
    assert call.idempotency_key is not None
    wanted = parse.decode(call.body, RateCardBody)
    check_key(wanted.key)
    await call.service.asset_scale(wanted.asset)
    effective_at = parse.time(wanted.effective_at, "/effective_at")
    fingerprint = parse.fingerprint("publish_rate_card", (), call.body.canonical)
    async with transaction(call.service.pool) as conn:
        await catalog.change(conn)
        if (first := await _first_answer(conn, call, fingerprint)) is not None:
            return first
        card = await publish_version(
            conn, await catalog.read(conn), wanted.key, wanted.asset, effective_at, wanted.rates
        )
        reply = answer(201, card_answer(card))
        await conn.execute(
            queries.request_remember,
            call.idempotency_key,
            "publish_rate_card",
            fingerprint,
            reply.status,
            reply.body,
            call.trace_id,
        )
    await call.service.refresh()
    return reply


async def _first_answer(conn: Connection, call: Call, fingerprint: bytes) -> Reply | None:
    """The answer that this key of the business already has; 422 if it was another request."""
    row = await conn.fetchrow(queries.request_of_business, call.idempotency_key)
    if row is None:
        return None
    if row["fingerprint"] != fingerprint:
        raise ProblemError(
            422,
            "idempotency_key_reused",
            "This idempotency key was used for a different request. Nothing was changed: send a "
            "new key for a new request.",
        )
    return Reply(row["status"], row["body"], (JSON, REPLAYED))


async def list_rate_cards(call: Call) -> Reply:
    """All versions by key, the latest first."""
    at = place(call, "rate_cards")
    async with transaction(call.service.pool) as conn:
        known = await catalog.read(conn)
    wanted = call.query.get("key")
    cards = sorted(
        (card for card in known.versions.values() if wanted in {None, card.card.rate_card}),
        key=lambda card: (card.card.rate_card, -card.card.version),
    )
    first = at.after or 0
    end = first + at.limit
    found = [card_answer(card) for card in cards[first:end]]
    return page(call, "rate_cards", found, end if len(cards) > end else None)


async def quote(call: Call) -> Reply:
    """Priced as a consume would be now, on the customer's counters of now."""
    assert call.body is not None
    wanted = parse.decode(call.body, QuoteBody)
    usage = read_usage(wanted.usage, wanted.rate_card)
    assert usage is not None
    at = parse.time(wanted.effective_at, "/effective_at")
    service = call.service
    number = await service.customer_no(call, wanted.customer_id)
    async with transaction(service.pool, snapshot=True) as conn:
        now: datetime = await conn.fetchval(queries.clock_read)
        books = await reads.find(conn, number)
        pricing = service.settings().pricing
        assert pricing is not None
        times = {(number, at or now)}
        await load_pricing(conn, {number: books}, {number}, times, set(), version=pricing.version)
    priced = pricing.price(books, usage, at=at or now, card=None, is_final=False)
    if isinstance(priced, Outcome):
        raise refused(priced)
    return answer(200, _quote(priced, service.settings().scales[priced.asset]))


def _quote(priced: Priced, scale: int) -> Quote:
    return Quote(
        rate_card=priced.card.rate_card,
        version=priced.card.version,
        asset=priced.asset,
        lines=[line_answer(line, scale) for line in priced.lines],
        total=format_amount(sum(line.amount for line in priced.lines), scale),
    )


_RATES_EXAMPLE: Final = {
    "key": "default",
    "rates": [
        {
            "meter": "llm_input_tokens",
            "match": {"model": "gpt-4o*"},
            "unit_price": "2.5",
            "per": 1_000_000,
        },
        {"meter": "llm_input_tokens", "unit_price": "1", "per": 1_000_000},
    ],
}

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/rate-cards",
        operation="publish_rate_card",
        summary="Publish a version of a rate card.",
        scope="catalog:write",
        handler=publish,
        tag="Prices",
        body=RateCardBody,
        answers={201: RateCardAnswer},
        errors=("invalid_rate", "ambiguous_rates", "invalid_rate_card"),
        needs_key=True,
        example=_RATES_EXAMPLE,
    ),
    Route(
        method="GET",
        path="/v1/rate-cards",
        operation="list_rate_cards",
        summary="Versions of rate cards, the latest of each key first.",
        scope="catalog:read",
        handler=list_rate_cards,
        tag="Prices",
        answers={200: Page[RateCardAnswer]},
        query=(Query("key", "Of this rate card only."), *LIMIT),
    ),
    Route(
        method="POST",
        path="/v1/quote",
        operation="quote",
        summary="What usage would cost. Writes nothing.",
        scope="usage:read",
        handler=guarded(quote),
        tag="Prices",
        body=QuoteBody,
        answers={200: Quote},
        errors=("customer_not_found", *USAGE_ERRORS),
        example={
            "customer_id": "acme",
            "usage": [
                {"meter": "llm_input_tokens", "quantity": 1200, "dimensions": {"model": "gpt-4o"}}
            ],
        },
    ),
)
