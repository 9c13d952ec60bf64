"""What a customer does at Stripe by itself: the portal, and its invoices."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from ledger import customers
from ledger.amounts import format_amount
from meter import checkout, parse, stripe_calls
from meter.http.bodies import Body, CustomerId
from meter.http.customers import answer
from meter.http.paging import LIMIT, Page, page, place
from meter.http.purchases import STRIPE_ERRORS, check_url
from meter.http.reads import CUSTOMER
from meter.http.stripe_bodies import Url
from meter.problems import ProblemError
from meter.route import Call, Reply, Route
from meter.service import Service, customer_missing
from meter.stripe_calls import StripeCall
from meter.stripe_port import StripeFault, StripePort
from sql.pool import transaction

Flow = Literal["payment_method_update"]


class PortalBody(Body, frozen=True, kw_only=True):
    """`flow` leads to one thing and back."""

    customer_id: CustomerId
    return_url: Url
    flow: Annotated[Flow, Meta(description="Only this; left out: the whole portal.")] | None = None


class PortalAnswer(Struct, frozen=True):
    """Send the browser to `url`; it is good for some minutes, and for its customer alone."""

    url: str


class InvoiceAnswer(Struct, frozen=True, kw_only=True):
    """An invoice at Stripe, with the pages where it is paid and read."""

    id: str
    number: str | None
    status: str
    currency: str
    total: str
    amount_paid: str
    amount_due: str
    hosted_url: str | None
    pdf_url: str | None
    created_at: datetime


def port(service: Service) -> StripePort:
    """The calls to Stripe. Raises ProblemError 503 where no key is set."""
    if service.stripe is None:
        raise ProblemError(
            503,
            "stripe_unavailable",
            "No key of Stripe is set (STRIPE_SECRET_KEY): there is nobody to ask.",
        )
    return service.stripe


async def _configuration(service: Service) -> str:
    """What customers may do in the portal, made once for each choice. Raises StripeFault.

    A plan is changed by our routes only, which know what it gives.
    """
    cancels = service.config.portal_cancel
    call = StripeCall(
        name=f"portal-1-{'cancel' if cancels else 'keep'}",
        kind="portal",
        params={
            "features": {
                "customer_update": {
                    "enabled": True,
                    "allowed_updates": ["address", "name", "tax_id"],
                },
                "invoice_history": {"enabled": True},
                "payment_method_update": {"enabled": True},
                "subscription_cancel": {"enabled": cancels, "mode": "at_period_end"},
            },
            "metadata": {"drawdown": service.installation_id},
        },
    )
    async with transaction(service.pool) as conn:
        await stripe_calls.note(conn, call)
    return (await stripe_calls.send(service, call.name)).object_id


async def create_portal(call: Call) -> Reply:
    """A page of Stripe's where a customer manages cards and invoices. Only for who is signed in.

    What is changed there reaches us as news. It has invoices, cards, and (`DRAWDOWN_PORTAL_CANCEL`)
    the end of a subscription with its period; plans are changed by our routes only.
    """
    assert call.body is not None
    wanted = parse.decode(call.body, PortalBody)
    check_url(wanted.return_url, "/return_url")
    stripe, service = port(call.service), call.service
    number = await service.customer_no(call, wanted.customer_id)
    try:
        params: dict[str, Any] = {
            "customer": await checkout.stripe_customer(service, number),
            "return_url": wanted.return_url,
            "configuration": await _configuration(service),
        }
        if wanted.flow is not None:
            params["flow_data"] = {"type": wanted.flow}
        return answer(200, PortalAnswer(await stripe.portal(params)))
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault


async def list_invoices(call: Call) -> Reply:
    """A customer's invoices as Stripe has them now, the newest first."""
    service, at = call.service, place(call, "invoices")
    customer_id = call.query.get("customer_id") or call.key.customer_id
    if customer_id is None:
        raise ProblemError(422, "invalid_query", "Say whose: ?customer_id=…")
    number = await service.customer_no(call, customer_id, pointer="/customer_id")
    stripe, scales = port(service), service.settings().scales
    async with transaction(service.pool) as conn:
        customer = await customers.read(conn, number, service.credit_scale("credits"))
    if customer is None:
        raise customer_missing()
    if customer.stripe_customer_id is None:
        return page(call, "invoices", [], None)
    try:
        found = await stripe.invoices(customer.stripe_customer_id, at.limit, at.after)
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault
    shown = [
        InvoiceAnswer(
            id=one.id,
            number=one.number,
            status=one.status,
            currency=one.currency,
            total=format_amount(one.total, scales[one.currency]),
            amount_paid=format_amount(one.amount_paid, scales[one.currency]),
            amount_due=format_amount(one.amount_due, scales[one.currency]),
            hosted_url=one.hosted_url,
            pdf_url=one.pdf_url,
            created_at=one.created_at,
        )
        for one in found.data
    ]
    return page(call, "invoices", shown, found.data[-1].id if found.has_more else None)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/portal",
        operation="create_portal",
        summary="A page of Stripe's where a customer manages cards and invoices.",
        scope="billing:write",
        handler=create_portal,
        tag="Money in",
        body=PortalBody,
        answers={200: PortalAnswer},
        errors=("customer_not_found", *STRIPE_ERRORS),
        example={"customer_id": "acme", "return_url": "https://app.example.com/credits"},
    ),
    Route(
        method="GET",
        path="/v1/invoices",
        operation="list_invoices",
        summary="A customer's invoices at Stripe, with their pages.",
        scope="billing:read",
        handler=list_invoices,
        tag="Money in",
        answers={200: Page[InvoiceAnswer]},
        errors=("customer_not_found", *STRIPE_ERRORS),
        query=(CUSTOMER, *LIMIT),
    ),
)
