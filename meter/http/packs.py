"""Packs: what can be bought once."""

from typing import Final

import msgspec

from ledger.amounts import format_amount
from meter import packs, parse, stripe_calls
from meter.checkout import CENTS_MAX
from meter.http.customers import answer
from meter.http.paging import LIMIT, Page, page, place
from meter.http.stripe_bodies import BonusAnswer, PackAnswer, PackBody, Price, PriceAnswer
from meter.packs import PACK, STEP_WORDS, Pack, step_of
from meter.problems import ProblemError
from meter.route import Call, Reply, Route
from meter.service import Service
from meter.stripe_port import StripeFault
from sql.pool import transaction


async def put_pack(call: Call) -> Reply:
    """Make a pack or change it, with its product and prices at Stripe.

    A change is a new version: it counts for purchases from now on. If Stripe is away the version is
    there, and the same request (or the first purchase) makes what is missing.
    """
    assert call.body is not None
    wanted = await _read(call, parse.decode(call.body, PackBody))

    async def write() -> tuple[Pack, bool]:
        async with transaction(call.service.pool) as conn:
            return await packs.put(conn, wanted)

    made, is_new = await call.service.retried(write)
    if made.is_active:
        try:
            for currency in made.prices:
                await packs.price_at_stripe(call.service, made, currency)
        except StripeFault as fault:
            raise stripe_calls.problem_of(fault) from fault
    return answer(201 if is_new else 200, _show(call.service, made))


async def _read(call: Call, body: PackBody) -> Pack:
    key = call.ids[0]
    if PACK.fullmatch(key) is None:
        raise ProblemError(
            422, "invalid_value", "A pack's key is 1-63 letters, digits, `_` and `-`."
        )
    service = call.service
    scale = await service.asset_scale(body.asset)
    prices: dict[str, int] = {}
    for place_, price in (("/price", body.price), *_places(body)):
        money = service.money_scale(price.currency, f"{place_}/currency")
        if price.currency in prices:
            raise ProblemError(
                422, "invalid_value", "One price for a currency.", pointer=f"{place_}/currency"
            )
        prices[price.currency] = price_of(price.amount, money, f"{place_}/amount")
    bonus = body.bonus
    return Pack(
        pack=key,
        version=0,
        name=body.name,
        asset=body.asset,
        credits=parse.amount(body.credits, scale, "/credits"),
        bonus=0 if bonus is None else parse.amount(bonus.credits, scale, "/bonus/credits"),
        bonus_expires_in=None if bonus is None else bonus.expires_in,
        expires_in=body.expires_in,
        priority=body.priority,
        prices=prices,
        tax_code=body.tax_code,
        tax_behavior=body.tax_behavior,
        is_active=body.active,
        metadata=parse.metadata(body.metadata or {}, "/metadata"),
    )


def price_of(text: str, scale: int, pointer: str) -> int:
    """A price that Stripe can take. Raises ProblemError 422."""
    amount = parse.amount(text, scale, pointer)
    if amount > CENTS_MAX:
        raise ProblemError(
            422, "invalid_value", "Stripe takes payments of up to eight digits.", pointer=pointer
        )
    if amount % step_of(scale):
        raise ProblemError(422, "invalid_value", STEP_WORDS, pointer=pointer)
    return amount


def _places(body: PackBody) -> list[tuple[str, Price]]:
    return [(f"/prices/{number}", price) for number, price in enumerate(body.prices)]


def _show(service: Service, pack: Pack) -> PackAnswer:
    scale = service.settings().scales[pack.asset]
    prices = [
        PriceAnswer(format_amount(amount, service.settings().scales[currency]), currency)
        for currency, amount in pack.prices.items()
    ]
    bonus = None
    if pack.bonus:
        bonus = BonusAnswer(format_amount(pack.bonus, scale), pack.bonus_expires_in)
    return PackAnswer(
        key=pack.pack,
        version=pack.version,
        name=pack.name,
        asset=pack.asset,
        credits=format_amount(pack.credits, scale),
        price=prices[0],
        prices=prices[1:],
        bonus=bonus,
        expires_in=pack.expires_in,
        priority=pack.priority,
        active=pack.is_active,
        tax_code=pack.tax_code,
        tax_behavior=pack.tax_behavior,
        metadata=msgspec.Raw(pack.metadata.encode()),
        created_at=pack.created_at,
    )


async def list_packs(call: Call) -> Reply:
    """The latest version of every pack, by key."""
    at = place(call, "packs")
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = [pack for pack in await packs.listed(conn) if pack.pack > (at.after or "")]
    shown = found[: at.limit]
    more = shown[-1].pack if len(found) > at.limit else None
    return page(call, "packs", [_show(call.service, pack) for pack in shown], more)


ROUTES: Final = (
    Route(
        method="PUT",
        path="/v1/packs/{pack}",
        operation="put_pack",
        summary="Make or change a pack of credits that can be bought.",
        scope="catalog:write",
        handler=put_pack,
        tag="Money in",
        body=PackBody,
        answers={200: PackAnswer, 201: PackAnswer},
        errors=(
            "invalid_amount",
            "invalid_asset",
            "invalid_currency",
            "amount_out_of_range",
            "stripe_unavailable",
            "stripe_refused",
            "request_in_progress",
        ),
        example={
            "name": "Starter",
            "credits": "1000",
            "price": {"amount": "10.00", "currency": "USD"},
            "bonus": {"credits": "100", "expires_in": 2_592_000},
        },
    ),
    Route(
        method="GET",
        path="/v1/packs",
        operation="list_packs",
        summary="Packs, by key.",
        scope="catalog:read",
        handler=list_packs,
        tag="Money in",
        answers={200: Page[PackAnswer]},
        query=LIMIT,
    ),
)
