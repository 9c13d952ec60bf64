"""A customer to play with on a real database: requests by `transact`, time by the test clock."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec

from ledger import customers
from ledger.answers import Problem
from ledger.bought import Funds, Terms
from ledger.ids import parse_id
from ledger.outcome import Outcome
from ledger.requests import (
    Capture,
    Consume,
    Cost,
    CreditPurchase,
    Extend,
    FreezePurchase,
    GrantCredit,
    MovePurchase,
    Notes,
    OpenPurchase,
    Recognise,
    Recurrence,
    Request,
    Reserve,
    Reverse,
    SetOverage,
    Settle,
    VoidGrant,
    VoidHold,
)
from ledger.state import Settings
from ledger.transact import transact
from sql.pool import Connection

SCALES = {"credits": 9, "USD": 2, "points": 0}
SETTINGS = Settings(scales=SCALES, books_time_zone=UTC)
UNIT = 10**9

_names = count(1)


def render(_: Request, outcome: Outcome) -> bytes:
    """The body of an answer, nearly as the edge writes it."""
    answer = outcome.answer
    if isinstance(answer, Problem):
        return msgspec.json.encode({"code": answer.code, "detail": answer.detail, **answer.facts})
    return msgspec.json.encode(answer)


def number(public: str) -> int:
    """The number of an object in its public id."""
    parsed = parse_id(public[:3], public)
    assert parsed is not None, public
    return parsed[1]


def units(text: str) -> int:
    """A decimal string of credits in the smallest unit."""
    whole, _, rest = text.partition(".")
    sign = -1 if whole.startswith("-") else 1
    return sign * (abs(int(whole)) * UNIT + int(rest.ljust(9, "0")))


class Player:
    """One customer. Amounts are whole credits."""

    def __init__(self, conn: Connection, customer_no: int) -> None:
        self.conn, self.no = conn, customer_no
        self.keys = count(1)

    @classmethod
    async def enter(cls, conn: Connection, *, signup_due: bool = False) -> "Player":
        """A new customer on a sandbox database."""
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
        await customers.put_asset(conn, "points", 0)
        name = f"player-{next(_names)}"
        made = await customers.make(conn, [name], signup_due=signup_due)
        return cls(conn, made[name])

    async def now(self) -> datetime:
        return await customers.now(self.conn)

    async def wait(self, seconds: float) -> None:
        """Let the service's time pass; nothing is posted."""
        await customers.advance_clock(self.conn, timedelta(seconds=seconds))

    async def send(self, request: Request) -> tuple[int, Any]:
        """The status and the decoded body of one request."""
        [result] = await transact(self.conn, [request], SETTINGS, render, wait=True)
        assert result is not None
        return result.status, msgspec.json.decode(result.body)

    def common(self) -> dict[str, Any]:
        return {"customer_no": self.no, "key": f"key-{next(self.keys)}"}

    async def grant(
        self,
        amount: int,
        *,
        starts: datetime | None = None,
        ends: datetime | None = None,
        paid: bool = False,
        priority: int = 50,
        recurrence: Recurrence | None = None,
        asset: str = "credits",
    ) -> int:
        """The number of a new grant."""
        _, body = await self.send(
            GrantCredit(
                **self.common(),
                operation="grant",
                asset=asset,
                amount=amount * 10 ** SCALES[asset],
                category="paid" if paid else "promotional",
                cost=Cost(1_000, "USD") if paid else None,
                priority=priority,
                effective_at=starts,
                expires_at=ends,
                recurrence=recurrence,
                notes=Notes(bytes(16), None, "welcome", None),
            )
        )
        return number(body["id"])

    async def reserve(
        self, amount: int, *, seconds: int = 600, reference: str | None = None
    ) -> int | None:
        """The number of a new hold; None if refused."""
        status, body = await self.send(
            Reserve(
                **self.common(),
                operation="reserve",
                asset="credits",
                amount=amount * UNIT,
                expires_in=seconds,
                notes=Notes(bytes(16), reference, None, '{"a": 1}'),
            )
        )
        return number(body["id"]) if status == 201 else None

    async def capture(
        self, hold: int, amount: int | None = None, *, final: bool = True, **options: Any
    ) -> tuple[int, Any]:
        return await self.send(
            Capture(
                **self.common(),
                operation="capture",
                hold_no=hold,
                amount=None if amount is None else str(amount),
                final=final,
                **options,
            )
        )

    async def void(self, hold: int) -> tuple[int, Any]:
        return await self.send(VoidHold(**self.common(), operation="void", hold_no=hold))

    async def extend(self, hold: int, **options: Any) -> tuple[int, Any]:
        return await self.send(Extend(**self.common(), operation="extend", hold_no=hold, **options))

    async def consume(
        self,
        amount: int,
        *,
        at: datetime | None = None,
        reference: str | None = None,
        asset: str = "credits",
    ) -> int | None:
        """The number of a new charge; None if refused."""
        status, body = await self.send(
            Consume(
                **self.common(),
                operation="consume",
                asset=asset,
                amount=amount * 10 ** SCALES[asset],
                effective_at=at,
                notes=Notes(bytes(16), reference, None, None),
            )
        )
        return number(body["id"]) if status == 201 else None

    async def reverse(self, charge: int, amount: int | None = None) -> tuple[int, Any]:
        text = None if amount is None else str(amount)
        return await self.send(
            Reverse(**self.common(), operation="reverse", charge_seq=charge, amount=text)
        )

    async def void_grant(self, grant: int) -> tuple[int, Any]:
        return await self.send(VoidGrant(**self.common(), operation="void_grant", grant_no=grant))

    async def policy(self, policy: Any, limit: int | None = None) -> None:
        await self.send(
            SetOverage(
                customer_no=self.no, policy=policy, limit=None if limit is None else limit * UNIT
            )
        )

    async def open_purchase(self, **terms: Any) -> int:
        """The number of a purchase that is not paid yet: 500 credits for 10.00 USD."""
        common: dict[str, Any] = {"kind": "pack", "product": "pack@1", "asset": "credits"}
        common |= {"credits": 500 * UNIT, "currency": "USD", "amount": 1_000}
        request = OpenPurchase(customer_no=self.no, terms=Terms(**{**common, **terms}))
        _, body = await self.send(request)
        return number(body["id"])

    async def pay(self, purchase: int) -> Any:
        """The purchase, paid and credited."""
        payment: Any = {"purchase_no": purchase, "currency": "USD", "captured": 1_000}
        status, body = await self.send(CreditPurchase(customer_no=self.no, **payment))
        assert status == 200, body
        return body

    async def buy(self, **terms: Any) -> int:
        """The number of a purchase that is credited."""
        purchase = await self.open_purchase(**terms)
        await self.pay(purchase)
        return purchase

    async def told(self, purchase: int, *ends: str, **funds: int) -> Any:
        """The purchase, moved to this state of its money."""
        news: Any = {"purchase_no": purchase, "funds": Funds(**funds), "ends": ends}
        status, body = await self.send(MovePurchase(customer_no=self.no, **news))
        assert status == 200, body
        return body

    async def freeze(self, purchase: int, reference: str = "du_1") -> Any:
        """The purchase, all of it frozen that is free."""
        what: Any = {"purchase_no": purchase, "reason": "dispute", "reference": reference}
        status, body = await self.send(FreezePurchase(customer_no=self.no, **what))
        assert status == 200, body
        return body

    async def recognise(self) -> None:
        """Post the money halves of all that left paid lots."""
        while not (await self.send(Recognise(customer_no=self.no, operation="recognise")))[1][
            "is_done"
        ]:
            pass

    async def settle(self) -> None:
        """Post what time has done."""
        await self.send(Settle(customer_no=self.no))
