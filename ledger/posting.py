"""Posting: from a decision to a numbered, chained journal. Pure; `post` writes what this makes.

The chain is SHA-256 over the previous hash and the canonical bytes below. They are text, one header
line and one line per transfer, so that another program can prove a chain from an export.
"""

import hashlib
from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec

from ledger.requests import Notes
from ledger.state import MICROSECOND, Account, Books, Journal, MoneyMoves, Settings, Transfer

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
CANONICAL_VERSION: Final = "v1"


def epoch_us(at: datetime) -> int:
    """Microseconds since 1970, exact."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def notes_digest(notes: Notes) -> bytes:
    """The salted digest by which free text enters the chain: erasing it leaves the chain whole."""
    text = msgspec.json.encode([notes.reference, notes.reason, notes.metadata])
    return hashlib.sha256(notes.salt + text).digest()


def canonical(customer_no: int, journal: Journal) -> bytes:
    """What a journal's hash covers, besides the previous hash.

    Header: version|customer|seq|kind|effective µs|created µs|book date|late for|hold|grant|lot|
    charge|debt|late flag|origin|notes digest|key, then asset|debit|credit|amount|lot|debt a line.
    Absent = empty. The key is printable ASCII and stands last, so no field can pose as another.
    """
    digest = journal.notes_digest.hex() if journal.notes_digest else ""
    # Numbers count from 1, so nothing that is there is dropped by `or`.
    head = (
        f"{CANONICAL_VERSION}|{customer_no}|{journal.seq}|{journal.kind}"
        f"|{epoch_us(journal.effective_at)}|{epoch_us(journal.created_at)}"
        f"|{journal.book_date}|{journal.late_for or ''}"
        f"|{journal.hold_no or ''}|{journal.grant_no or ''}|{journal.lot_no or ''}"
        f"|{journal.charge_seq or ''}|{journal.debt_no or ''}"
        f"|{'t' if journal.is_late else 'f'}|{journal.origin}|{digest}|{journal.request_key or ''}"
    )
    lines = [
        f"{t.asset}|{t.debit}|{t.credit}|{t.amount}|{t.lot_no or ''}|{t.debt_no or ''}"
        for t in journal.transfers
    ]
    return "\n".join((head, *lines)).encode()


def chain_hash(prev_hash: bytes, canonical_bytes: bytes) -> bytes:
    return hashlib.sha256(prev_hash + canonical_bytes).digest()


def book_day(effective_at: datetime, settings: Settings) -> tuple[date, str | None]:
    """The accounting day of a fact, and the closed month it came late for, if it did."""
    zone = settings.books_time_zone
    day = (effective_at if zone is UTC else effective_at.astimezone(zone)).date()
    if settings.closed_through is None or day > settings.closed_through:
        return day, None
    return settings.closed_through + timedelta(days=1), f"{day:%Y-%m}"


def begin(
    books: Books,
    settings: Settings,
    kind: str,
    *,
    effective_at: datetime,
    now: datetime,
    origin: str = "api",
) -> Journal:
    """Start a journal; `finish` numbers, chains and keeps it if it moves anything."""
    created_at = now
    if books.last_created_at is not None and created_at <= books.last_created_at:
        created_at = books.last_created_at + MICROSECOND
    day, late_for = book_day(effective_at, settings)
    return Journal(
        seq=books.last_seq + 1,
        kind=kind,
        effective_at=effective_at,
        created_at=created_at,
        book_date=day,
        late_for=late_for,
        origin=origin,
        transfers=[],
    )


def move(
    books: Books,
    journal: Journal,
    account: Account,
    debit: str,
    credit: str,
    amount: int,
    *,
    lot_no: int | None = None,
    debt_no: int | None = None,
) -> None:
    """Add a transfer of credits to the journal and move the two counters; nothing for amount 0."""
    if amount == 0:
        return
    journal.transfers.append(Transfer(account.asset, debit, credit, amount, lot_no, debt_no))
    account.debits[debit] = account.debits.get(debit, 0) + amount
    account.credits[credit] = account.credits.get(credit, 0) + amount
    _shift(account, debit, -amount)
    _shift(account, credit, amount)
    books.is_changed = True


def _shift(account: Account, name: str, credited: int) -> None:
    if name == "wallet":
        account.wallet += credited
    elif name == "upcoming":
        account.upcoming += credited
    elif name == "owed":
        account.owed -= credited
    elif name == "billed":
        account.billed -= credited


def move_money(
    books: Books, journal: Journal, currency: str, debit: str, credit: str, amount: int
) -> None:
    """Add a transfer of money (its currency's smallest unit); nothing for amount 0."""
    if amount == 0:
        return
    journal.transfers.append(Transfer(currency, debit, credit, amount))
    moves = books.money.setdefault(currency, MoneyMoves())
    moves.debits[debit] = moves.debits.get(debit, 0) + amount
    moves.credits[credit] = moves.credits.get(credit, 0) + amount


def finish(books: Books, journal: Journal, *, is_fact: bool = False) -> bool:
    """Number, chain and keep the journal. What moves nothing is no journal: False.

    Unless it `is_fact` all the same: usage that was charged at a price of 0.
    """
    if not (journal.transfers or is_fact):
        return False
    if journal.notes is not None:
        journal.notes_digest = notes_digest(journal.notes)
    journal.prev_hash = books.last_hash
    journal.hash = chain_hash(books.last_hash, canonical(books.customer_no, journal))
    books.last_seq = journal.seq
    books.last_hash = journal.hash
    if books.last_created_at is None or journal.created_at > books.last_created_at:
        books.last_created_at = journal.created_at
    books.journals.append(journal)
    books.is_changed = True
    return True
