"""Credit that returns to a lot (a hold ends, a charge is undone, a refund failed). Pure."""

from ledger.chart import ISSUED_BY
from ledger.entities import Lot
from ledger.posting import move
from ledger.state import Account, Books, Journal


def give_back(
    books: Books, journal: Journal, account: Account, lot: Lot, amount: int, *, ended: bool
) -> None:
    """Credit is back in a lot (in the wallet already) and meets its state.

    First what the lot still owes to a clawback, then what a voided or an ended lot lets go.
    """
    if lot.clawback_due or lot.written_off:
        amount -= _take_back(books, journal, account, lot, amount)
    left = lot.voided_at is not None or ended
    if lot.voided_at is not None:
        issued = ISSUED_BY[lot.category]
        move(books, journal, account, "wallet", issued, amount, lot_no=lot.lot_no)
        lot.remaining -= amount
        lot.voided += amount
    elif ended:
        move(books, journal, account, "wallet", "expired", amount, lot_no=lot.lot_no)
        lot.remaining -= amount
        lot.expired += amount
    else:
        books.offer(lot)
        books.due(lot.expires_at)  # an emptied lot was not due to end
    books.change_lot(lot, reshaped=left)


def _take_back(books: Books, journal: Journal, account: Account, lot: Lot, amount: int) -> int:
    """What a clawback could not take before is taken of what returns now. How much that was."""
    due = min(amount, lot.clawback_due)
    forgiven = min(amount - due, lot.written_off)
    lot.clawback_due -= due
    lot.written_off -= forgiven
    taken = due + forgiven
    move(books, journal, account, "wallet", ISSUED_BY[lot.category], taken, lot_no=lot.lot_no)
    lot.remaining -= taken
    lot.voided += taken
    books.change_lot(lot, reshaped=True)
    return taken
