"""Calls to Stripe. The only module that makes them.

Stripe's library retries what was cut off or refused for a moment, twice and under the same key.
What is left becomes a StripeFault that says whether it may have been done.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, Literal, cast

import msgspec
import stripe
import structlog

from jobs.stripe_card_calls import CardCalls
from jobs.stripe_pace import LIVE_RATE, TEST_RATE, Pace, TooSoon
from jobs.stripe_plan_calls import PlanCalls
from jobs.stripe_shapes import (
    dispute_state,
    invoice_of,
    is_open_warning,
    payment_of,
    refund_state,
)
from jobs.stripe_usage_calls import UsageCalls
from meter.stripe_port import (
    FaultKind,
    InvoicePage,
    Kind,
    Made,
    News,
    Payment,
    StripeConfig,
    StripeFault,
)

SECONDS_MAX: Final = 10.0
"""For one attempt."""
RETRIES: Final = 2
PAGE: Final = 100
LOOKED_MAX: Final = 10_000
"""Objects looked through for one that may have been made."""
OWNERS: Final[Mapping[Kind, str]] = {
    "session": "customer",
    "intent": "customer",
    "setup": "customer",
    "price": "product",
    "refund": "payment_intent",
    "invoice_item": "customer",
}
"""The parameter that a kind is listed by."""
INTENT_EXPAND: Final = ("latest_charge.balance_transaction",)
FAULTS: Final[tuple[tuple[type[stripe.StripeError], FaultKind], ...]] = (
    (stripe.CardError, "declined"),
    (stripe.RateLimitError, "limited"),
    (stripe.AuthenticationError, "unauthorized"),
    (stripe.PermissionError, "unauthorized"),
    (stripe.IdempotencyError, "refused"),
    (stripe.InvalidRequestError, "refused"),
)

log = structlog.get_logger()

# It logs request bodies' addresses and retries at a level that is ours to choose.
logging.getLogger("stripe").setLevel(logging.WARNING)
stripe.enable_telemetry = False


class Paced(stripe.AIOHTTPClient):
    """The way to Stripe, at our pace: every try of every call takes a turn."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(timeout=SECONDS_MAX)  # pyright: ignore[reportUnknownMemberType]
        self._pace = pace

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """See the library. Raises RateLimitError where the turn would come too late."""
        try:
            async with self._pace.turn():
                answer = await super().request_async(  # pyright: ignore[reportUnknownMemberType]
                    method, url, headers, post_data
                )
        except TooSoon:
            raise stripe.RateLimitError("Stripe was asked too often: ask again.") from None
        self._pace.answered(answer[1], answer[2], monotonic())
        return answer


class Gateway(PlanCalls, CardCalls, UsageCalls):
    """The calls of `StripePort`, with one account's key."""

    def __init__(self, config: StripeConfig) -> None:
        base = config.api_base
        bases = ("api", "files", "connect", "meter_events")
        options: dict[str, Any] = {}
        if base is not None:
            options["base_addresses"] = dict.fromkeys(bases, base)
        self.is_accepted: bool | None = None
        is_fast = config.is_live or base is not None  # a stand-in has no limit
        self._http = Paced(Pace(LIVE_RATE if is_fast else TEST_RATE))
        client = stripe.StripeClient(
            config.secret_key, http_client=self._http, max_network_retries=RETRIES, **options
        )
        self._v1, self._v2 = client.v1, client.v2
        v1 = self._v1
        self._services: dict[Kind, Any] = {
            "customer": v1.customers,
            "product": v1.products,
            "price": v1.prices,
            "session": v1.checkout.sessions,
            "intent": v1.payment_intents,
            "refund": v1.refunds,
            "setup": v1.setup_intents,
            "portal": v1.billing_portal.configurations,
            "invoice_item": v1.invoice_items,
        }

    async def close(self) -> None:
        """Leave the connections."""
        await self._http.close_async()

    async def make(self, kind: Kind, params: Mapping[str, Any], key: str) -> Made:
        """See `StripePort`."""
        if kind == "action":
            return await self.act(params, key)
        try:
            async with self._faults():
                service = self._services[kind]
                made = await service.create_async(dict(params), {"idempotency_key": key})
        except StripeFault as fault:
            # Its id is ours to choose, so it is ours: made before a restore, or by a lost answer.
            if fault.code == "resource_already_exists" and "id" in params:
                return Made(params["id"])
            raise
        return _made(made)

    async def find(
        self, kind: Kind, name: str, params: Mapping[str, Any], since: datetime, until: datetime
    ) -> Made | None:
        """See `StripePort`."""
        if kind == "action":
            return await self.acted(params)
        times = {"gte": int(since.timestamp()), "lte": int(until.timestamp())}
        # Portals can't be asked for by time; there are few.
        asked: dict[str, Any] = {} if kind == "portal" else {"created": times}
        if (owner := OWNERS.get(kind)) is not None:
            asked[owner] = params[owner]
        looked = 0
        async for one in self._all(self._services[kind].list_async, asked, LOOKED_MAX):
            if _metadata(one).get("drawdown_call") == name:
                return _made(one)
            looked += 1
        if looked >= LOOKED_MAX:  # it may be beyond: made twice is worse than late
            raise StripeFault("unknown", f"Not found among the latest {LOOKED_MAX} of its kind.")
        return None

    async def client_secret(self, intent_id: str) -> str:
        """See `StripePort`."""
        async with self._faults():
            intent = await self._v1.payment_intents.retrieve_async(intent_id)
        if intent.client_secret is None:
            raise StripeFault("missing", "The intent has no secret.")
        return intent.client_secret

    async def payment(self, kind: Literal["session", "intent"], object_id: str) -> Payment:
        """See `StripePort`."""
        session: Any = None
        intent_id: str | None = object_id
        async with self._faults():
            if kind == "session":
                session = await self._v1.checkout.sessions.retrieve_async(object_id)
                intent_id = session.payment_intent
            else:
                session = await self._session_of(object_id)
        if intent_id is None:
            return payment_of(session, None, (), (), is_suspected=False)
        async with self._faults():
            intent = await self._v1.payment_intents.retrieve_async(
                intent_id, {"expand": list(INTENT_EXPAND)}
            )
        of_intent = {"payment_intent": intent_id}
        refunds = [
            refund_state(one) async for one in self._all(self._v1.refunds.list_async, of_intent)
        ]
        currency = str(intent.currency)
        disputes = [
            dispute_state(one, currency)
            async for one in self._all(self._v1.disputes.list_async, of_intent)
        ]
        warnings = self._v1.radar.early_fraud_warnings.list_async
        suspected = [one async for one in self._all(warnings, of_intent) if is_open_warning(one)]
        return payment_of(session, intent, refunds, disputes, is_suspected=bool(suspected))

    async def _session_of(self, intent_id: str) -> Any:
        """The checkout session that an intent was made for; None: there is none."""
        found = await self._v1.checkout.sessions.list_async({"payment_intent": intent_id})
        return next(iter(found.data), None)

    async def is_deleted(self, customer_id: str) -> bool:
        """Whether Stripe has forgotten a customer."""
        try:
            async with self._faults():
                found: Any = await self._v1.customers.retrieve_async(customer_id)
        except StripeFault as fault:
            if fault.kind == "missing":
                return True
            raise
        return bool(getattr(found, "deleted", False))

    async def news(self, since: datetime, until: datetime, most: int) -> Sequence[News] | None:
        """See `StripePort`."""
        times = {"gte": int(since.timestamp()), "lt": int(until.timestamp())}
        found = [
            News(
                one.id,
                msgspec.json.encode(one.to_dict()),
                datetime.fromtimestamp(one.created, UTC),
            )
            async for one in self._all(self._v1.events.list_async, {"created": times}, most + 1)
        ]
        return found[::-1] if len(found) <= most else None

    async def portal(self, params: Mapping[str, Any]) -> str:
        """See `StripePort`."""
        async with self._faults():
            made = await self._v1.billing_portal.sessions.create_async(cast("Any", dict(params)))
        return made.url

    async def invoices(self, customer_id: str, limit: int, after: str | None) -> InvoicePage:
        """See `StripePort`."""
        params: dict[str, Any] = {"customer": customer_id, "limit": limit}
        if after is not None:
            params["starting_after"] = after
        async with self._faults():
            page = await self._v1.invoices.list_async(cast("Any", params))
        return InvoicePage([invoice_of(one) for one in page.data], bool(page.has_more))

    @asynccontextmanager
    async def _faults(self) -> AsyncGenerator[None]:
        """What Stripe or the way to it can go wrong with, as StripeFault."""
        try:
            yield
        except stripe.StripeError as error:
            fault = _fault_of(error)
            if fault.kind == "unauthorized":
                self.is_accepted = False
                log.error("stripe_key_refused", request=fault.request_id)
            raise fault from error
        self.is_accepted = True

    async def _all(
        self,
        list_async: Callable[..., Awaitable[Any]],
        params: Mapping[str, Any],
        most: int = LOOKED_MAX,
    ) -> AsyncIterator[Any]:
        """Every object of a list, page by page, the newest first; at most so many."""
        asked: dict[str, Any] = {**params, "limit": PAGE}
        seen = 0
        while True:
            async with self._faults():
                page = await list_async(asked)
            for one in page.data:
                yield one
            seen += len(page.data)
            if not page.has_more or seen >= most:
                return
            asked["starting_after"] = page.data[-1].id


def _fault_of(error: stripe.StripeError) -> StripeFault:
    told = error.error
    code = None if told is None else told.code
    kind: FaultKind = "unknown"
    for type_, its_kind in FAULTS:
        if isinstance(error, type_):
            kind = its_kind
            break
    if kind == "refused" and code == "resource_missing":
        kind = "missing"
    if code in {"idempotency_key_in_use", "lock_timeout"}:
        kind = "busy"
    if kind == "declined" and told is not None:
        code = told.decline_code or code
    words = (error.user_message or str(error)) if kind != "unauthorized" else "The key is refused."
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return StripeFault(
        kind,
        words,
        code=code,
        request_id=error.request_id,
        object_id=getattr(getattr(told, "payment_intent", None), "id", None),
        is_replayed=headers.get("idempotent-replayed") == "true",
    )


def _metadata(one: Any) -> Mapping[str, str]:
    found = getattr(one, "metadata", None)
    return {} if found is None else found.to_dict()


def _made(one: Any) -> Made:
    return Made(one.id, getattr(one, "url", None) if one.object == "checkout.session" else None)
