"""The calls of the gateway about saved cards and the intents that charge them."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from meter.stripe_port import Card, StripeFault


class CardCalls(ABC):
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

    async def cards(self, customer_id: str) -> list[Card]:
        """See `StripePort`."""
        async with self._faults():
            customer = await self._v1.customers.retrieve_async(customer_id)
        settings = getattr(customer, "invoice_settings", None)
        default = getattr(settings, "default_payment_method", None)

        async def listed(params: Any) -> Any:
            return await self._v1.customers.payment_methods.list_async(customer_id, params)

        found = [_card(one, default) async for one in self._all(listed, {})]
        return sorted(found, key=lambda one: (not one.is_default, -one.created_at.timestamp()))

    async def card_owner(self, card_id: str) -> str | None:
        """See `StripePort`."""
        try:
            async with self._faults():
                return (await self._v1.payment_methods.retrieve_async(card_id)).customer
        except StripeFault as fault:
            if fault.kind == "missing":
                return None
            raise

    async def set_default_card(self, customer_id: str, card_id: str) -> None:
        """See `StripePort`."""
        settings = {"invoice_settings": {"default_payment_method": card_id}}
        async with self._faults():
            await self._v1.customers.update_async(customer_id, settings)

    async def forget_card(self, card_id: str) -> None:
        """See `StripePort`."""
        async with self._faults():
            await self._v1.payment_methods.detach_async(card_id)

    async def setup_secret(self, setup_id: str) -> str:
        """See `StripePort`."""
        async with self._faults():
            intent = await self._v1.setup_intents.retrieve_async(setup_id)
        if intent.client_secret is None:
            raise StripeFault("missing", "The intent has no secret.")
        return intent.client_secret

    async def intent_status(self, intent_id: str) -> str:
        """See `StripePort`."""
        async with self._faults():
            return (await self._v1.payment_intents.retrieve_async(intent_id)).status

    async def cancel_intent(self, intent_id: str) -> str:
        """See `StripePort`."""
        try:
            async with self._faults():
                return (await self._v1.payment_intents.cancel_async(intent_id)).status
        except StripeFault as fault:
            if not fault.is_final:
                raise
        return await self.intent_status(intent_id)  # it can't be given up any more


def _card(one: Any, default: str | None) -> Card:
    details = getattr(one, one.type, None)  # a card's under `card`, an account's under its own type
    return Card(
        card_id=one.id,
        kind=one.type,
        brand=getattr(details, "brand", None),
        last4=getattr(details, "last4", None),
        exp_month=getattr(details, "exp_month", None),
        exp_year=getattr(details, "exp_year", None),
        fingerprint=getattr(details, "fingerprint", None) or one.id,
        is_default=one.id == default,
        created_at=datetime.fromtimestamp(one.created, UTC),
    )
