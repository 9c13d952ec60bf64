"""The calls of the gateway about usage: meters at Stripe, what they are told, what they counted."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from meter.stripe_port import StripeFault, UsageEvent, UsageInvoice

# A subscription that is ended at once is so within a second that still counts for us.
SESSION_ENDED: Final = "billing_meter_event_session_expired"
SLACK: Final = timedelta(hours=1)
"""How far Stripe's clock and ours may differ."""


class UsageCalls(ABC):
    """Part of `StripePort`; the gateway gives the library, its faults and its lists."""

    _v1: Any
    _v2: Any
    _stream_token: str | None = None

    @abstractmethod
    def _faults(self) -> AbstractAsyncContextManager[None]:
        """What goes wrong inside, as StripeFault."""

    @abstractmethod
    def _all(
        self, list_async: Callable[..., Awaitable[Any]], params: Mapping[str, Any]
    ) -> AsyncIterator[Any]:
        """Every object of a list."""

    async def usage_meter(self, event_name: str) -> str:
        """See `StripePort`."""
        found = await self._meter(event_name)
        if found is None:
            params: Any = {
                "display_name": event_name,
                "event_name": event_name,
                "default_aggregation": {"formula": "sum"},
                "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
                "value_settings": {"event_payload_key": "value"},
            }
            try:
                async with self._faults():
                    found = await self._v1.billing.meters.create_async(params)
            except StripeFault as fault:  # somebody was faster, if there is one now
                found = await self._meter(event_name)
                if found is None:
                    raise fault from None
        why = _unfit(found)
        if why is not None:
            raise StripeFault(
                "refused",
                f"The meter {found.id} of Stripe, which listens to {event_name}, {why}. Choose "
                "another event_name.",
            )
        return found.id

    async def _meter(self, event_name: str) -> Any:
        """The active meter of a name; None: there is none."""
        asked = {"status": "active"}
        async for one in self._all(self._v1.billing.meters.list_async, asked):
            if one.event_name == event_name:
                return one
        return None

    async def tell_usage(self, event: UsageEvent) -> None:
        """See `StripePort`."""
        params: Any = {
            "event_name": event.event_name,
            "identifier": event.identifier,
            "timestamp": int(event.at.timestamp()),
            "payload": {"stripe_customer_id": event.customer_id, "value": event.value},
        }
        try:
            async with self._faults():
                await self._v1.billing.meter_events.create_async(
                    params, {"idempotency_key": f"{event.identifier}_{event.attempt}"}
                )
        except StripeFault as fault:
            # Stripe refuses an identifier that it has counted already: then it is done.
            if fault.kind != "refused" or "already exists with identifier" not in str(fault):
                raise

    async def stream_usage(self, events: Sequence[UsageEvent]) -> None:
        """See `StripePort`."""
        told: Any = {
            "events": [
                {
                    "event_name": event.event_name,
                    "identifier": event.identifier,
                    "timestamp": f"{event.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.000Z}",
                    "payload": {"stripe_customer_id": event.customer_id, "value": event.value},
                }
                for event in events
            ]
        }
        if self._stream_token is None:
            await self._open_stream()
        try:
            await self._stream(told)
        except StripeFault as fault:
            if fault.code != SESSION_ENDED:
                raise
            await self._open_stream()
            await self._stream(told)

    async def _open_stream(self) -> None:
        """A session lives for 15 minutes; its token is kept here and nowhere else."""
        async with self._faults():
            session = await self._v2.billing.meter_event_session.create_async()
        self._stream_token = session.authentication_token

    async def _stream(self, told: Any) -> None:
        options: Any = {"api_key": self._stream_token}
        async with self._faults():
            await self._v2.billing.meter_event_stream.create_async(told, options)

    async def rejected_usage(self, event_id: str) -> Mapping[str, str]:
        """See `StripePort`."""
        async with self._faults():
            event = await self._v2.core.events.retrieve_async(event_id)
        reason = getattr(getattr(event, "data", None), "reason", None)
        return {
            sample.request.identifier: kind.code
            for kind in getattr(reason, "error_types", None) or ()
            for sample in kind.sample_errors or ()
            if sample.request is not None and sample.request.identifier is not None
        }

    async def usage_sums(
        self, meter_id: str, customer_id: str, since: datetime, until: datetime
    ) -> Mapping[datetime, Decimal]:
        """See `StripePort`."""
        asked = {
            "customer": customer_id,
            "start_time": int(since.timestamp()),
            "end_time": int(until.timestamp()),
            "value_grouping_window": "hour",
        }

        async def list_sums(params: Any) -> Any:
            return await self._v1.billing.meters.event_summaries.list_async(meter_id, params)

        return {
            datetime.fromtimestamp(one.start_time, UTC): Decimal(str(one.aggregated_value))
            async for one in self._all(list_sums, asked)
        }

    async def invoice_at(self, subscription_id: str, ends: datetime) -> UsageInvoice | None:
        """See `StripePort`."""
        asked = {
            "subscription": subscription_id,
            "created": {"gte": int((ends - SLACK).timestamp())},
        }
        async for one in self._all(self._v1.invoices.list_async, asked):
            is_first = one.billing_reason == "subscription_create"  # it bills no usage
            if 0 <= int(ends.timestamp()) - one.period_end <= 1 and not is_first:
                at = one.status_transitions.finalized_at
                return UsageInvoice(one.id, None if at is None else datetime.fromtimestamp(at, UTC))
        return None


def _unfit(meter: Any) -> str | None:
    """Why what is told can't be what is billed; None: it can."""
    formula = meter.default_aggregation.formula
    if formula != "sum":
        return f"has the formula {formula}, not sum"
    if meter.event_time_window is not None:
        return f"keeps only the last event of each {meter.event_time_window}"
    if meter.customer_mapping.event_payload_key != "stripe_customer_id":
        return f"reads the customer from {meter.customer_mapping.event_payload_key}"
    if meter.value_settings.event_payload_key != "value":
        return f"reads the value from {meter.value_settings.event_payload_key}"
    return None
