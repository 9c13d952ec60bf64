"""The answers of the books, as they leave: amounts as decimal strings, ids public. See `api.md`."""

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from ledger.amounts import format_amount
from ledger.entities import Charge, Draw, Grant, Hold, Lot
from ledger.rated import QUANTITY_SCALE, Line
from ledger.requests import Policy
from ledger.state import Account, Books

EMPTY = Raw(b"{}")
Metadata = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
"""The caller's own object, as it was sent."""


def empty_object() -> Raw:
    return EMPTY


class Balance(Struct, frozen=True):
    """Right after the request, in the asset of the answer it stands in."""

    posted: str
    held: str
    available: str
    owed: str


class LotAmount(Struct, frozen=True):
    lot_id: str
    amount: str


class ChargeOfHold(Struct, frozen=True):
    id: str
    amount: str
    created_at: datetime


class EventOfLine(Struct, frozen=True):
    source: str
    id: str


class LineAnswer(Struct, frozen=True, kw_only=True):
    """A charge line: one usage quantity by one rate. A negative amount gives back."""

    meter: str
    quantity: str
    dimensions: Metadata
    rate_card_version: str
    rate: int
    """Its place in the version's `rates`, from 0."""
    amount: str
    event: EventOfLine | UnsetType = UNSET
    """The fact, where its sender named it."""


class ChargeAnswer(Struct, frozen=True, kw_only=True):
    """One capture or consume: what was burned, from which lots, and what lots did not cover."""

    id: str
    customer_id: str
    asset: str
    amount: str
    hold_id: str | UnsetType = UNSET
    lots: list[LotAmount]
    overage: str
    late: bool
    reversed: str
    lines: list[LineAnswer] | UnsetType = UNSET
    """What usage was priced, line by line; left out for a charge of an amount."""
    effective_at: datetime
    created_at: datetime
    reference: str | UnsetType = UNSET
    metadata: Metadata = field(default_factory=empty_object)
    balance: Balance | UnsetType = UNSET


class HoldAnswer(Struct, frozen=True, kw_only=True):
    """Credits set aside until captured, voided or expired."""

    id: str
    customer_id: str
    asset: str
    status: str
    requested: str
    amount: str
    captured: str
    remaining: str
    overage_held: str
    expires_at: datetime
    created_at: datetime
    rate_card_version: str | UnsetType = UNSET
    """What its usage is priced by, such as `default@3`."""
    reference: str | UnsetType = UNSET
    metadata: Metadata = field(default_factory=empty_object)
    charge: ChargeAnswer | None = None
    charges: list[ChargeOfHold] = []
    balance: Balance | UnsetType = UNSET


class ReversalAnswer(Struct, frozen=True, kw_only=True):
    """What was undone of a charge, and where it went."""

    id: str
    charge_id: str
    customer_id: str
    asset: str
    amount: str
    lots: list[LotAmount]
    overage: str
    """Of `amount`, what was undone of debt and of billed usage."""
    reason: str | UnsetType = UNSET
    created_at: datetime
    charge: ChargeAnswer
    balance: Balance


class Money(Struct, frozen=True):
    amount: str
    currency: str


class RolloverAnswer(Struct, frozen=True):
    max: str
    expires_in: int | None


class RecurrenceAnswer(Struct, frozen=True):
    interval: str
    count: int
    anchor: datetime
    rollover: RolloverAnswer | None
    next_start_at: datetime | None


class GrantAnswer(Struct, frozen=True, kw_only=True):
    """Credits given, and what is left of them over all lots of the grant."""

    id: str
    lot_id: str
    customer_id: str
    asset: str
    amount: str
    remaining: str
    held: str
    status: str
    category: str
    cost: Money | None
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    recurrence: RecurrenceAnswer | None
    origin: str
    reason: str | UnsetType = UNSET
    metadata: Metadata = field(default_factory=empty_object)
    voided_at: datetime | None
    taken: str | UnsetType = UNSET
    """A void's answer: what it took out of the lots."""
    created_at: datetime
    balance: Balance | UnsetType = UNSET


class OverageAnswer(Struct, frozen=True):
    policy: Policy
    limit: str | None


class Problem(Struct, frozen=True):
    """A refusal: a code of the public list, words that say what to do, and the facts."""

    code: str
    detail: str
    facts: dict[str, Any] = {}
    pointer: str | None = None


def balance_answer(account: Account) -> Balance:
    scale = account.scale
    return Balance(
        posted=format_amount(account.wallet, scale),
        held=format_amount(account.pending, scale),
        available=format_amount(account.available, scale),
        owed=format_amount(account.owed, scale),
    )


def _metadata(text: str | None) -> Raw:
    return EMPTY if text is None else Raw(text.encode())


def _lots(books: Books, draws: list[Draw], scale: int) -> list[LotAmount]:
    return [
        LotAmount(books.public("lot", draw.lot_no), format_amount(draw.amount, scale))
        for draw in draws
    ]


def line_answer(line: Line, scale: int) -> LineAnswer:
    """A charge line as it is shown."""
    event: EventOfLine | UnsetType = UNSET
    if line.source is not None and line.event_id is not None:
        event = EventOfLine(line.source, line.event_id)
    return LineAnswer(
        meter=line.meter,
        quantity=format_amount(line.quantity, QUANTITY_SCALE),
        dimensions=Raw(line.dimensions.encode()),
        rate_card_version=str(line.card),
        rate=line.rate_no,
        amount=format_amount(line.amount, scale),
        event=event,
    )


def charge_answer(
    books: Books, charge: Charge, scale: int, account: Account | None = None
) -> ChargeAnswer:
    """A charge as it is shown; with `account`, the balance beside it."""
    return ChargeAnswer(
        id=books.public("chg", charge.seq),
        customer_id=books.customer_id,
        asset=charge.asset,
        amount=format_amount(charge.amount, scale),
        hold_id=UNSET if charge.hold_no is None else books.public("hld", charge.hold_no),
        lots=_lots(books, charge.draws, scale),
        overage=format_amount(charge.overage, scale),
        late=charge.late,
        reversed=format_amount(charge.reversed, scale),
        lines=UNSET if charge.lines is None else [line_answer(x, scale) for x in charge.lines],
        effective_at=charge.effective_at,
        created_at=charge.created_at,
        reference=UNSET if charge.reference is None else charge.reference,
        metadata=_metadata(charge.metadata),
        balance=UNSET if account is None else balance_answer(account),
    )


def hold_answer(
    books: Books,
    hold: Hold,
    scale: int,
    *,
    account: Account | None = None,
    charge: Charge | None = None,
) -> HoldAnswer:
    """A hold as it is shown; `charge` is that of this call."""
    return HoldAnswer(
        id=books.public("hld", hold.hold_no),
        customer_id=books.customer_id,
        asset=hold.asset,
        status=hold.status,
        requested=format_amount(hold.requested, scale),
        amount=format_amount(hold.amount, scale),
        captured=format_amount(hold.captured, scale),
        remaining=format_amount(hold.remaining, scale),
        overage_held=format_amount(hold.uncovered if hold.status == "open" else 0, scale),
        expires_at=hold.expires_at,
        created_at=hold.created_at,
        rate_card_version=UNSET if hold.card is None else str(hold.card),
        reference=UNSET if hold.reference is None else hold.reference,
        metadata=_metadata(hold.metadata),
        charge=None if charge is None else charge_answer(books, charge, scale),
        charges=[
            ChargeOfHold(
                books.public("chg", line.seq), format_amount(line.amount, scale), line.created_at
            )
            for line in hold.charges or ()
        ],
        balance=UNSET if account is None else balance_answer(account),
    )


def reversal_answer(
    books: Books,
    seq: int,
    charge: Charge,
    undone: list[Draw],
    overage: int,
    account: Account,
    created_at: datetime,
    reason: str | None,
) -> ReversalAnswer:
    """A reversal as it is shown, with the charge as it stands now."""
    scale = account.scale
    return ReversalAnswer(
        id=books.public("rev", seq),
        charge_id=books.public("chg", charge.seq),
        customer_id=books.customer_id,
        asset=charge.asset,
        amount=format_amount(overage + sum(draw.amount for draw in undone), scale),
        lots=_lots(books, undone, scale),
        overage=format_amount(overage, scale),
        reason=UNSET if reason is None else reason,
        created_at=created_at,
        charge=charge_answer(books, charge, scale),
        balance=balance_answer(account),
    )


def grant_status(grant: Grant, lots: list[Lot], now: datetime) -> str:
    """Derived from numbers and time: of the whole series for a recurring grant."""
    if grant.voided_at is not None:
        return "voided"
    if len(lots) == 1 and grant.interval is None:
        return lots[0].status(now)
    if grant.effective_at > now:
        return "pending"
    statuses = {lot.status(now) for lot in lots}
    if grant.next_start_at is not None or "active" in statuses:
        return "active"
    return "expired" if "expired" in statuses else "depleted"


def grant_answer(
    books: Books,
    grant: Grant,
    lots: list[Lot],
    scales: dict[str, int],
    now: datetime,
    *,
    account: Account | None = None,
    taken: int | None = None,
) -> GrantAnswer:
    """`lots`: all of a one-off grant, the open ones (at least the latest) of a recurring one."""
    scale = scales[grant.asset]
    recurrence = None
    if grant.interval is not None:
        rollover = None
        if grant.rollover_max is not None:
            rollover = RolloverAnswer(
                format_amount(grant.rollover_max, scale), grant.rollover_expires_in
            )
        recurrence = RecurrenceAnswer(
            interval=grant.interval,
            count=grant.count,
            anchor=grant.anchor or grant.effective_at,
            rollover=rollover,
            next_start_at=grant.next_start_at,
        )
    cost = None
    if grant.cost is not None:
        money = format_amount(grant.cost.amount, scales[grant.cost.currency])
        cost = Money(money, grant.cost.currency)
    return GrantAnswer(
        id=books.public("grt", grant.grant_no),
        lot_id=books.public("lot", max(lot.lot_no for lot in lots)),
        customer_id=books.customer_id,
        asset=grant.asset,
        amount=format_amount(grant.amount, scale),
        remaining=format_amount(sum(lot.remaining for lot in lots), scale),
        held=format_amount(sum(lot.pinned for lot in lots), scale),
        status=grant_status(grant, lots, now),
        category=grant.category,
        cost=cost,
        priority=grant.priority,
        effective_at=grant.effective_at,
        expires_at=grant.expires_at,
        recurrence=recurrence,
        origin=grant.origin,
        reason=UNSET if grant.reason is None else grant.reason,
        metadata=_metadata(grant.metadata),
        voided_at=grant.voided_at,
        taken=UNSET if taken is None else format_amount(taken, scale),
        created_at=grant.created_at,
        balance=UNSET if account is None else balance_answer(account),
    )
