"""The values of settings that are more than a number or a word: how each is read and shown.

A reader takes the text of a variable and raises ValueError or msgspec.MsgspecError, whose message
says what is wrong without repeating a secret.
"""

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
        return "***"
    login, at, host = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    query = [
        (name, "***" if "password" in name.lower() else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    netloc = f"{user}{':***' if colon else ''}{at}{host}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*/:,")))
