"""The calls of the gateway about subscriptions and their invoices."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Literal, cast

from jobs.stripe_plan_shapes import (
    invoice_state,
    preview_of,
    subscription_of,
    subscription_state,
)
from meter.stripe_port import (
    InvoiceState,
    Made,
    Payment,
    Preview,
    StripeFault,
    SubscriptionState,
)


class PlanCalls(ABC):
    """Part of `StripePort`; the gateway gives the library, its faults and its lists."""

    _v1: Any

    @abstractmethod
    def _faults(self) -> AbstractAsyncContextManager[None]:
        """What goes wrong inside, as StripeFault."""

    @abstractmethod
    def _all(
        self, list_async: Callable[..., Awaitable[Any]], params: Mapping[str, Any]
    ) -> AsyncIterator[Any]:
        """Every object of a list."""

    @abstractmethod
    async def payment(self, kind: Literal["session", "intent"], object_id: str) -> Payment:
        """See `StripePort`."""

    async def subscription(self, subscription_id: str) -> SubscriptionState:
        """See `StripePort`."""
        async with self._faults():
            sub = await self._v1.subscriptions.retrieve_async(
                subscription_id, {"expand": ["latest_invoice"]}
            )
        invoice, payments = sub.latest_invoice, list[Any]()
        if invoice is not None and invoice.status == "open":
            asked = {"invoice": invoice.id, "expand": ["data.payment.payment_intent"]}
            payments = [one async for one in self._all(self._v1.invoice_payments.list_async, asked)]
        return subscription_state(sub, payments)

    async def invoice(self, invoice_id: str) -> InvoiceState:
        """See `StripePort`."""
        async with self._faults():
            invoice = await self._v1.invoices.retrieve_async(invoice_id)
        if subscription_of(invoice) is None or invoice.status != "paid":
            return invoice_state(invoice, (), ())

        async def list_lines(params: Any) -> Any:
            return await self._v1.invoices.line_items.list_async(invoice_id, params)

        lines = [one async for one in self._all(list_lines, {})]
        paid = [
            one.payment.payment_intent
            async for one in self._all(
                self._v1.invoice_payments.list_async, {"invoice": invoice_id, "status": "paid"}
            )
            if one.payment.type == "payment_intent"
        ]
        return invoice_state(
            invoice, lines, [await self.payment("intent", intent_id) for intent_id in paid]
        )

    async def invoices_since(self, subscription_id: str, since: datetime) -> list[str]:
        """See `StripePort`."""
        asked = {"subscription": subscription_id, "created": {"gte": int(since.timestamp())}}
        return [one.id async for one in self._all(self._v1.invoices.list_async, asked)]

    async def invoice_of(self, intent_id: str) -> str | None:
        """See `StripePort`."""
        asked = {"payment": {"type": "payment_intent", "payment_intent": intent_id}}
        async with self._faults():
            found = await self._v1.invoice_payments.list_async(asked)
        return next((one.invoice for one in found.data), None)

    async def preview(self, params: Mapping[str, Any]) -> Preview:
        """See `StripePort`."""
        async with self._faults():
            return preview_of(await self._v1.invoices.create_preview_async(dict(params)))

    async def invoice_secret(self, invoice_id: str) -> str | None:
        """See `StripePort`."""
        async with self._faults():
            invoice = await self._v1.invoices.retrieve_async(
                invoice_id, {"expand": ["confirmation_secret"]}
            )
        secret = getattr(invoice, "confirmation_secret", None)
        return None if secret is None else secret.client_secret

    async def act(self, params: Mapping[str, Any], key: str) -> Made:
        """Do something to a subscription: `do`, `id` of what it is done to, `with`, and whose."""
        subs, schedules = self._v1.subscriptions, self._v1.subscription_schedules
        does: dict[str, Callable[..., Awaitable[Any]]] = {
            "update": subs.update_async,
            "cancel": subs.cancel_async,
            "pause": subs.pause_async,
            "resume": subs.resume_async,
            "phases": schedules.update_async,
            "release": schedules.release_async,
        }
        options = {"idempotency_key": key}
        try:
            async with self._faults():
                if params["do"] == "schedule":
                    asked = {"from_subscription": params["id"]}
                    done = await schedules.create_async(asked, options)
                else:
                    done = await does[params["do"]](params["id"], params["with"], options)
        except StripeFault as fault:
            # Stripe keeps no answer to this call: after a lost one there is nothing left to cancel.
            is_gone = fault.kind == "missing" and params["do"] == "cancel"
            if is_gone and (made := await self.acted(params)) is not None:
                return made
            raise
        return Made(done.id, subscription=await self.subscription(params["subscription"]))

    async def acted(self, params: Mapping[str, Any]) -> Made | None:
        """What `act` has done, if what the subscription is now says so."""
        state = await self.subscription(params["subscription"])
        made = Made(params["id"], subscription=state)
        match params["do"]:
            case "update" if "items" in params["with"]:
                wanted = params["with"]["items"][0]
                is_done = any(
                    (item.item_id, item.price_id, item.quantity)
                    == (wanted["id"], wanted["price"], wanted["quantity"])
                    for item in state.items
                )
            case "update":
                is_done = (state.cancel_at is not None) == params["with"]["cancel_at_period_end"]
            case "cancel":
                is_done = state.status == "canceled"
            case "pause":
                is_done = state.status == "paused"
            case "resume":
                is_done = state.status != "paused"
            case "release":
                is_done = state.schedule_id is None
            case "schedule":
                is_done = state.schedule_id is not None
                made = Made(cast("str", state.schedule_id), subscription=state)
            case _:
                is_done = await self._has_phase(params)
        return made if is_done else None

    async def _has_phase(self, params: Mapping[str, Any]) -> bool:
        """Whether a schedule ends as it was asked to."""
        async with self._faults():
            schedule = await self._v1.subscription_schedules.retrieve_async(params["id"])
        if not schedule.phases:
            raise StripeFault("missing", "The schedule has no phases.")
        wanted = params["with"]["phases"][-1]["items"][0]
        return any(
            (item.price, item.quantity) == (wanted["price"], wanted["quantity"])
            for item in schedule.phases[-1]["items"]
        )
