"""Who may do what: secret, restricted and publishable keys of test mode."""

import base64
import binascii
import secrets
from collections.abc import Mapping

import msgspec

from sandbox.errors import StripeError


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets of one stand-in."""

    secret: str
    publishable: str
    token: str
    """Of the control plane."""
    webhook_secret: str
    restricted: Mapping[str, frozenset[str]] = {}
    """Key to its rights, such as `customers:write`; writing includes reading."""


def fresh_keys() -> Keys:
    """Keys that nobody else has."""
    return Keys(
        secret=f"sk_test_{secrets.token_hex(24)}",
        publishable=f"pk_test_{secrets.token_hex(24)}",
        token=f"sbx_{secrets.token_urlsafe(32)}",
        webhook_secret=f"whsec_{secrets.token_hex(24)}",
    )


def sent_key(header: str | None) -> str:
    """The key of an Authorization header, as bearer or as user of Basic. Raises StripeError 401."""
    kind, _, value = (header or "").partition(" ")
    if kind.lower() == "bearer" and value:
        return value.strip()
    if kind.lower() == "basic" and value:
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            pass
    raise StripeError(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization "
        "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        headers={"WWW-Authenticate": 'Basic realm="Stripe"'},
    )


def check(keys: Keys, key: str, method: str, path: str) -> None:
    """Whether a key may make a request. Raises StripeError 401, 403."""
    if key.startswith(("sk_live_", "rk_live_", "pk_live_")):
        raise StripeError(
            401,
            "This is a stand-in for tests: live keys are refused. If it is a real one, it was "
            "just sent to the wrong place: roll it.",
        )
    if secrets.compare_digest(key.encode(), keys.secret.encode()):
        return
    if key == keys.publishable:
        raise StripeError(
            401,
            "This API call cannot be made with a publishable API key. Please use a secret API key.",
            code="secret_key_required",
        )
    rights = keys.restricted.get(key)
    if rights is None:
        shown = f"{key[:8]}****{key[-4:]}" if len(key) > 16 else "****"
        raise StripeError(401, f"Invalid API Key provided: {shown}")
    noun = path.split("/")[2] if path.count("/") > 1 else ""
    wanted = {f"{noun}:write"} if method != "GET" else {f"{noun}:read", f"{noun}:write"}
    if not wanted & rights:
        raise StripeError(
            403,
            f"The provided key does not have the required permissions for this endpoint: {noun}.",
            code="more_permissions_required",
        )
