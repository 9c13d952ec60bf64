"""Checkout sessions: what requests do to them."""

from typing import Any, Final

from sandbox import agenda
from sandbox.calendar import DAY
from sandbox.errors import invalid
from sandbox.expand import included
from sandbox.lists import Readable, page, readable
from sandbox.nouns import baskets
from sandbox.nouns.payment_intents import kinds_of
from sandbox.routing import Call, route
from sandbox.shapes import Obj, at
from sandbox.world import World, listed, merged_metadata, pick

EXPIRES_SECONDS_MIN: Final = 1_800
EXPIRES_SECONDS_MAX: Final = DAY
ABSENT: Final = (
    *("adaptive_pricing", "branding_settings", "collected_information", "currency_conversion"),
    *("integration_identifier", "managed_payments", "name_collection", "optional_items"),
    *("presentment_details", "saved_payment_method_options", "wallet_options", "permissions"),
    *("shipping_address_collection", "customer_account", "tax_id_collection", "line_items"),
)
PLAIN: Final = (
    *("allow_promotion_codes", "allowed_payment_method_types", "billing_address_collection"),
    *("cancel_url", "client_reference_id", "consent_collection", "customer_email", "locale"),
    *("payment_method_collection", "return_url", "submit_type", "success_url"),
)


def _by_email(world: World, session: Obj, wanted: Any) -> bool:
    return bool(at(session, "customer_details", "email") == wanted["email"])


readable(
    Readable(
        "checkout.session",
        "/v1/checkout/sessions",
        "session",
        filters={"customer_details": _by_email},
    )
)


@route("POST /v1/checkout/sessions")
def create(world: World, call: Call) -> Obj:
    """A session that is open for a day, or until it is completed."""
    given = call.params
    mode, ui_mode = _modes(given)
    customer = None
    if "customer" in given:
        customer = world.used("customer", given["customer"], "customer")
    with world.on_clock(None if customer is None else customer.get("test_clock")):
        session = world.make("checkout.session", "cs_test")
        session["expires_at"] = _expiry(world, given)
    for absent in ABSENT:
        session.pop(absent, None)
    basket = baskets.filled(world, given, mode)
    is_recurring = any(line["price"]["recurring"] for line in basket)
    if mode == "subscription" and not is_recurring:
        raise invalid("You must provide at least one recurring price in `subscription` mode.")
    if mode == "payment" and is_recurring:
        raise invalid("You specified `payment` mode but passed a recurring price.")
    session.update(
        automatic_tax={
            "enabled": bool(given.get("automatic_tax", {}).get("enabled")),
            "liability": None,
            "provider": None,
            "status": "complete" if given.get("automatic_tax", {}).get("enabled") else None,
        },
        currency=basket[0]["price"]["currency"] if basket else given.get("currency"),
        custom_fields=[],
        custom_text=dict.fromkeys(
            ("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")
        ),
        customer=None if customer is None else customer["id"],
        customer_creation=_creation(given, mode),
        discounts=[],
        invoice_creation=_invoice_creation(given, mode),
        metadata=merged_metadata(None, given),
        mode=mode,
        payment_method_options={},
        payment_method_types=kinds_of(given),
        payment_status="unpaid",
        phone_number_collection={"enabled": False},
        shipping_options=[],
        status="open",
        ui_mode=ui_mode,
    )
    session.update(pick(given, *PLAIN))
    session.setdefault("payment_method_collection", None)
    if mode == "subscription" and session["payment_method_collection"] is None:
        session["payment_method_collection"] = "always"
    _open(world, session, given, basket)
    return world.store(session)


def _modes(given: Obj) -> tuple[str, str]:
    mode, ui_mode = given.get("mode"), given.get("ui_mode", "hosted_page")
    if mode is None:
        raise invalid("Missing required param: mode.", param="mode", code="parameter_missing")
    needed = "success_url" if ui_mode == "hosted_page" else "return_url"
    if needed not in given and given.get("redirect_on_completion") != "never":
        message = f"Missing required param: {needed}."
        raise invalid(message, param=needed, code="parameter_missing")
    if mode != "setup" and not given.get("line_items"):
        message = "Missing required param: line_items."
        raise invalid(message, param="line_items", code="parameter_missing")
    for name, only in (
        ("payment_intent_data", "payment"),
        ("subscription_data", "subscription"),
        ("setup_intent_data", "setup"),
    ):
        if name in given and mode != only:
            raise invalid(f"You can not pass `{name}` in `{mode}` mode.", param=name)
    if "customer" in given and "customer_email" in given:
        raise invalid(
            "You may only specify one of these parameters: customer, customer_email.",
            code="parameters_exclusive",
        )
    if given.get("allow_promotion_codes") and given.get("discounts"):
        raise invalid(
            "You may only specify one of these parameters: allow_promotion_codes, discounts.",
            code="parameters_exclusive",
        )
    return mode, ui_mode


def _expiry(world: World, given: Obj) -> int:
    at = given.get("expires_at", world.now + EXPIRES_SECONDS_MAX)
    if not world.now + EXPIRES_SECONDS_MIN <= at <= world.now + EXPIRES_SECONDS_MAX:
        raise invalid(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout "
            "Session creation.",
            param="expires_at",
        )
    return at


def _creation(given: Obj, mode: str) -> str | None:
    if "customer" in given or mode == "setup":
        return None
    return "always" if mode == "subscription" else given.get("customer_creation", "if_required")


def _invoice_creation(given: Obj, mode: str) -> Obj | None:
    if mode != "payment":
        return None
    asked: Obj = given.get("invoice_creation", {})
    data: Obj = asked.get("invoice_data", {})
    return {
        "enabled": asked.get("enabled", False),
        "invoice_data": {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": data.get("description"),
            "footer": data.get("footer"),
            "issuer": None,
            "metadata": data.get("metadata", {}),
            "rendering_options": None,
        },
    }


def _open(world: World, session: Obj, given: Obj, basket: list[Obj]) -> None:
    """Keep what completing will need, price it, and give it its page."""
    note = world.note(session["id"])
    note.update(
        payment_intent_data=given.get("payment_intent_data", {}),
        subscription_data=given.get("subscription_data", {}),
        setup_intent_data=given.get("setup_intent_data", {}),
        discounts=given.get("discounts", []),
        lines=basket,
    )
    baskets.price(world, session)
    if session["ui_mode"] == "hosted_page":
        session["url"] = f"{world.base_url}/pay/{session['id']}"
    else:
        session["client_secret"] = f"{session['id']}_secret_{world.secret()}"


@route("POST /v1/checkout/sessions/{session}")
def update(world: World, call: Call) -> Obj:
    session = world.get("checkout.session", call.id)
    metadata = merged_metadata(session["metadata"], call.params)
    return world.change(session, metadata=metadata)


@route("POST /v1/checkout/sessions/{session}/expire")
def expire(world: World, call: Call) -> Obj:
    session = world.get("checkout.session", call.id)
    if session["status"] != "open":
        raise invalid(
            "Only Checkout Sessions with a status in [open] can be expired. This Checkout Session "
            f"has a status of {session['status']}."
        )
    return expired(world, session)


def expired(world: World, session: Obj) -> Obj:
    return world.move(session, "expired", url=None)


@included("checkout.session", "line_items")
def line_items_of(world: World, session: Obj) -> Obj:
    url = f"/v1/checkout/sessions/{session['id']}/line_items"
    return listed(baskets.items_of(world, session), url)


@route("GET /v1/checkout/sessions/{session}/line_items")
def line_items(world: World, call: Call) -> Obj:
    session = world.get("checkout.session", call.ids["session"])
    return page(call, baskets.items_of(world, session))


def _due(world: World, session: Obj) -> int | None:
    return session["expires_at"] if session["status"] == "open" else None


def _act(world: World, session: Obj) -> None:
    expired(world, session)


agenda.register("checkout.session", _due, _act)
