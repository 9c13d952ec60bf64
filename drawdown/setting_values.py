"""The values of settings that are more than a number or a word: how each is read and shown.

A reader takes the text of a variable and raises ValueError or msgspec.MsgspecError, whose message
says what is wrong without repeating a secret.
"""

import ipaddress
import json
import re
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from ledger.amounts import AmountError, format_amount, parse_amount

CREDITS_SCALE: Final = 9
"""Decimals of the asset `credits`, in which the sign-up grant is given."""
EXPIRES_SECONDS_MAX: Final = 3_155_760_000  # a hundred years
MASK: Final = "***"


class SignupGrant(Struct, frozen=True):
    """What each new customer is given once. `amount` is in the smallest unit of `credits`."""

    amount: int
    expires_in: int | None
    """Seconds."""
    priority: int

    def __str__(self) -> str:
        members = {"amount": format_amount(self.amount, CREDITS_SCALE), "priority": self.priority}
        if self.expires_in is not None:
            members["expires_in"] = self.expires_in
        return json.dumps(members)


class RateLimit(Struct, frozen=True):
    """At most `requests` in any window of `seconds`, per key and process."""

    requests: Annotated[int, Meta(ge=1, le=1_000_000)]
    seconds: Annotated[int, Meta(ge=1, le=86_400)]

    def __str__(self) -> str:
        return f"{self.requests}/{self.seconds}"


class Address(Struct, frozen=True):
    """Where to listen."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65_535)]

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_database_url(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be a URL such as postgresql://user:password@host:5432/name")
    return text


class _GrantText(Struct, frozen=True, forbid_unknown_fields=True):
    amount: str
    expires_in: Annotated[int, Meta(ge=1, le=EXPIRES_SECONDS_MAX)] | None = None
    priority: Annotated[int, Meta(ge=0, le=100)] = 50


def read_signup_grant(text: str) -> SignupGrant:
    grant = msgspec.json.decode(text, type=_GrantText)
    try:
        amount = parse_amount(grant.amount, CREDITS_SCALE)
    except AmountError as exc:
        raise ValueError(f"amount {exc}") from exc
    if amount == 0:
        raise ValueError("amount must be above 0")
    return SignupGrant(amount, grant.expires_in, grant.priority)


def read_rate_limit(text: str) -> RateLimit | None:
    if text == "off":
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None:
        raise ValueError('must be REQUESTS/SECONDS such as "100/60", or "off"')
    return msgspec.convert({"requests": int(match[1]), "seconds": int(match[2])}, RateLimit)


def read_origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip() for origin in text.split(","))
    for origin in origins:
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?", origin, re.ASCII):
            raise ValueError(f"{origin!r} is not an origin such as https://app.example.com")
    return origins


def read_address(text: str) -> Address:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):(\d{1,5})", text, re.ASCII)
    if match is None:
        raise ValueError('must be HOST:PORT such as "127.0.0.1:9102"')
    return msgspec.convert({"host": match[1] or match[2], "port": int(match[3])}, Address)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_stripe_secret_key(text: str) -> str:
    if not re.fullmatch(r"[sr]k_(test|live)_[A-Za-z0-9_]{1,255}", text, re.ASCII):
        raise ValueError(
            "must be a secret or restricted key: it begins with sk_ or rk_, then test_ or live_"
        )
    return text


def read_stripe_publishable_key(text: str) -> str:
    # Whatever is in it by mistake may be a secret.
    if not re.fullmatch(r"pk_(test|live)_[A-Za-z0-9_]{1,255}", text, re.ASCII):
        raise ValueError("must be a publishable key: it begins with pk_test_ or pk_live_")
    return text


def read_stripe_webhook_secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(secret.strip() for secret in text.split(","))
    for number, secret in enumerate(secrets, 1):
        if not re.fullmatch(r"whsec_[A-Za-z0-9+/=_-]{1,255}", secret, re.ASCII):
            place = f"secret {number} of {len(secrets)} " if len(secrets) > 1 else ""
            raise ValueError(f"{place}must be a signing secret: it begins with whsec_")
    return secrets


def read_stripe_api_base(text: str) -> str:
    """The address without a slash at its end."""
    match = re.fullmatch(
        r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?", text, re.ASCII
    )
    if match is None:
        raise ValueError("must be a URL such as https://api.stripe.com, without user or path")
    if match[1] == "http" and not is_loopback(match[2].strip("[]")):
        raise ValueError("must begin with https: keys go unencrypted to this machine only")
    return text.removesuffix("/")


def mask_stripe_key(key: str) -> str:
    """What kind of key it is, and of which mode."""
    kind, mode, _ = key.split("_", 2)
    return f"{kind}_{mode}_{MASK}"


def read_time_zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError) as exc:
        raise ValueError(f"{text!r} is not an IANA time zone such as Europe/Berlin") from exc


def mask_database_url(url: str) -> str:
    """The URL with `***` in place of every password in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    login, at, host = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    query = [
        (name, MASK if "password" in name.lower() else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    netloc = f"{user}{f':{MASK}' if colon else ''}{at}{host}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*/:,")))
