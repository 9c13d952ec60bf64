"""Random lives of what is sold through Stripe: paid, refunded, disputed; news lost and doubled.

The service answers on a socket, the stand-in plays Stripe. In the end, whatever was told in
whatever order, each purchase is what the formula of docs/concepts/purchases.md makes of Stripe's
own state.
"""

import asyncio
from collections.abc import Coroutine, Generator
from datetime import timedelta
from fractions import Fraction
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from ledger.proofs import prove
from sql.pool import open_pool
from tests.http import Answer
from tests.property.sizes import size, tries
from tests.servers import Database
from tests.shop import Shop, shop

T = TypeVar("T")

PACKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bonus": {"credits": "333", "bonus": {"credits": "7.77"}, "price": ("9.97", "USD")},
    "odd": {"credits": "7.000000001", "price": ("101", "JPY")},
}
CARDS = (
    *("pm_card_visa", "pm_card_visa", "pm_card_pendingRefund", "pm_card_refundFail"),
    *("pm_usBankAccount_success", "pm_card_createDispute", "pm_card_chargeDeclined"),
)
SCALE = 10**9
OPEN = ("needs_response", "under_review")
TIMES_MAX = 12


class Till:
    """A shop that is used from code that is not asynchronous."""

    def __init__(self, database: Database) -> None:
        self.loop = asyncio.new_event_loop()
        self.pool = self.run(open_pool(database.dsn, size=5))
        self._shop = shop(self.pool)
        self.sale: Shop = self.run(self._shop.__aenter__())
        for key, members in PACKS.items():
            amount, currency = members.get("price", ("10.00", "USD"))
            price = {"amount": amount, "currency": currency}
            self.run(self.sale.pack(key, **{**members, "price": price}))
        self._made = 0

    def close(self) -> None:
        self.run(self._shop.__aexit__(None, None, None))
        self.run(self.pool.close())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def customer(self) -> str:
        self._made += 1
        name = f"c-{self._made}"
        self.run(self.sale.api.customer(name, overage={"policy": "owe", "limit": "50"}))
        return name

    def post(self, path: str, **body: Any) -> Answer:
        return self.run(self.sale.api.post(path, body))

    def act(self, path: str, **body: Any) -> Any:
        """Something at Stripe; None if Stripe's state doesn't allow it."""
        return self.run(self._act(path, body))

    async def _act(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {self.sale.standin.token}"}
        url = f"{self.sale.standin.url}/_sandbox/{path}"
        async with self.sale.web.post(url, json=body, headers=headers) as response:
            found = msgspec.json.decode(await response.read())
            assert response.status in (200, 400, 402), (path, found)
            return found if response.status == 200 else None

    def state(self, kind: str) -> list[Any]:
        return self.run(self.sale.state(kind))

    def later(self, by: timedelta) -> None:
        """Both clocks go on, and nobody runs a job."""
        self.run(self.sale.sleep(by))


class Selling(RuleBasedStateMachine):
    """One customer, some purchases; who chooses among them chooses by number."""

    till: ClassVar[Till]

    @initialize()
    def begin(self) -> None:
        self.till.act("webhooks", mode="deliver")
        self.till.later(timedelta(hours=1))  # the sweep does not read old examples again
        self.customer = self.till.customer()
        self.opened: list[Any] = []
        self.holds: list[str] = []
        self.sell("plain", 1, as_session=True)
        self.complete(0, "pm_card_visa")
        self.work("stripe_inbox")

    # What customers do

    @rule(pack=st.sampled_from(sorted(PACKS)), quantity=st.integers(1, 3), as_session=st.booleans())
    def sell(self, pack: str, quantity: int, as_session: bool) -> None:
        asked: dict[str, Any] = {"customer_id": self.customer, "pack": pack, "quantity": quantity}
        if as_session:
            made = self.till.post("/v1/checkout", **self.till.sale.asked(**asked))
        else:
            made = self.till.post("/v1/payment-intents", **asked)
        assert made.status == 201, made
        self.opened.append(made.body)

    @rule(which=st.integers(0, 9), card=st.sampled_from(CARDS))
    def complete(self, which: int, card: str) -> None:
        name = self.one(which)["id"]
        if name.startswith("cs_"):
            self.till.act(f"checkout/{name}/complete", payment_method=card)
        else:
            self.till.act(f"payment-intents/{name}/confirm", payment_method=card)

    @rule(which=st.integers(0, 9), outcome=st.sampled_from(["succeeded", "failed"]))
    def settle(self, which: int, outcome: str) -> None:
        if (intent := self.intent(which)) is not None:
            self.till.act(f"payment-intents/{intent}/settle", outcome=outcome)

    @rule(which=st.integers(0, 9))
    def expire(self, which: int) -> None:
        if (name := self.one(which)["id"]).startswith("cs_"):
            self.till.act(f"checkout/{name}/expire")

    @rule(amount=st.sampled_from(["1", "99.5", "400", "1000"]))
    def consume(self, amount: str) -> None:
        self.till.post("/v1/consume", customer_id=self.customer, amount=amount)

    @rule(amount=st.sampled_from(["3", "250", "700"]))
    def reserve(self, amount: str) -> None:
        made = self.till.post("/v1/reserve", customer_id=self.customer, amount=amount)
        if made.status == 201:
            self.holds.append(made.body["id"])

    @rule(which=st.integers(0, 9), captured=st.booleans())
    def end_hold(self, which: int, captured: bool) -> None:
        if self.holds:
            path = f"/v1/holds/{self.holds.pop(which % len(self.holds))}"
            body = {"amount": "2"} if captured else {}
            self.till.post(f"{path}/{'capture' if captured else 'void'}", **body)

    # What we and banks do

    @rule(
        which=st.integers(0, 9),
        amount=st.sampled_from([{}, {"amount": "3"}, {"credits": "5"}, {"amount": "101"}]),
    )
    def refund(self, which: int, amount: dict[str, str]) -> None:
        path = f"/v1/purchases/{self.one(which)['purchase_id']}/refund"
        assert self.till.post(path, **amount).status in (202, 409)

    @rule(
        which=st.integers(0, 9),
        amount=st.sampled_from([1, 50, 101, 333, None]),
        status=st.sampled_from(["succeeded", "pending", "requires_action"]),
    )
    def refund_at_stripe(self, which: int, amount: int | None, status: str) -> None:
        if (intent := self.intent(which)) is not None:
            self.till.act("refunds", payment_intent=intent, amount=amount, status=status)

    @rule(which=st.integers(0, 9), fate=st.sampled_from(["succeed", "fail", "cancel"]))
    def refund_goes_on(self, which: int, fate: str) -> None:
        mine = self.of_mine("refund")
        if mine:
            self.till.act(f"refunds/{mine[which % len(mine)]['id']}/{fate}")

    @rule(
        which=st.integers(0, 9),
        amount=st.sampled_from([None, None, 1, 50, 77]),
        inquiry=st.booleans(),
    )
    def dispute(self, which: int, amount: int | None, inquiry: bool) -> None:
        if (intent := self.intent(which)) is not None:
            self.till.act("disputes", payment_intent=intent, amount=amount, inquiry=inquiry)

    @rule(
        which=st.integers(0, 9),
        act=st.sampled_from(["win", "lose", "close_inquiry", "escalate"]),
    )
    def decide(self, which: int, act: str) -> None:
        mine = self.of_mine("dispute")
        if mine:
            self.till.act(f"disputes/{mine[which % len(mine)]['id']}/{act}")

    # What happens to news

    @rule(mode=st.sampled_from(["deliver", "hold", "shuffle", "duplicate", "drop"]))
    def deliveries(self, mode: str) -> None:
        self.till.act("webhooks", mode=mode, seed=len(self.opened))

    @rule(order=st.sampled_from(["created", "reverse", "shuffle"]))
    def release(self, order: str) -> None:
        self.till.act("webhooks/release", order=order)

    @rule(job=st.sampled_from(["stripe_inbox", "stripe_inbox", "stripe_outbox", "stripe_sweep"]))
    def work(self, job: str) -> None:
        self.run(job)

    def run(self, job: str) -> dict[str, int]:
        return self.till.run(self.till.sale.job(job))

    @rule(hours=st.sampled_from([1, 25, 100]))
    def wait(self, hours: int) -> None:
        self.till.later(timedelta(hours=hours))

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "opened"):
            return
        self.till.act("webhooks", mode="drop")
        for _ in range(TIMES_MAX):
            sent = self.run("stripe_outbox")
            found = self.run("stripe_sweep")
            applied = self.run("stripe_inbox")
            assert (applied["failed"], applied["parked"], sent["failed"]) == (0, 0, 0)
            if not (sent["sent"] or sent["parked"] or found["events"] or applied["applied"]):
                break
        self.look()
        assert self.till.run(self.prove()) == []

    async def prove(self) -> Any:
        async with self.till.pool.acquire() as conn:
            return await prove(conn)

    def look(self) -> None:
        """Every purchase is what Stripe's state makes of it."""
        refunds, disputes = self.till.state("refund"), self.till.state("dispute")
        entries, charges = self.till.state("balance_transaction"), self.till.state("charge")
        sessions = {one["id"]: one for one in self.till.state("checkout.session")}
        intents = {one["id"]: one for one in self.till.state("payment_intent")}
        for opened in self.opened:
            shown = self.till.run(self.till.sale.purchase(opened))
            session = sessions.get(opened["id"])
            name = opened["id"] if session is None else session["payment_intent"]
            intent = intents.get(str(name))
            told = (opened, session, intent, shown)
            if session is None:
                is_paid = intent is not None and intent["status"] == "succeeded"
            else:
                is_paid = session["payment_status"] == "paid"
            if not is_paid:
                assert shown["lots"] == [], told
                is_over = session is not None and (
                    session["status"] == "expired"
                    or (
                        session["status"] == "complete"
                        and intent is not None
                        and intent["status"] == "requires_payment_method"
                    )
                )
                assert shown["status"] == ("failed" if is_over else "open"), told
                continue
            assert intent is not None
            assert shown["status"] == "credited", told
            mine = [one for one in refunds if one["payment_intent"] == intent["id"]]
            fought = [one for one in disputes if one["payment_intent"] == intent["id"]]
            sources = {
                *(one["id"] for one in charges if one["payment_intent"] == intent["id"]),
                *(one["id"] for one in fought),
            }
            back = sum(one["amount"] for one in mine if one["status"] == "succeeded")
            lost = sum(one["amount"] for one in fought if one["status"] == "lost")
            taken = sum(one["amount"] for one in fought if one["status"] in OPEN)
            fees = sum(one["fee"] for one in entries if one["source"] in sources)
            unit = 1 if intent["currency"] == "jpy" else 100
            paid = intent["amount_received"]
            for member, amount in (
                *(("captured", paid), ("refunded", back), ("lost", lost)),
                *(("disputed", taken), ("fees", fees)),
            ):
                assert Fraction(shown[member]) * unit == amount, (member, amount, *told)
            waiting = [one for one in mine if one["status"] in ("pending", "requires_action")]
            self.look_at_lots(shown, paid, min(paid, back + lost), frozen=bool(taken or waiting))

    def look_at_lots(self, shown: Any, paid: int, gone: int, *, frozen: bool) -> None:
        granted = (shown["credits"], shown["bonus"])
        for lot, amount in zip(shown["lots"], granted, strict=False):
            units = {name: Fraction(lot[name]) * SCALE for name in TAKEN}
            target = round(Fraction(amount) * SCALE * gone / paid)  # to even, as it is of integers
            assert sum(units.values()) == target, (gone, paid, shown)
            assert lot["amount"] == amount
            if not frozen:
                assert lot["frozen"] == "0", shown

    # Of this example

    def one(self, which: int) -> Any:
        return self.opened[which % len(self.opened)]

    def intent(self, which: int) -> str | None:
        """Stripe's intent of a purchase; None: there is none yet."""
        name = self.one(which)["id"]
        if name.startswith("pi_"):
            return name
        [session] = [one for one in self.till.state("checkout.session") if one["id"] == name]
        return session["payment_intent"]

    def of_mine(self, kind: str) -> list[Any]:
        mine = {self.intent(number) for number in range(len(self.opened))}
        return [one for one in self.till.state(kind) if one["payment_intent"] in mine]


TAKEN = ("taken_back", "clawback_due", "clawback_owed", "written_off", "lapsed")


@pytest.fixture
def till(database: Database) -> Generator[Till]:
    made = Till(database)
    yield made
    made.close()


def test_every_life_of_a_purchase_ends_as_stripe_has_it(till: Till) -> None:
    Selling.till = till
    settings = tries(12, 400, stateful_step_count=size(25, 60))
    run_state_machine_as_test(Selling, settings=settings)
