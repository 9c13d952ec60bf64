"""Usage as callers state it in reserve, extend, capture, consume and quote: `usage[]`."""

import re
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from ledger.load_usage import OUR_SOURCE
from ledger.rated import QUANTITY_SCALE, Usage, UsageItem
from meter.problems import ProblemError
from meter.rate_cards import CARD_KEY_PATTERN, QUANTITY_PATTERN, check_key

ITEMS_MAX: Final = 100
"""In one request: each is a line of its charge."""
DIMENSIONS_MAX: Final = 50
QUANTITY_INTEGER_MAX: Final = 10**18 - 1
NAME_BYTES_MAX: Final = 255

RateCardKey = Annotated[
    str, Meta(description="Key of a rate card.", extra_json_schema={"pattern": CARD_KEY_PATTERN})
]


class UsageItemBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So much of one meter. `source` and `event_id` name the fact, so it is charged once."""

    meter: Annotated[str, Meta(min_length=1, max_length=63)]
    quantity: (
        Annotated[int, Meta(ge=0, le=QUANTITY_INTEGER_MAX)]
        | Annotated[str, Meta(extra_json_schema={"pattern": QUANTITY_PATTERN}, examples=["1200"])]
    )
    dimensions: Annotated[
        dict[str, str | int | bool | None],
        Meta(max_length=DIMENSIONS_MAX, description="By the names that the meter groups by."),
    ] = {}
    source: str | UnsetType = UNSET
    event_id: str | UnsetType = UNSET


UsageList = Annotated[list[UsageItemBody], Meta(min_length=1, max_length=ITEMS_MAX)]

_QUANTITY = re.compile(QUANTITY_PATTERN, re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def one_of(amount: object, usage: object, pointer: str = "") -> None:
    """Refuse a body with both `amount` and `usage`, or with neither."""
    if amount is not UNSET and usage is not UNSET:
        raise ProblemError(
            422,
            "invalid_usage",
            "amount and usage exclude each other: send one of them.",
            pointer=f"{pointer}/usage",
        )
    if amount is UNSET and usage is UNSET:
        raise ProblemError(
            422,
            "missing_member",
            "Say how much: amount, or usage by meters.",
            pointer=f"{pointer}/amount",
        )


def read_usage(
    items: list[UsageItemBody] | UnsetType, rate_card: str | UnsetType = UNSET, pointer: str = ""
) -> Usage | None:
    """The usage of a body; None if it states none. Raises ProblemError 422."""
    if items is UNSET:
        if rate_card is not UNSET:
            raise ProblemError(
                422,
                "invalid_usage",
                "rate_card prices usage: there is none here.",
                pointer=f"{pointer}/rate_card",
            )
        return None
    if rate_card is not UNSET:
        check_key(rate_card, f"{pointer}/rate_card")
    read = tuple(_item(item, f"{pointer}/usage/{place}") for place, item in enumerate(items))
    return Usage(read, None if rate_card is UNSET else rate_card)


def _item(item: UsageItemBody, pointer: str) -> UsageItem:
    source = event_id = None
    if item.event_id is not UNSET or item.source is not UNSET:
        if item.event_id is UNSET or item.source is UNSET:
            raise ProblemError(
                422,
                "invalid_usage",
                "source and event_id name an event together: send both or neither.",
                pointer=f"{pointer}/event_id",
            )
        source = _name(item.source, f"{pointer}/source")
        event_id = _name(item.event_id, f"{pointer}/event_id")
        if source == OUR_SOURCE:
            raise ProblemError(
                422,
                "invalid_usage",
                f"The source {OUR_SOURCE} names events that are made of charges: use your own.",
                pointer=f"{pointer}/source",
            )
    dimensions: dict[str, Any] = item.dimensions
    return UsageItem(
        meter=item.meter,
        quantity=quantity(item.quantity, f"{pointer}/quantity"),
        dimensions=dimensions,
        source=source,
        event_id=event_id,
    )


def quantity(given: int | str, pointer: str) -> int:
    """A quantity in 10^-18. Raises ProblemError 422 `invalid_quantity`."""
    if isinstance(given, int):
        return given * 10**QUANTITY_SCALE
    if _QUANTITY.fullmatch(given) is None:
        raise ProblemError(
            422,
            "invalid_quantity",
            "A quantity is a whole number or a plain decimal string: at most 18 digits before the "
            "point and 18 after, no sign, no exponent.",
            pointer=pointer,
        )
    whole, _, decimals = given.partition(".")
    return int(whole + decimals.ljust(QUANTITY_SCALE, "0"))


def _name(text: str, pointer: str) -> str:
    if not text or _CONTROL.search(text) or len(text.encode(errors="replace")) > NAME_BYTES_MAX:
        raise ProblemError(
            422,
            "invalid_usage",
            f"source and event_id have 1 to {NAME_BYTES_MAX} bytes and no control characters.",
            pointer=pointer,
        )
    return text
