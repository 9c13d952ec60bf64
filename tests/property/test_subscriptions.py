"""Random lives of subscriptions: paid, changed, paused, ended; news lost, doubled, out of order.

In the end each line of each paid invoice that Stripe has gave what the rules of docs/decisions/0025
make of it, once, and the customer shows what Stripe shows.
"""

from collections import defaultdict
from collections.abc import Generator
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from ledger.proofs import prove
from tests.property.sizes import IS_LONG, size, tries
from tests.property.test_money_in import SCALE, TIMES_MAX, Till
from tests.servers import Database

PLANS: dict[str, dict[str, Any]] = {
    "lite": {"price": "10.00", "credits": "101"},
    "big": {"price": "37.50", "credits": "1000.5"},
    "full": {"price": "20.00", "credits": "600", "upgrade_credits": "full"},
    "trial": {"price": "15.00", "credits": "300", "trial_days": 9, "trial_credits": "7"},
    "late": {"price": "12.00", "credits": "200", "trial_days": 3},
    "year": {"price": "100.00", "credits": "5000", "interval": "year"},
    "months": {
        **{"price": "120.00", "credits": "700", "interval": "year"},
        "credits_every": "month",
    },
}
CARDS = ("pm_card_visa", "pm_card_visa", "pm_card_chargeCustomerFail")
FINE = (200, 201, 402, 404, 409, 422)
"""A customer may ask for what does not fit."""


Given = tuple[str, Fraction, Fraction]
"""Plan, credits, money."""


class Subscribing(RuleBasedStateMachine):
    """One customer and its subscriptions."""

    till: ClassVar[Till]

    @initialize(plan=st.sampled_from(sorted(PLANS)))
    def begin(self, plan: str) -> None:
        self.till.act("webhooks", mode="deliver")
        self.till.later(timedelta(hours=1))  # the sweep does not read old examples again
        self.customer = self.till.customer()
        self.place = f"/v1/customers/{self.customer}/subscription"
        self.subscribe(plan, 1)
        self.work("stripe_inbox")

    @rule(plan=st.sampled_from(sorted(PLANS)), quantity=st.integers(1, 3))
    def subscribe(self, plan: str, quantity: int) -> None:
        asked = self.till.sale.asked_plan(plan, customer_id=self.customer, quantity=quantity)
        made = self.till.post("/v1/checkout", **asked)
        assert made.status in (201, 409), made
        if made.status == 201:
            self.till.act(f"checkout/{made.body['id']}/complete", payment_method="pm_card_visa")

    @rule(
        plan=st.sampled_from(sorted(PLANS)),
        quantity=st.sampled_from([None, 1, 2, 5]),
        when=st.sampled_from(["now", "now", "period_end"]),
        proration=st.sampled_from(["invoice_now", "invoice_now", "next_invoice", "none"]),
    )
    def change(self, plan: str, quantity: int | None, when: str, proration: str) -> None:
        seats = {} if quantity is None else {"quantity": quantity}
        self.ask("change", plan=plan, when=when, proration=proration, **seats)

    @rule(when=st.sampled_from(["now", "period_end", "period_end"]))
    def cancel(self, when: str) -> None:
        self.ask("cancel", when=when)

    @rule()
    def resume(self) -> None:
        self.ask("resume")

    @rule()
    def pause(self) -> None:
        self.ask("pause")

    def ask(self, what: str, **body: Any) -> None:
        answer = self.till.post(f"{self.place}/{what}", **body)
        assert answer.status in FINE, answer

    @rule(card=st.sampled_from(CARDS))
    def other_card(self, card: str) -> None:
        if (owner := self.at_stripe()) is not None:
            self.till.act(f"customers/{owner}/payment-method", payment_method=card)

    @rule(which=st.integers(0, 9), amount=st.sampled_from([None, 1, 333]))
    def refund_at_stripe(self, which: int, amount: int | None) -> None:
        paid = [
            one["id"]
            for one in self.till.state("payment_intent")
            if one["customer"] == self.at_stripe() and one["status"] == "succeeded"
        ]
        if paid:
            self.till.act("refunds", payment_intent=paid[which % len(paid)], amount=amount)

    @rule(amount=st.sampled_from(["1", "99.5", "400"]))
    def consume(self, amount: str) -> None:
        self.till.post("/v1/consume", customer_id=self.customer, amount=amount)

    @rule(mode=st.sampled_from(["deliver", "hold", "shuffle", "duplicate", "drop"]))
    def deliveries(self, mode: str) -> None:
        self.till.act("webhooks", mode=mode, seed=7)

    @rule(order=st.sampled_from(["created", "reverse", "shuffle"]))
    def release(self, order: str) -> None:
        self.till.act("webhooks/release", order=order)

    @rule(job=st.sampled_from(["stripe_inbox", "stripe_inbox", "stripe_sweep"]))
    def work(self, job: str) -> None:
        self.till.run(self.till.sale.job(job))

    @rule(days=st.sampled_from([1, 4, 10, 25]))
    def wait(self, days: int) -> None:
        self.till.later(timedelta(days=days))
        self.work("stripe_sweep")  # Stripe's list goes back for 30 days

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "place"):
            return
        self.till.act("webhooks", mode="drop")
        self.till.later(timedelta(hours=2))  # what was renewed is invoiced
        for _ in range(TIMES_MAX):
            found = self.till.run(self.till.sale.job("stripe_sweep"))
            applied = self.till.run(self.till.sale.job("stripe_inbox"))
            assert (applied["failed"], applied["parked"]) == (0, 0)
            if not (found["events"] or applied["applied"]):
                break
        self.look_at_status()
        self.look_at_credits()
        assert self.till.run(self.prove()) == []

    async def prove(self) -> Any:
        async with self.till.pool.acquire() as conn:
            return await prove(conn)

    def get(self, path: str) -> Any:
        answer = self.till.run(self.till.sale.api.get(path))
        assert answer.status == 200, answer
        return answer.body

    def at_stripe(self) -> str | None:
        return self.get(f"/v1/customers/{self.customer}")["stripe_customer_id"]

    def mine(self, kind: str) -> list[Any]:
        return [one for one in self.till.state(kind) if one["customer"] == self.at_stripe()]

    def look_at_status(self) -> None:
        shown = self.get(f"/v1/customers/{self.customer}/subscriptions?limit=100")["data"]
        theirs = {one["id"]: one for one in self.mine("subscription")}
        assert {one["id"]: one["status"] for one in shown} == {
            name: one["status"] for name, one in theirs.items()
        }
        for one in shown:
            item = theirs[one["id"]]["items"]["data"][0]
            assert one["quantity"] == item["quantity"]
            assert _seconds(one["period_end"]) == item["current_period_end"]
        live = [one for one in shown if one["status"] not in ("canceled", "incomplete_expired")]
        assert [one["duplicate"] for one in live] == [number > 0 for number in range(len(live))]

    def look_at_credits(self) -> None:
        """Each purchase is a line (or a change) of a paid invoice, and each of those is one.

        Of what is given month by month the sum is looked at.
        """
        given = [
            (
                one["product"].partition("@")[0],
                Fraction(one["credits"]) * SCALE,
                Fraction(one["captured"]) * 100,
            )
            for one in self.purchases()
            if one["status"] == "credited"
        ]
        prices = {one["id"]: one for one in self.till.state("price")}
        lines = [line for one in self.mine("invoice") for line in one["lines"]["data"]]
        expected: list[Given] = []
        for invoice in self.mine("invoice"):
            if invoice["status"] == "paid":
                expected += self.expected(invoice, prices, lines)
        assert _counted(given) == _counted(expected), (given, expected)
        money = sum(one[2] for one in given)
        assert money <= sum(one["amount_paid"] for one in self.mine("invoice"))
        assert money == sum(one[2] for one in expected)

    def purchases(self) -> list[Any]:
        place = f"/v1/purchases?customer_id={self.customer}&limit=100"
        page = self.get(place)
        found = list(page["data"])
        while page["has_more"]:
            page = self.get(f"{place}&cursor={page['next_cursor']}")
            found += page["data"]
        return found

    def expected(self, invoice: Any, prices: dict[str, Any], lines: list[Any]) -> list[Given]:
        """What an invoice gives, by the words of the rules."""
        subs = {one["id"]: one for one in self.mine("subscription")}
        changes: dict[tuple[int, int], list[Any]] = defaultdict(list)
        made: list[tuple[Fraction, Any]] = []
        for line in invoice["lines"]["data"]:
            details = line["parent"]["subscription_item_details"]
            period = line["period"]["start"], line["period"]["end"]
            if details["proration"]:
                changes[period].append(line)
                continue
            plan = PLANS[_plan(prices, line)]
            sub = subs[details["subscription"]]
            in_trial = sub["trial_start"] is not None and line["amount"] == 0
            credits = Fraction(plan.get("trial_credits", "0")) if in_trial else _whole(plan)
            made.append((credits * SCALE * line["quantity"], [line]))
        for (start, end), group in changes.items():
            new = [one for one in group if one["amount"] > 0]
            if not new:
                continue
            more = sum(
                _whole(PLANS[_plan(prices, one)])
                * one["quantity"]
                * (1 if one["amount"] > 0 else -1)
                for one in group
            )
            [began] = {
                one["period"]["start"]
                for one in lines
                if one["period"]["end"] == end
                and not one["parent"]["subscription_item_details"]["proration"]
            }
            share = Fraction(end - start, end - began)
            made.append((Fraction(round(max(Fraction(0), more) * SCALE * share)), new))
        return [
            (_plan(prices, which[-1]), credits, Fraction(_paid(invoice, which)))
            for credits, which in made
            if credits > 0
        ]


def _whole(plan: dict[str, Any]) -> Fraction:
    """The credits of a whole period."""
    return Fraction(plan["credits"]) * (12 if "credits_every" in plan else 1)


def _counted(given: list[Given]) -> list[tuple[str, Fraction]]:
    by_month = [one for one in given if one[0] == "months"]
    whole = [(plan, credits) for plan, credits, _ in given if plan != "months"]
    return sorted([*whole, ("months", sum((one[1] for one in by_month), Fraction(0)))])


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _plan(prices: dict[str, Any], line: Any) -> str:
    price = prices[line["pricing"]["price_details"]["price"]]
    return price["nickname"].partition("@")[0]


def _paid(invoice: Any, which: list[Any]) -> int:
    """What was paid for lines: the invoice's money, shared in order by what each costs."""
    total = sum(max(0, one["amount"]) for one in invoice["lines"]["data"])
    paid = min(total, invoice["amount_paid"])
    names = {one["id"] for one in which}
    reached = money = 0
    for one in invoice["lines"]["data"]:
        before = paid * reached // total if total else 0
        reached += max(0, one["amount"])
        if one["id"] in names:
            money += (paid * reached // total if total else 0) - before
    return money


@pytest.fixture
def till(database: Database) -> Generator[Till]:
    made = Till(database)
    for key, members in PLANS.items():
        price = {"amount": members["price"], "currency": "USD"}
        made.run(made.sale.plan(key, **{**members, "price": price}))
    yield made
    made.close()


def test_every_life_of_a_subscription_gives_what_its_invoices_say(till: Till) -> None:
    Subscribing.till = till
    # The same lives each time; `--long` looks for others.
    settings = tries(10, 200, stateful_step_count=size(20, 40), derandomize=not IS_LONG)
    run_state_machine_as_test(Subscribing, settings=settings)
