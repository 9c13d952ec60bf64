"""Random lives of purchases: whatever order news comes in, the last state decides.

After every decision all invariants of the books hold (`checker`). Other lots than the purchase's
are touched by its news only where debts are repaid, or repayments undone.
"""

import copy
from fractions import Fraction

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.bought import Clawback, Purchase
from ledger.entities import Lot
from ledger.freezes import lots_of
from ledger.state import Books
from tests.property import buying
from tests.property.buying import Buy, Credit, Release, Shop, Told
from tests.property.checker import check
from tests.property.sizes import tries
from tests.property.world import SETTINGS, Act, Overage, Void

LEAVES = {("wallet", "expired"), ("wallet", "granted"), ("wallet", "purchased")}

modes: st.SearchStrategy[Clawback] = st.sampled_from(["owe", "zero"])


def begin(mode: Clawback) -> Shop:
    world = Shop(settings=replace(SETTINGS, clawback=mode))
    world.do(Overage("owe", 30))
    return world


def play(world: Shop, acts: list[Act]) -> None:
    """Each act decided and checked."""
    for act in acts:
        before = len(world.books.journals)
        outcome = world.do(act)
        if outcome is None:
            continue
        assert outcome.status != 503
        if not outcome.is_replayed:
            check(world.books, world.now)
        if isinstance(act, Told) and world.purchases and outcome.status == 200:
            _check_reach(world, buying.picked(world.purchases, act.purchase), before)


def _check_reach(world: Shop, purchase_no: int, before: int) -> None:
    """Lots of other purchases and grants are touched only through the repayment of debts."""
    mine = {lot.lot_no for lot in lots_of(world.books, world.books.purchases[purchase_no])}
    for journal in world.books.journals[before:]:
        if journal.origin != "purchase":
            continue  # what time had done, and repayments
        given_back: set[int | None] = set()
        for t in journal.transfers:
            if t.lot_no in mine or t.lot_no is None:
                continue
            if (t.debit, t.credit) == ("owed", "wallet"):
                given_back.add(t.lot_no)
            else:
                assert (t.debit, t.credit) in LEAVES
                assert t.lot_no in given_back


def wanted(purchase: Purchase, lot: Lot) -> int:
    """What a lot is still worth, by the state of its purchase alone."""
    captured = purchase.captured
    gone = min(captured, purchase.funds.refunded + purchase.funds.lost)
    if captured == 0:
        return lot.amount
    return lot.amount - round(Fraction(lot.amount * gone, captured))  # half to even


def credits_by_formula(books: Books) -> int:
    """Wallet and upcoming less debts: what lots are worth, less what ran out and what was used."""
    total = 0
    for lot in books.lots.values():
        purchase = books.purchases.get(lot.purchase_no or 0)
        worth = lot.amount - lot.voided if purchase is None else wanted(purchase, lot)
        total += worth - (lot.expired - lot.lapsed) + lot.written_off
    for journal in books.journals:
        for t in journal.transfers:
            if t.credit == "burned" and t.debit in {"wallet", "owed"}:
                total -= t.amount
            elif t.debit == "burned" and t.credit in {"wallet", "owed"}:
                total += t.amount
    return total


def end_life(world: Shop) -> None:
    """No hold, no freeze."""
    play(world, [Void(place) for place in range(len(world.holds))])
    for place in range(len(world.purchases)):
        play(world, [Release(place, "refund"), Release(place, "dispute"), Release(place, "fraud")])


@given(mode=modes, acts=st.lists(buying.acts, min_size=5, max_size=30))
@tries(300, 5_000)
def test_any_life_ends_where_the_last_state_says(mode: Clawback, acts: list[Act]) -> None:
    world = begin(mode)
    play(world, [Buy(30, bonus=5), Credit(0, 1_200), Buy(20), Credit(0, 997, 167), *acts])
    end_life(world)

    books, account = world.books, world.account
    assert account.wallet + account.upcoming - account.owed == credits_by_formula(books)
    assert account.pending == 0
    for purchase in books.purchases.values():
        for lot in lots_of(books, purchase):
            assert lot.clawback_due == 0
            burned = lot.amount - lot.remaining - lot.expired - lot.voided
            excess = max(0, burned - wanted(purchase, lot))
            if mode == "zero":
                assert lot.written_off == excess
            else:
                assert lot.written_off == 0
            event(f"{mode}: spent and taken back", str(excess > 0))


def units(world: Shop) -> list[tuple[int, ...]]:
    return [
        (no, lot.remaining, lot.pinned, lot.expired, lot.voided, lot.written_off, lot.lapsed)
        for no, lot in sorted(world.books.lots.items())
    ]


def money(world: Shop) -> dict[str, int]:
    """Balances, but for how income splits into revenue still deferred and contra-revenue."""
    moved: dict[str, int] = {}
    for journal in world.books.journals:
        for t in journal.transfers:
            if t.asset == "EUR":
                for name, amount in ((t.debit, t.amount), (t.credit, -t.amount)):
                    name = "income" if name in {"refunds", "deferred_revenue"} else name
                    moved[name] = moved.get(name, 0) + amount
    return {name: amount for name, amount in moved.items() if amount}


@given(
    life=st.lists(buying.living, max_size=12),
    news=st.lists(buying.news, min_size=1, max_size=6),
    last=st.tuples(buying.news, buying.news),
)
@tries(200, 3_000)
def test_news_in_any_order_ends_as_the_last_alone(
    life: list[Act], news: list[Told], last: tuple[Told, Told]
) -> None:
    """With `zero` the very lots are the same: no repayment has shifted credit between them."""
    world = begin("zero")
    play(world, [Buy(30, bonus=5), Credit(0, 1_200), Buy(20, ends=86_400), Credit(0, 997, 167)])
    play(world, life)
    play(world, [Overage("deny")])
    straight = copy.deepcopy(world)
    final = [replace_place(one, place) for place, one in enumerate(last)]

    play(world, [*news, *final, *final])
    play(straight, [*reversed(final)])
    end_life(world)
    end_life(straight)

    if world.account.owed == straight.account.owed == 0:
        assert units(world) == units(straight)
    assert money(world) == money(straight)


def replace_place(told: Told, place: int) -> Told:
    return Told(place, told.refunded, told.lost, told.disputed, told.fees)


@given(mode=modes, life=st.lists(buying.living, max_size=10), news=st.lists(buying.news))
@tries(150, 2_000)
def test_taken_back_and_restored_with_nothing_between_changes_nothing(
    mode: Clawback, life: list[Act], news: list[Told]
) -> None:
    """A refund that failed: the same lots have the same credit, with their ends, and the money."""
    world = begin(mode)
    play(world, [Buy(30, bonus=5), Credit(0, 1_200, 200)])
    play(world, life)
    play(world, [Told(0)])
    before, accounts = units(world), (world.account.wallet, world.account.owed)
    purchase = world.books.purchases[world.purchases[0]]
    paid = lots_of(world.books, purchase)[0]
    deferred = paid.deferred_amount, paid.deferred_units

    play(world, [replace_place(one, 0) for one in news])
    play(world, [Told(0)])

    assert units(world) == before
    assert (world.account.wallet, world.account.owed) == accounts
    assert (purchase.tax_returned, purchase.deferred_returned, purchase.refunds) == (0, 0, 0)
    if not any(one.refunded or one.lost for one in news):
        assert (paid.deferred_amount, paid.deferred_units) == deferred


@pytest.mark.parametrize("mode", ["owe", "zero"])
def test_repeated_news_posts_nothing(mode: Clawback) -> None:
    world = begin(mode)
    world.buy(Buy(30, bonus=5))
    told = Told(0, refunded=4, lost=3, disputed=5, fees=30)
    play(world, [told])
    posted = len(world.books.journals)

    play(world, [told, told])

    assert len(world.books.journals) == posted
