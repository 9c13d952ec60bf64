"""Reading what a caller asks of the books: bodies and ids become requests of the ledger.

Each operation is read once, here: the single route and the batch give the same request.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import UNSET, UnsetType

from ledger.ids import parse_id
from ledger.requests import (
    Capture,
    Consume,
    Cost,
    Extend,
    GrantCredit,
    Notes,
    Recurrence,
    Request,
    Reserve,
    Reverse,
    Rollover,
    VoidGrant,
    VoidHold,
)
from meter import parse
from meter.http import bodies
from meter.http.usage_bodies import one_of, read_usage
from meter.parse import Body
from meter.problems import ProblemError
from meter.route import Call

Reader = Callable[[Call, Sequence[str], Body, dict[str, Any]], Any]


async def request_of(
    call: Call, read: Reader, operation: str, ids: Sequence[str], body: Body, key: str | None
) -> Request:
    """The request that `read` makes of a body, with what every request carries."""
    common: dict[str, Any] = {
        "key": key,
        "operation": operation,
        "fingerprint": b"" if key is None else parse.fingerprint(operation, ids, body.canonical),
        "api_key_no": call.key.key_no,
        "trace_id": call.trace_id,
        "request_id": call.request_id,
    }
    made = read(call, ids, body, common)
    return made if isinstance(made, Request) else await made


def notes(
    body: Body,
    metadata: dict[str, Any] | None,
    *,
    reference: str | None = None,
    reason: str | None = None,
) -> Notes | None:
    """The free text of a request, salted for its digest; None if there is none."""
    text = None if metadata is None else parse.metadata(metadata, "/metadata")
    if text is None and reference is None and reason is None:
        return None
    return Notes(os.urandom(16), reference, reason, text)


def owned(call: Call, prefix: str, text: str, code: str) -> tuple[int, int]:
    """The (customer, number) of a public id; 404 for another's, as for what does not exist."""
    found = parse_id(prefix, text)
    bound = call.key.customer_no
    if found is None or (bound is not None and found[0] != bound):
        raise ProblemError(404, code, f"No such {code.removesuffix('_not_found')}.")
    return found


DEFAULT_ASSET: Final = "credits"


def _amount(text: str | UnsetType, scale: int | None, pointer: str = "/amount") -> int:
    """An amount of an asset with `scale`; 0 where usage is stated instead."""
    if text is UNSET:
        return 0
    assert scale is not None, "an amount always has an asset"
    return parse.amount(text, scale, pointer)


async def read_reserve(
    call: Call, _ids: Sequence[str], body: Body, common: dict[str, Any]
) -> Request:
    """Read a reserve. Raises ProblemError."""
    wanted = parse.decode(body, bodies.ReserveBody)
    one_of(wanted.amount, wanted.usage)
    usage = read_usage(wanted.usage, wanted.rate_card)
    asset = wanted.asset
    if asset is UNSET and (usage is None or wanted.minimum is not UNSET):
        asset = DEFAULT_ASSET
    scale = None if asset is UNSET else await call.service.asset_scale(asset)
    amount, minimum = _amount(wanted.amount, scale), None
    if wanted.minimum is not UNSET:
        minimum = _amount(wanted.minimum, scale, "/minimum")
        if usage is None and minimum > amount:
            raise ProblemError(
                422, "invalid_minimum", "minimum is above amount.", pointer="/minimum"
            )
    texts = notes(body, wanted.metadata, reference=wanted.reference)
    return Reserve(
        customer_no=await call.service.customer_no(call, wanted.customer_id, makes=True),
        asset=None if asset is UNSET else asset,
        scale=scale,
        amount=amount,
        usage=usage,
        minimum=minimum,
        expires_in=wanted.expires_in,
        notes=texts,
        **common,
    )


async def read_consume(
    call: Call, _ids: Sequence[str], body: Body, common: dict[str, Any]
) -> Request:
    """Read a consume. Raises ProblemError."""
    wanted = parse.decode(body, bodies.ConsumeBody)
    one_of(wanted.amount, wanted.usage)
    usage = read_usage(wanted.usage, wanted.rate_card)
    asset = DEFAULT_ASSET if usage is None and wanted.asset is UNSET else wanted.asset
    scale = None if asset is UNSET else await call.service.asset_scale(asset)
    amount = _amount(wanted.amount, scale)
    effective_at = parse.time(wanted.effective_at, "/effective_at")
    texts = notes(body, wanted.metadata, reference=wanted.reference)
    return Consume(
        customer_no=await call.service.customer_no(call, wanted.customer_id, makes=True),
        asset=None if asset is UNSET else asset,
        scale=scale,
        amount=amount,
        usage=usage,
        effective_at=effective_at,
        notes=texts,
        **common,
    )


def read_capture(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    """Read a capture; its amount's scale is the hold's, so it is checked again there."""
    wanted = parse.decode(body, bodies.CaptureBody)
    amount = None
    if wanted.amount is not UNSET:
        amount = parse.amount_text(wanted.amount, "/amount", allow_zero=True)
        if wanted.usage is not UNSET:
            one_of(wanted.amount, wanted.usage)
    customer_no, hold_no = owned(call, "hld", ids[0], "hold_not_found")
    return Capture(
        customer_no=customer_no,
        hold_no=hold_no,
        amount=amount,
        usage=read_usage(wanted.usage),
        final=wanted.final,
        above_hold=wanted.above_hold,
        effective_at=parse.time(wanted.effective_at, "/effective_at"),
        notes=notes(body, wanted.metadata),
        **common,
    )


def read_void(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    """Read the void of a hold."""
    parse.decode(body, bodies.VoidHoldBody)
    customer_no, hold_no = owned(call, "hld", ids[0], "hold_not_found")
    return VoidHold(customer_no=customer_no, hold_no=hold_no, **common)


def read_extend(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    """Read an extend; adding to the amount needs an idempotency key."""
    wanted = parse.decode(body, bodies.ExtendBody)
    if wanted.expires_in is None and wanted.add is UNSET:
        raise ProblemError(422, "missing_member", "Send expires_in, add, or both.")
    add = usage = None
    if wanted.add is not UNSET:
        one_of(wanted.add.amount, wanted.add.usage, "/add")
        usage = read_usage(wanted.add.usage, pointer="/add")
        if wanted.add.amount is not UNSET:
            add = parse.amount_text(wanted.add.amount, "/add/amount")
        if common["key"] is None:
            raise parse.key_missing()
    customer_no, hold_no = owned(call, "hld", ids[0], "hold_not_found")
    return Extend(
        customer_no=customer_no,
        hold_no=hold_no,
        expires_in=wanted.expires_in,
        add=add,
        add_usage=usage,
        **common,
    )


def read_reverse(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    """Read a reversal."""
    wanted = parse.decode(body, bodies.ReverseBody)
    amount = None
    if wanted.amount is not UNSET:
        amount = parse.amount_text(wanted.amount, "/amount")
    customer_no, seq = owned(call, "chg", ids[0], "charge_not_found")
    return Reverse(
        customer_no=customer_no,
        charge_seq=seq,
        amount=amount,
        notes=notes(body, None, reason=wanted.reason),
        **common,
    )


async def read_grant(
    call: Call, _ids: Sequence[str], body: Body, common: dict[str, Any]
) -> Request:
    """Read a grant. Raises ProblemError."""
    wanted = parse.decode(body, bodies.GrantBody)
    scale = await call.service.asset_scale(wanted.asset)
    cost = _cost(call, wanted)
    recurrence = None
    if wanted.recurrence is not None:
        rollover = None
        if (kept := wanted.recurrence.rollover) is not None:
            most = parse.amount(kept.max, scale, "/recurrence/rollover/max")
            rollover = Rollover(most, kept.expires_in)
        recurrence = Recurrence(
            interval=wanted.recurrence.interval,
            count=wanted.recurrence.count,
            anchor=parse.time(wanted.recurrence.anchor, "/recurrence/anchor"),
            rollover=rollover,
        )
    amount = parse.amount(wanted.amount, scale, "/amount")
    effective_at = parse.time(wanted.effective_at, "/effective_at")
    expires_at = parse.time(wanted.expires_at, "/expires_at")
    texts = notes(body, wanted.metadata, reason=wanted.reason)
    return GrantCredit(
        customer_no=await call.service.customer_no(call, wanted.customer_id, makes=True),
        asset=wanted.asset,
        scale=scale,
        amount=amount,
        category=wanted.category,
        cost=cost,
        priority=wanted.priority,
        effective_at=effective_at,
        expires_at=expires_at,
        recurrence=recurrence,
        notes=texts,
        **common,
    )


def _cost(call: Call, wanted: bodies.GrantBody) -> Cost | None:
    if wanted.cost is None:
        if wanted.category == "paid":
            raise ProblemError(
                422,
                "missing_member",
                "A paid grant says what was paid: cost {amount, currency}; 0 is allowed.",
                pointer="/cost",
            )
        return None
    if wanted.category == "promotional":
        raise ProblemError(422, "invalid_cost", "A promotional grant has no cost.", pointer="/cost")
    scale = call.service.money_scale(wanted.cost.currency, "/cost/currency")
    amount = parse.amount(wanted.cost.amount, scale, "/cost/amount", allow_zero=True)
    return Cost(amount, wanted.cost.currency)


def read_void_grant(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    """Read the void of a grant."""
    wanted = parse.decode(body, bodies.VoidGrantBody)
    customer_no, grant_no = owned(call, "grt", ids[0], "grant_not_found")
    return VoidGrant(
        customer_no=customer_no,
        grant_no=grant_no,
        money=wanted.money,
        notes=notes(body, None, reason=wanted.reason),
        **common,
    )
