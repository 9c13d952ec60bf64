"""Purchases as rows: what deciding on them needs, and what it changed. And whose an object is."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from ledger.bought import Freeze, Funds, Purchase, Terms
from ledger.entities import Debt, Draw, Lot
from ledger.requests import (
    CreditPurchase,
    FreezePurchase,
    MarkPurchase,
    MovePurchase,
    OpenPurchase,
    ReleasePurchase,
    Request,
    StartRefund,
)
from ledger.rows import Row, read_lot
from ledger.state import Books
from sql import queries
from sql.pool import Connection

OfPurchase = (
    CreditPurchase | MovePurchase | MarkPurchase | FreezePurchase | ReleasePurchase | StartRefund
)


class PurchaseRef(Struct, frozen=True):
    customer_no: int
    purchase_no: int


class ForeignPurchase(Exception):
    """An object of Stripe belongs to another purchase already."""

    def __init__(self, object_id: str, owner: PurchaseRef) -> None:
        super().__init__(
            f"{object_id} belongs to purchase {owner.purchase_no} of customer {owner.customer_no}"
        )
        self.object_id, self.owner = object_id, owner


async def load_purchases(
    conn: Connection, customers: dict[int, Books], requests: Iterable[Request]
) -> set[tuple[int, int]]:
    """The purchases that requests name, with lots, open freezes, and debts from clawbacks.

    Returns the lots that paid such debts and are still to be loaded.
    """
    requests = list(requests)
    named = {(r.customer_no, r.purchase_no) for r in requests if isinstance(r, OfPurchase)}
    named |= {
        (r.customer_no, r.ordered_no)
        for r in requests
        if isinstance(r, OpenPurchase) and r.ordered_no is not None
    }
    lines = {
        (r.customer_no, r.terms.invoice_id, r.terms.line_id)
        for r in requests
        if isinstance(r, OpenPurchase) and r.terms.line_id is not None
    }
    return await load_named(conn, customers, named, lines)


async def load_named(
    conn: Connection,
    customers: dict[int, Books],
    named: Iterable[tuple[int, int]],
    lines: Iterable[tuple[int, str | None, str]] = (),
) -> set[tuple[int, int]]:
    """The same by (customer, number), and by (customer, invoice, line)."""
    named, lines = list(named), list(lines)
    if not (named or lines):
        return set()
    numbers = [no for no, _ in named], [purchase for _, purchase in named]
    places: list[list[Any]] = [[line[i] for line in lines] for i in range(3)]
    found: list[tuple[int, int]] = []
    for row in await conn.fetch(queries.purchases_load, *numbers, *places):
        purchase = _read_purchase(row)
        customers[row[0]].purchases[purchase.purchase_no] = purchase
        found.append((row[0], purchase.purchase_no))
    columns = [no for no, _ in found], [purchase for _, purchase in found]
    lots: list[tuple[int, Lot]] = []
    for row in await conn.fetch(queries.purchases_lots_load, *columns):
        books = customers[row[0]]
        lot = books.keep_lot(read_lot(row))
        lots.append((row[0], lot))
    for row in await conn.fetch(queries.freezes_load, *columns):
        customers[row[0]].freezes[row[1]] = Freeze(*row[1:])
    return await _load_debts(conn, customers, lots)


async def _load_debts(
    conn: Connection, customers: dict[int, Books], lots: list[tuple[int, Lot]]
) -> set[tuple[int, int]]:
    rows = await conn.fetch(
        queries.clawback_debts_load, [no for no, _ in lots], [lot.lot_no for _, lot in lots]
    )
    paid: list[tuple[int, int]] = []
    for row in rows:
        debts = customers[row[0]].debts
        debt = debts.setdefault(row[1], Debt(*row[1:]))
        debt.payments = []
        if debt.repaid > debt.returned:
            paid.append((row[0], debt.debt_no))
    payers: set[tuple[int, int]] = set()
    if paid:
        columns = [no for no, _ in paid], [debt for _, debt in paid]
        for customer_no, debt_no, lot_no, amount in await conn.fetch(
            queries.debt_payments_load, *columns
        ):
            debt = customers[customer_no].debts[debt_no]
            debt.payments = [*(debt.payments or ()), Draw(lot_no, amount)]
            payers.add((customer_no, lot_no))
    return payers


def _read_purchase(row: Row) -> Purchase:
    return Purchase(
        purchase_no=row[1],
        terms=Terms(
            kind=row[2],
            product=row[3],
            asset=row[4],
            credits=row[5],
            currency=row[6],
            amount=row[7],
            bonus=row[8],
            quantity=row[9],
            priority=row[10],
            bonus_priority=row[11],
            effective_at=row[12],
            expires_at=row[13],
            expires_in=row[14],
            bonus_expires_in=row[15],
            invoice_id=row[16],
            line_id=row[17],
        ),
        created_at=row[18],
        status=row[19],
        captured=row[20],
        tax=row[21],
        funds=Funds(refunded=row[22], lost=row[23], disputed=row[24], fees=row[25]),
        tax_returned=row[26],
        deferred_returned=row[27],
        credited_at=row[28],
    )


async def post_purchases(conn: Connection, changed: Iterable[Books]) -> None:
    """Write what changed of purchases and freezes."""
    purchases = [(b.customer_no, p) for b in changed for p in b.changed_purchases.values()]
    freezes = [(b.customer_no, f) for b in changed for f in b.changed_freezes.values()]
    for statement, rows in (
        (queries.purchases_make, [_made(no, p) for no, p in purchases if p.is_new]),
        (
            queries.purchases_fill,
            [_made(no, p)[:18] for no, p in purchases if p.is_filled and not p.is_new],
        ),
        (
            queries.purchases_move,
            [(no, p.purchase_no, *_booked(p)) for no, p in purchases if not p.is_new],
        ),
        (
            queries.freezes_make,
            [
                (
                    *(no, f.freeze_no, f.purchase_no, f.lot_no, f.asset, f.reason, f.reference),
                    *(f.amount, f.started_at, f.created_at, *_ended(f)),
                )
                for no, f in freezes
                if f.is_new
            ],
        ),
        (
            queries.freezes_end,
            [(no, f.freeze_no, *_ended(f)) for no, f in freezes if not f.is_new],
        ),
    ):
        if rows:
            await conn.execute(statement, *zip(*rows, strict=True))


def _made(customer_no: int, purchase: Purchase) -> Sequence[Any]:
    terms = purchase.terms
    return (
        *(customer_no, purchase.purchase_no, terms.kind, terms.product, terms.asset),
        *(terms.credits, terms.currency, terms.amount, terms.bonus, terms.quantity),
        *(terms.priority, terms.bonus_priority, terms.effective_at, terms.expires_at),
        *(terms.expires_in, terms.bonus_expires_in, terms.invoice_id, terms.line_id),
        purchase.created_at,
        *_booked(purchase),
    )


def _booked(purchase: Purchase) -> Sequence[Any]:
    funds = purchase.funds
    return (
        *(purchase.status, purchase.captured, purchase.tax),
        *(funds.refunded, funds.lost, funds.disputed, funds.fees),
        *(purchase.tax_returned, purchase.deferred_returned, purchase.credited_at),
    )


def _ended(freeze: Freeze) -> Sequence[Any]:
    return freeze.ended_at, freeze.ended_created_at, freeze.ended_as


async def link(conn: Connection, object_id: str, owner: PurchaseRef) -> None:
    """An object of Stripe belongs to this purchase, for ever. Raises ForeignPurchase."""
    found: PurchaseRef | None = None
    while found is None:  # another transaction's row is seen once it has committed
        row = await conn.fetchrow(
            queries.purchase_object_link, object_id, owner.customer_no, owner.purchase_no
        )
        found = None if row is None else PurchaseRef(*row)
    if found != owner:
        raise ForeignPurchase(object_id, found)


async def find(conn: Connection, object_id: str) -> PurchaseRef | None:
    """The purchase that an object of Stripe belongs to; None: it is none of ours."""
    row = await conn.fetchrow(queries.purchase_object_find, object_id)
    return None if row is None else PurchaseRef(*row)


async def objects(conn: Connection, owner: PurchaseRef) -> list[str]:
    """Stripe's objects of a purchase, oldest first."""
    rows = await conn.fetch(queries.purchase_objects_read, owner.customer_no, owner.purchase_no)
    return [row[0] for row in rows]
