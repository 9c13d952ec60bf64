"""Holds: reserve, capture, void, extend. Pure."""

from datetime import datetime, timedelta
from typing import Final

from ledger.amounts import AMOUNT_MAX, AmountError, format_amount, parse_amount
from ledger.answers import hold_answer
from ledger.burn_down import plan, present
from ledger.clawback import overtake
from ledger.entities import Charge, Hold, HoldCharge, HoldStep
from ledger.outcome import Outcome, refuse
from ledger.overage import fits, hold_uncovered, insufficient, limit_left, policy_for
from ledger.priced import price, settle_lines
from ledger.rated import Priced, Usage
from ledger.requests import Capture, Extend, Reserve, VoidHold
from ledger.settle import account_of, end_hold, pinned_lots, release_uncovered
from ledger.state import Account, Books, Settings
from ledger.usage import (
    ChargeWriter,
    ask,
    check_effective_at,
    refuse_closed,
    repay,
    source_at,
)

CHARGES_SHOWN: Final = 20


def reserve(books: Books, request: Reserve, settings: Settings, now: datetime) -> Outcome:
    """Set `amount`, or what usage may come to, aside: available first, then the policy, or 402."""
    asked = ask(books, request, settings, now, is_final=False)
    if isinstance(asked, Outcome):
        return asked
    asset, requested, priced = asked
    account = account_of(books, settings, asset)
    available = account.available
    left = limit_left(books, account)
    amount = requested
    if not fits(left, amount - available):
        least = request.minimum if request.minimum is not None else amount
        amount = min(amount, available + (left or 0))
        if amount < least:
            return insufficient(books, account, required=least, available=available, left=left)
    pinned = min(amount, available)
    policy = policy_for(books, asset) if amount > pinned else None
    lifetime = min(timedelta(seconds=request.expires_in), settings.hold_lifetime_max)
    notes = request.notes
    hold = Hold(
        hold_no=books.take_no(),
        asset=asset,
        status="open",
        requested=requested,
        amount=amount,
        captured=0,
        uncovered=amount - pinned,
        policy=policy,
        pins={},
        expires_at=now + lifetime,
        created_at=books.moment(now),
        reference=notes.reference if notes else None,
        metadata=notes.metadata if notes else None,
        card=None if priced is None else priced.card,
        is_new=True,
    )
    _pin(books, account, hold, pinned)
    hold_uncovered(account, policy, hold.uncovered)
    books.holds[hold.hold_no] = hold
    books.change_hold(hold)
    books.due(hold.expires_at)
    return Outcome(201, hold_answer(books, hold, account.scale, account=account))


def _pin(books: Books, account: Account, hold: Hold, amount: int) -> None:
    """Pin `amount` of available credit for a hold, in burn order."""
    taken, _ = plan(present(books, account.asset, amount), amount)
    for lot, part, _expired in taken:
        lot.pinned += part
        hold.pins[lot.lot_no] = hold.pins.get(lot.lot_no, 0) + part
        books.change_lot(lot)
    account.pending += amount


def _refuse_ended(hold: Hold, scale: int) -> Outcome:
    """Each wrong order has its own error."""
    words = {
        "captured": "This hold was captured. Make a new hold, or read its charges.",
        "voided": "This hold was voided: nothing can be taken from it.",
        "expired": "This hold's deadline has passed and its credit was returned. A capture with "
        "above_hold=take can still take what was used from available credit, once.",
    }
    code = "hold_expired" if hold.status == "expired" else f"hold_already_{hold.status}"
    return refuse(
        409,
        code,
        words[hold.status],
        hold_status=hold.status,
        amount=format_amount(hold.amount, scale),
        captured=format_amount(hold.captured, scale),
        remaining="0",
        expires_at=hold.expires_at,
    )


def _find(books: Books, hold_no: int) -> Hold | None:
    """A hold by number. One made in this very batch is not there yet: nobody can know its id."""
    hold = books.holds.get(hold_no)
    return None if hold is None or hold.is_new else hold


def _not_found() -> Outcome:
    return refuse(404, "hold_not_found", "No such hold.")


def void(books: Books, request: VoidHold, settings: Settings, now: datetime) -> Outcome:
    """End a hold with nothing more taken."""
    hold = _find(books, request.hold_no)
    if hold is None:
        return _not_found()
    if hold.status != "open":
        return _refuse_ended(hold, settings.scales[hold.asset])
    account = account_of(books, settings, hold.asset)
    end_hold(books, settings, hold, "voided", now, now)
    repay(books, settings, now)
    return Outcome(200, hold_answer(books, hold, account.scale, account=account))


def extend(books: Books, request: Extend, settings: Settings, now: datetime) -> Outcome:
    """Move a hold's deadline, never back and at most to its lifetime; `add` to its amount."""
    hold = _find(books, request.hold_no)
    if hold is None:
        return _not_found()
    if hold.status != "open":
        return _refuse_ended(hold, settings.scales[hold.asset])
    account = account_of(books, settings, hold.asset)
    if request.add is not None or request.add_usage is not None:
        if (closed := refuse_closed(books)) is not None:
            return closed
        wanted = _wanted(books, settings, hold, request.add, request.add_usage, now, "/add")
        if isinstance(wanted, Outcome):
            return wanted
        amount, priced = wanted
        if hold.amount + amount > AMOUNT_MAX:
            return _too_much(account, "/add")
        if (refused := _add(books, account, hold, amount, now)) is not None:
            return refused
        if priced is not None and hold.card is None:
            hold.card, hold.is_card_new = priced.card, True
    if request.expires_in is not None:
        latest = hold.created_at + settings.hold_lifetime_max
        wanted = min(now + timedelta(seconds=request.expires_in), latest)
        hold.expires_at = max(hold.expires_at, wanted)
    books.change_hold(hold)
    books.is_changed = True
    return Outcome(200, hold_answer(books, hold, account.scale, account=account))


def _wanted(
    books: Books,
    settings: Settings,
    hold: Hold,
    amount: str | None,
    usage: Usage | None,
    at: datetime,
    pointer: str,
    *,
    is_final: bool = False,
) -> tuple[int, Priced | None] | Outcome:
    """How much of the hold's asset an amount or usage is, by the hold's rate card if it has one."""
    if usage is not None:
        priced = price(
            books, settings, usage, at=at, is_final=is_final, card=hold.card, asset=hold.asset
        )
        return priced if isinstance(priced, Outcome) else (priced.amount, priced)
    if amount is None:
        return hold.pinned + hold.uncovered, None
    try:
        return parse_amount(amount, settings.scales[hold.asset]), None
    except AmountError as error:
        name = f"{pointer}/amount"[1:].replace("/", ".")
        return refuse(422, error.code, f"{name} {error}", pointer=f"{pointer}/amount")


def _too_much(account: Account, pointer: str) -> Outcome:
    limit = format_amount(AMOUNT_MAX, account.scale)
    return refuse(
        422,
        "amount_out_of_range",
        f"With this a hold would come to more than the limit of {limit}.",
        pointer=pointer,
    )


def _add(books: Books, account: Account, hold: Hold, amount: int, now: datetime) -> Outcome | None:
    """Add to an open hold; a refusal leaves it as it was."""
    pinned = min(amount, account.available)
    uncovered = amount - pinned
    left = limit_left(books, account)
    policy = policy_for(books, hold.asset)
    if uncovered and hold.uncovered and hold.policy != policy:
        return insufficient(
            books,
            account,
            required=amount,
            available=account.available,
            left=0,
            reason="policy_changed",
        )
    if not fits(left, uncovered):
        return insufficient(books, account, required=amount, available=account.available, left=left)
    _remember_step(books, hold, now)
    _pin(books, account, hold, pinned)
    if uncovered:
        hold.policy = policy
        hold.uncovered += uncovered
        hold_uncovered(account, policy, uncovered)
    hold.amount += amount
    return None


def _remember_step(books: Books, hold: Hold, now: datetime) -> None:
    """Keep what the hold had pinned before a change that leaves it open."""
    hold.steps += 1
    books.steps.append(HoldStep(hold.hold_no, hold.steps, books.moment(now), hold.pinned))


def capture(books: Books, request: Capture, settings: Settings, now: datetime) -> Outcome:
    """Turn all or part of a hold into a charge."""
    hold = _find(books, request.hold_no)
    if hold is None:
        return _not_found()
    if (wrong := check_effective_at(request.effective_at, now)) is not None:
        return wrong
    account = account_of(books, settings, hold.asset)
    at = request.effective_at or now
    wanted = _wanted(books, settings, hold, request.amount, request.usage, at, "", is_final=True)
    if isinstance(wanted, Outcome):
        return wanted
    amount, priced = wanted
    if hold.captured + amount > AMOUNT_MAX:
        return _too_much(account, "/amount")
    if hold.status == "open":
        return _capture_open(books, request, settings, hold, account, amount, priced, now)
    if hold.status == "expired" and request.above_hold == "take" and (amount > 0 or priced):
        return _capture_late(books, request, settings, hold, account, amount, priced, now)
    return _refuse_ended(hold, settings.scales[hold.asset])


def _capture_open(
    books: Books,
    request: Capture,
    settings: Settings,
    hold: Hold,
    account: Account,
    amount: int,
    priced: Priced | None,
    now: datetime,
) -> Outcome:
    remaining = hold.remaining
    if amount > remaining and request.above_hold == "deny":
        return refuse(
            409,
            "capture_exceeds_hold",
            f"The hold has {format_amount(remaining, account.scale)} left. Capture at most that, "
            "or send above_hold=take to take the excess from available credit.",
            remaining=format_amount(remaining, account.scale),
        )
    if amount == 0 and priced is None:
        end_hold(books, settings, hold, "captured", now, now)
        repay(books, settings, now)
        return Outcome(200, hold_answer(books, hold, account.scale, account=account))
    from_pins = min(amount, hold.pinned)
    from_uncovered = min(amount - from_pins, hold.uncovered)
    excess = amount - from_pins - from_uncovered
    # The uncovered part first takes what is available now; only the rest is the policy's.
    covered = min(from_uncovered, account.available)
    promised = from_uncovered - covered
    over = 0
    if excess:
        refused, over = _refuse_excess(
            books, request, account, hold, covered, promised, excess, now
        )
        if refused is not None:
            return refused
    if priced is not None:
        priced = settle_lines(books, settings, priced, now)
    writer = _writer(books, request, settings, account, hold, now)
    before = dict(hold.pins)
    if not request.final:
        _remember_step(books, hold, now)
    _burn_pins(books, account, hold, writer, from_pins)
    writer.draw(present(books, hold.asset, covered), covered)
    writer.cover(hold.policy, promised)
    release_uncovered(account, hold, from_uncovered)
    hold.uncovered -= from_uncovered
    if excess:
        taken = excess - over
        writer.draw(source_at(books, account, taken, request.effective_at, now), taken)
        writer.cover(policy_for(books, hold.asset), over)
    hold.captured += amount
    books.change_hold(hold)
    if request.final:
        end_hold(books, settings, hold, "captured", now, now, writer.journal)
        hold.pins = before  # what it had pinned just before its end
    return _finish_capture(books, request, settings, account, hold, writer, priced, now)


def _refuse_excess(
    books: Books,
    request: Capture,
    account: Account,
    hold: Hold,
    covered: int,
    promised: int,
    excess: int,
    now: datetime,
) -> tuple[Outcome | None, int]:
    """Whether available credit and the policy of the moment cover an excess; else the 402.

    Returns the refusal, or how much of the excess the policy has to cover.
    """
    if request.effective_at is None or request.effective_at == now:
        available = account.available - covered
    else:
        source = source_at(books, account, excess, request.effective_at, now)
        available = source.available - _present_in_past(books, account, hold, request, covered)
    over = max(0, excess - available)
    same = policy_for(books, hold.asset) == hold.policy
    left = limit_left(
        books,
        account,
        used=promised if same else 0,
        released=hold.uncovered if same else 0,
    )
    if fits(left, over):
        return None, over
    return insufficient(books, account, required=excess, available=available, left=left), over


def _present_in_past(
    books: Books, account: Account, hold: Hold, request: Capture, covered: int
) -> int:
    """What the uncovered part, drawn first and from now's lots, takes from the lots of the past."""
    if covered == 0 or request.effective_at is None:
        return 0
    at = request.effective_at
    taken, _ = plan(present(books, hold.asset, covered), covered)
    return sum(part for lot, part, _ in taken if lot.effective_at <= at and not lot.ended_by(at))


def _burn_pins(
    books: Books, account: Account, hold: Hold, writer: ChargeWriter, amount: int
) -> None:
    for lot in pinned_lots(books, hold):
        part = min(amount, hold.pins[lot.lot_no])
        if part == 0:
            continue
        amount -= part
        lot.pinned -= part
        account.pending -= part
        if part == hold.pins[lot.lot_no]:
            del hold.pins[lot.lot_no]
        else:
            hold.pins[lot.lot_no] -= part
        writer.burn(lot, part)


def _capture_late(
    books: Books,
    request: Capture,
    settings: Settings,
    hold: Hold,
    account: Account,
    amount: int,
    priced: Priced | None,
    now: datetime,
) -> Outcome:
    """After the deadline, once: all of it from available credit, then by the policy."""
    source = source_at(books, account, amount, request.effective_at, now)
    over = max(0, amount - source.available)
    left = limit_left(books, account)
    if not fits(left, over):
        return insufficient(books, account, required=amount, available=source.available, left=left)
    if priced is not None:
        priced = settle_lines(books, settings, priced, now)
    writer = _writer(books, request, settings, account, hold, now)
    writer.draw(source, amount - over)
    writer.cover(policy_for(books, hold.asset), over)
    hold.captured += amount
    hold.status = "captured"
    books.change_hold(hold)
    return _finish_capture(books, request, settings, account, hold, writer, priced, now, late=True)


def _writer(
    books: Books,
    request: Capture,
    settings: Settings,
    account: Account,
    hold: Hold,
    now: datetime,
) -> ChargeWriter:
    writer = ChargeWriter(books, settings, account, request.effective_at or now, now)
    writer.journal.hold_no = hold.hold_no
    writer.journal.request_key = request.key
    writer.journal.notes = request.notes
    return writer


def _finish_capture(
    books: Books,
    request: Capture,
    settings: Settings,
    account: Account,
    hold: Hold,
    writer: ChargeWriter,
    priced: Priced | None,
    now: datetime,
    *,
    late: bool = False,
) -> Outcome:
    charge: Charge = writer.finish(priced, late=late)
    charge.reference = hold.reference
    charge.metadata = request.notes.metadata if request.notes else None
    line = HoldCharge(charge.seq, charge.amount, charge.created_at)
    hold.charges = [line, *(hold.charges or [])][:CHARGES_SHOWN]
    overtake(books, settings, (books.lots[draw.lot_no] for draw in charge.draws), now)
    repay(books, settings, now)
    return Outcome(200, hold_answer(books, hold, account.scale, account=account, charge=charge))
