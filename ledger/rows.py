"""Rows into the objects of `state`: the columns are those of `sql/queries/books_*.sql`."""

from collections.abc import Iterable, Mapping
from typing import Any

from asyncpg import Record

from ledger.burn_down import merge
from ledger.entities import Charge, Draw, Grant, Hold, Lot
from ledger.rated import CardVersion
from ledger.requests import Cost

Row = Record | tuple[Any, ...]


def read_lot(row: Row) -> Lot:
    """A lot from a row of `lots_load`'s columns."""
    return Lot(
        *row[1:14],
        is_upcoming=row[14],
        is_rollover=row[15],
        voided_at=row[16],
        cost=None if row[17] is None else Cost(row[17], row[18]),
        deferred_amount=row[19],
        deferred_units=row[20],
        purchase_no=row[21],
        clawback_due=row[22],
        written_off=row[23],
        lapsed=row[24],
    )


def read_hold(row: Row) -> Hold:
    """A hold from a row of `holds_load`'s hold columns."""
    lots, amounts = row[9], row[10]
    pins: dict[int, int] = {}
    if lots:
        pins = dict(zip(map(int, lots.split(",")), map(int, amounts.split(",")), strict=True))
    return Hold(
        *row[1:9],
        pins=pins,
        steps=row[11],
        expires_at=row[12],
        created_at=row[13],
        ended_at=row[14],
        ended_created_at=row[15],
        reference=row[16],
        metadata=row[17],
        card=None if row[18] is None else CardVersion(row[18], row[19]),
    )


def read_charge(row: Row) -> Charge:
    """A charge from a row of `charges_load`'s charge columns; its draws come by `add_draws`."""
    return Charge(
        seq=row[1],
        asset=row[10] or "",
        draws=[],
        billed=0,
        owed=0,
        effective_at=row[2],
        created_at=row[3],
        hold_no=row[4],
        late=row[5],
        reference=row[6] if row[9] is None else row[9],
        metadata=row[7],
        reversed=row[8],
    )


def _add_draw(charge: Charge, row: Row) -> None:
    """One transfer of a charge (customer, seq, line, asset, debit, amount, lot), in line order."""
    charge.asset = row[3]
    debit, amount, lot_no = row[4], row[5], row[6]
    if debit == "owed":
        charge.owed += amount
    elif debit == "billed":
        charge.billed += amount
    else:
        charge.draws.append(Draw(lot_no, amount))


def add_draws(charges: Mapping[int, Charge], rows: Iterable[Row]) -> None:
    """The transfers of charges, by seq: what each lot gave, and what lots did not cover."""
    for row in sorted(rows, key=lambda row: row[:3]):
        if (charge := charges.get(row[1])) is not None:
            _add_draw(charge, row)
    for charge in charges.values():
        charge.draws = merge(charge.draws)


def read_grant(row: Row) -> Grant:
    """A grant from a row of `grants_load`'s first 22 columns."""
    return Grant(
        grant_no=row[1],
        asset=row[2],
        amount=row[3],
        category=row[4],
        cost=None if row[5] is None else Cost(row[5], row[6]),
        priority=row[7],
        effective_at=row[8],
        expires_at=row[9],
        interval=row[10],
        count=row[11] or 1,
        anchor=row[12],
        rollover_max=row[13],
        rollover_expires_in=row[14],
        next_start_at=row[15],
        voided_at=row[16],
        void_money=row[17],
        origin=row[18],
        has_purchase=row[19],
        journal_seq=row[20],
        created_at=row[21],
    )
