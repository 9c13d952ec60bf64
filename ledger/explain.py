"""What makes up a balance, in words and numbers, for whoever is asked why a customer was refused.

The transaction is as in `ledger.reads`. Every number adds up to the balance that is shown.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec
from asyncpg import Record
from msgspec import UNSET, Struct, UnsetType

from ledger.amounts import format_amount
from ledger.chart import CREDIT_ACCOUNTS, net
from ledger.entities import Hold, Lot
from ledger.overage import limit_left, policy_for
from ledger.reads import LOTS_SHOWN, OverageUse, overage_use, settled, spendable_lots
from ledger.rows import read_hold, read_lot
from ledger.settle import account_of
from ledger.state import Account, Books, Settings
from sql import queries
from sql.pool import Connection

HOLDS_SHOWN: Final = 100
DEBTS_SHOWN: Final = 100
EXPIRED_SHOWN: Final = 10
DUE_SHOWN: Final = 10
REFUSALS_SHOWN: Final = 20


class Totals(Struct, frozen=True):
    """All that ever moved, net. paid + promotional − upcoming − burned − expired + owed + billed =
    posted = held + available.
    """

    paid: str
    promotional: str
    upcoming: str
    burned: str
    expired: str
    owed: str
    billed: str
    posted: str
    held: str
    available: str


class LotExplained(Struct, frozen=True, kw_only=True):
    """granted = burned + expired + voided + remaining; of what remains, `held` is kept by holds."""

    id: str
    grant_id: str
    category: str
    status: str
    granted: str
    burned: str
    expired: str
    voided: str
    remaining: str
    held: str
    priority: int
    effective_at: datetime
    expires_at: datetime | None


class HoldExplained(Struct, frozen=True, kw_only=True):
    """An open hold: `held` of the wallet, `overage_held` promised beyond it."""

    id: str
    held: str
    overage_held: str
    created_at: datetime
    expires_at: datetime
    reference: str | UnsetType = UNSET


class DebtExplained(Struct, frozen=True):
    """What a charge still owes, or what was taken back of a bought lot after it was spent."""

    charge_id: str | UnsetType
    lot_id: str | UnsetType
    amount: str
    repaid: str
    open: str


class OverageExplained(Struct, frozen=True):
    """The policy of the moment; `left` is what it still allows, null without a limit."""

    use: OverageUse
    left: str | None


class Due(Struct, frozen=True):
    """What time will do: hold_deadline, lot_start, lot_expiry, or next_period of a grant."""

    at: datetime
    what: str
    id: str
    amount: str


class Refusal(Struct, frozen=True, kw_only=True):
    """A request that was refused for want of credit (402) or by the state (409)."""

    created_at: datetime
    operation: str
    key: str
    status: int
    code: str | None
    required: str | None
    available: str | None


class Explanation(Struct, frozen=True, kw_only=True):
    """The balance taken apart. `rest_posted` is in lots beyond those listed."""

    customer_id: str
    asset: str
    as_of: datetime
    summary: list[str]
    totals: Totals
    lots: list[LotExplained]
    rest_posted: str
    expired_lots: list[LotExplained]
    """Those whose credit ran out last."""
    holds: list[HoldExplained]
    holds_has_more: bool
    debts: list[DebtExplained]
    debts_has_more: bool
    overage: OverageExplained
    next: list[Due]
    refusals: list[Refusal]


class _Body(Struct, frozen=True):
    """Of a stored refusal, what is shown."""

    code: str | None = None
    required: str | None = None
    available: str | None = None


async def explain(
    conn: Connection, customer_no: int, asset: str, settings: Settings
) -> Explanation:
    """Why a balance is what it is. Raises UnknownCustomer, Unsettled."""
    books, now = await settled(conn, customer_no, settings, full=True)
    account = account_of(books, settings, asset)
    totals = await _totals(conn, books, account)
    lots = (await spendable_lots(conn, books, asset, LOTS_SHOWN + 1))[:LOTS_SHOWN]
    holds = [
        read_hold(tuple(row))
        for row in await conn.fetch(
            queries.holds_ending_next, customer_no, asset, now, HOLDS_SHOWN + 1
        )
    ]
    debts = [debt for debt in books.debts.values() if debt.asset == asset and debt.open]
    refused = await conn.fetch(queries.refusals_latest, customer_no, REFUSALS_SHOWN)
    refusals = [_refusal(row) for row in refused]
    due = sorted(_due(books, account, holds, now), key=lambda one: one.at)[:DUE_SHOWN]

    def plain(amount: int) -> str:
        return format_amount(amount, account.scale)

    left = limit_left(books, account)
    return Explanation(
        customer_id=books.customer_id,
        asset=asset,
        as_of=now,
        summary=_summary(books, account, totals, due, refusals),
        totals=totals,
        lots=[_lot(books, lot, now, account.scale) for lot in lots],
        rest_posted=plain(account.wallet - sum(lot.remaining for lot in lots)),
        expired_lots=[
            _lot(books, lot, now, account.scale) for lot in await _expired_lots(conn, books, asset)
        ],
        holds=[_hold(books, hold, account.scale) for hold in holds[:HOLDS_SHOWN]],
        holds_has_more=len(holds) > HOLDS_SHOWN,
        debts=[
            DebtExplained(
                books.public("chg", debt.charge_seq) if debt.lot_no is None else UNSET,
                UNSET if debt.lot_no is None else books.public("lot", debt.lot_no),
                plain(debt.amount),
                plain(debt.repaid),
                plain(debt.open),
            )
            for debt in debts[:DEBTS_SHOWN]
        ],
        debts_has_more=len(debts) > DEBTS_SHOWN,
        overage=OverageExplained(
            overage_use(books, account), None if left is None else plain(left)
        ),
        next=due,
        refusals=refusals,
    )


async def _totals(conn: Connection, books: Books, account: Account) -> Totals:
    row = await conn.fetchrow(queries.account_totals, books.customer_no, account.asset)

    def total(name: str) -> str:
        stored = 0 if row is None else int(row[name])
        moved = net(name, account.debits.get(name, 0), account.credits.get(name, 0))
        return format_amount(stored + moved, account.scale)

    totals = {name: total(name) for name in CREDIT_ACCOUNTS}
    return Totals(
        paid=totals["purchased"],
        promotional=totals["granted"],
        upcoming=totals["upcoming"],
        burned=totals["burned"],
        expired=totals["expired"],
        owed=totals["owed"],
        billed=totals["billed"],
        posted=totals["wallet"],
        held=format_amount(account.pending, account.scale),
        available=format_amount(account.available, account.scale),
    )


async def _expired_lots(conn: Connection, books: Books, asset: str) -> list[Lot]:
    """The lots that expired last, those among them that did so in memory only."""
    rows = await conn.fetch(queries.lots_expired_latest, books.customer_no, asset, EXPIRED_SHOWN)
    lots = {lot.lot_no: lot for lot in map(read_lot, map(tuple, rows))}
    lots |= {no: lot for no, lot in books.lots.items() if lot.asset == asset and lot.expired}
    ended = [(lot.expires_at, lot) for lot in lots.values() if lot.expires_at is not None]
    ended.sort(key=lambda pair: pair[0], reverse=True)
    return [lot for _, lot in ended[:EXPIRED_SHOWN]]


def _lot(books: Books, lot: Lot, now: datetime, scale: int) -> LotExplained:
    burned = lot.amount - lot.remaining - lot.expired - lot.voided
    return LotExplained(
        id=books.public("lot", lot.lot_no),
        grant_id=books.public("grt", lot.grant_no),
        category=lot.category,
        status=lot.status(now),
        granted=format_amount(lot.amount, scale),
        burned=format_amount(burned, scale),
        expired=format_amount(lot.expired, scale),
        voided=format_amount(lot.voided, scale),
        remaining=format_amount(lot.remaining, scale),
        held=format_amount(lot.pinned, scale),
        priority=lot.priority,
        effective_at=lot.effective_at,
        expires_at=lot.expires_at,
    )


def _hold(books: Books, hold: Hold, scale: int) -> HoldExplained:
    return HoldExplained(
        id=books.public("hld", hold.hold_no),
        held=format_amount(hold.pinned, scale),
        overage_held=format_amount(hold.uncovered, scale),
        created_at=hold.created_at,
        expires_at=hold.expires_at,
        reference=UNSET if hold.reference is None else hold.reference,
    )


def _due(books: Books, account: Account, holds: list[Hold], now: datetime) -> Iterator[Due]:
    """What falls due after now, in any order; of holds the nearest deadlines only."""
    for hold in holds:
        amount = format_amount(hold.pinned, account.scale)
        yield Due(hold.expires_at, "hold_deadline", books.public("hld", hold.hold_no), amount)
    for lot in books.lots.values():
        if lot.asset != account.asset:
            continue
        public = books.public("lot", lot.lot_no)
        if lot.is_upcoming:
            amount = format_amount(lot.remaining, account.scale)
            yield Due(lot.effective_at, "lot_start", public, amount)
        elif lot.expires_at is not None and lot.expires_at > now and lot.remaining > 0:
            amount = format_amount(lot.unpinned, account.scale)
            yield Due(lot.expires_at, "lot_expiry", public, amount)
    for grant in books.grants.values():
        if grant.asset == account.asset and grant.next_start_at and not grant.has_purchase:
            amount = format_amount(grant.amount, account.scale)
            public = books.public("grt", grant.grant_no)
            yield Due(grant.next_start_at, "next_period", public, amount)


def _refusal(row: Record) -> Refusal:
    try:
        body = msgspec.json.decode(row["body"], type=_Body)
    except msgspec.DecodeError:
        body = _Body()
    return Refusal(
        created_at=row["created_at"],
        operation=row["operation"],
        key=row["key"],
        status=row["status"],
        code=body.code,
        required=body.required,
        available=body.available,
    )


def _summary(
    books: Books, account: Account, totals: Totals, due: list[Due], refusals: list[Refusal]
) -> list[str]:
    """Sentences whose numbers add up."""
    t, asset = totals, account.asset
    words = [
        f"Given so far, without what was voided: {t.paid} {asset} paid for and {t.promotional} "
        f"promotional. Of that, {t.upcoming} starts later, {t.burned} was used and {t.expired} "
        f"expired; of what was used, {t.owed} is owed and {t.billed} was billed beyond the wallet.",
        f"{t.paid} + {t.promotional} − {t.upcoming} − {t.burned} − {t.expired} + {t.owed} + "
        f"{t.billed} = {t.posted} posted.",
        f"Open holds keep {t.held} of it: {t.posted} − {t.held} = {t.available} available.",
    ]
    if account.owed:
        words.append(f"{t.owed} is owed: credit that becomes available repays it first.")
    words.append(_overage_words(books, account))
    if books.closed_at is not None:
        words.append(f"The customer is closed since {_time(books.closed_at)}: nothing new starts.")
    if due:
        first = due[0]
        name = first.what.replace("_", " ")
        words.append(f"Next: {name} of {first.id} ({first.amount}) at {_time(first.at)}.")
    if refusals:
        words.append(_refusal_words(refusals[0]))
    return words


def _overage_words(books: Books, account: Account) -> str:
    policy = policy_for(books, account.asset)
    if policy == "deny":
        return "Beyond the wallet nothing is allowed (policy deny)."
    use, left = overage_use(books, account), limit_left(books, account)
    if left is None:
        return (
            f"Beyond the wallet all is allowed (policy {policy}, no limit): {use.used} used, "
            f"{use.held} promised to open holds."
        )
    return (
        f"Beyond the wallet {use.limit} is allowed (policy {policy}): {use.used} used, {use.held} "
        f"promised to open holds, {format_amount(left, account.scale)} left."
    )


def _refusal_words(refusal: Refusal) -> str:
    words = (
        f"The latest refusal: {refusal.operation} at {_time(refusal.created_at)}, "
        f"{refusal.status} {refusal.code or ''}".rstrip()
    )
    if refusal.required is not None and refusal.available is not None:
        words += f", needed {refusal.required}, available {refusal.available}"
    return words + "."


def _time(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
