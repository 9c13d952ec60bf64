"""Readings: what a meter reads of one event's data. Pure: every count of usage goes through here.

A meter first asks its filters. What passes them has one value for each dimension of `group_by`
(missing and null are one group, the empty string is another) and, but for `count`, a value at
`value_property`. A meter that can't read an event rejects it; the others still count it.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from meter import genai
from meter.filters import Test, properties_of, test_of
from meter.paths import DECIMALS_MAX, DIGITS_MAX, decimal_of, decimal_text, getter

DIMENSION_BYTES_MAX: Final = 255
"""Of one value of a dimension, or of `unique`: they are keys of rows."""
DIMENSIONS_BYTES_MAX: Final = 1_000
"""Of all dimensions of one event."""
SIGNED: Final = frozenset({"min", "max", "avg", "latest"})
"""Aggregations that may read negative numbers. A sum of usage never falls: correct instead."""
NO_DIMS: Final = "[]"
BILLABLE: Final = "billable"
"""The member of `llm.usage` events that is worked out on reading, of what was sent."""

Data = Mapping[str, Any]
Value = int | Decimal | str | None

_encode = msgspec.json.Encoder().encode


class Definition(Struct, frozen=True):
    """What of a meter decides its readings, hashable."""

    event_type: str
    aggregation: str
    value_property: str | None
    group_by: tuple[tuple[str, str], ...]
    filters: str | None


class Unreadable(ValueError):
    """A meter can't read the event. Says what it expected, and where."""


class Reading(Struct, frozen=True):
    """One event as one meter counts it."""

    value: Value
    """A number; for `unique` a text; for `count` None."""
    dims: str
    """JSON: the values of the dimensions, in the order of `group_by`."""


class Reader(Struct, frozen=True, eq=False):
    """How one meter reads events."""

    test: Test | None
    value: Callable[[Data], Value]
    dims: Callable[[Data], str]
    is_billable: bool
    """Whether it reads what `llm.usage` events are billed for."""

    def read(self, data: Data, *, by_call: bool = False) -> Reading | None:
        """The reading; None for an event that the filters leave out. Raises Unreadable.

        `by_call`: a charge recorded the event for this meter, so no filter is asked.
        """
        if self.test is not None and not by_call and not self.test(data):
            return None
        return Reading(self.value(data), self.dims(data))


def read_all(
    readers: Sequence[Reader], data: Data, *, by_call: bool = False
) -> list[Reading | Unreadable | None]:
    """What each meter reads of one event: a reading, None if it is filtered out, or why not."""
    found: list[Reading | Unreadable | None] = []
    full: Data | None = None
    for reader in readers:
        try:
            if reader.is_billable and not by_call:
                full = with_billable(data) if full is None else full
                found.append(reader.read(full))
            else:
                found.append(reader.read(data, by_call=by_call))
        except Unreadable as error:
            found.append(error)
    return found


@lru_cache(maxsize=10_000)
def reader_of(definition: Definition) -> Reader:
    """The reader of a definition that was checked. Raises PathError and FilterError else."""
    paths = [definition.value_property or "", *(path for _, path in definition.group_by)]
    filters = definition.filters
    is_llm = definition.event_type == genai.EVENT_TYPE
    return Reader(
        test=None if filters is None else test_of(_exact(filters)),
        value=_value(definition),
        dims=_dims(definition),
        is_billable=is_llm
        and (any(p.partition(".")[0] == BILLABLE for p in paths) or BILLABLE in (filters or "")),
    )


_exact = msgspec.json.Decoder(float_hook=Decimal).decode


def paths_of(definition: Definition) -> set[str]:
    """The places in an event's data that a meter looks at."""
    paths = {path for _, path in definition.group_by}
    if definition.value_property is not None:
        paths.add(definition.value_property)
    if definition.filters is not None:
        paths |= properties_of(_exact(definition.filters))
    if any(path.partition(".")[0] == BILLABLE for path in paths):
        paths |= genai.MEMBERS
    return paths


def with_billable(data: Data) -> Data:
    """The data of an `llm.usage` event with what is billed of it. Raises Unreadable."""
    try:
        counts = genai.billable(data)
    except genai.TokensError as error:
        raise Unreadable(str(error)) from None
    return {**data, **{f"{BILLABLE}.{name}": count for name, count in counts.items()}}


def _value(definition: Definition) -> Callable[[Data], Value]:
    name, aggregation = definition.value_property, definition.aggregation
    if name is None:
        return lambda _: None
    get = getter(name)
    if aggregation == "unique":
        return lambda data: _unique(name, get(data))
    is_signed = aggregation in SIGNED

    def number(data: Data) -> Value:
        found = get(data)
        # Most are whole numbers of usual size: nothing else to look at.
        if type(found) is int and 0 <= found < 2**62:
            return found
        value = decimal_of(found)
        if value is None or (value < 0 and not is_signed):
            raise Unreadable(_number_words(name, is_signed=is_signed))
        return value

    return number


def _number_words(name: str, *, is_signed: bool) -> str:
    least = "" if is_signed else " of at least 0"
    return (
        f"{name} must be a number{least}, or one as a decimal string, of at most {DIGITS_MAX} "
        f"digits and {DECIMALS_MAX} decimals"
    )


def _unique(name: str, found: Any) -> str:
    text = _text(name, found)
    if text is None:
        raise Unreadable(f"{name} is missing: it is what is counted")
    return text


def _dims(definition: Definition) -> Callable[[Data], str]:
    gets = [(path, getter(path)) for _, path in definition.group_by]
    if not gets:
        return lambda _: NO_DIMS
    if len(gets) == 1:
        [(path, get)] = gets

        def dim(data: Data) -> str:
            found = get(data)
            if type(found) is str and len(found) <= DIMENSION_BYTES_MAX // 4:
                return _single(found)
            return dims_text([_text(path, found)])

        return dim

    def dims(data: Data) -> str:
        return dims_text([_text(path, get(data)) for path, get in gets])

    return dims


@lru_cache(maxsize=10_000)
def _single(text: str) -> str:
    return dims_text([text])


def dims_text(values: list[str | None]) -> str:
    """Values of dimensions as the key of their group. Raises Unreadable if they are too long."""
    text = _encode(values)
    if len(text) > DIMENSIONS_BYTES_MAX:
        raise Unreadable(f"the dimensions have more than {DIMENSIONS_BYTES_MAX} bytes together")
    return text.decode()


def _text(name: str, found: Any) -> str | None:
    """A scalar as text: how dimensions and unique values are told apart."""
    if found is None:
        return None
    if isinstance(found, str):
        text = found
    elif isinstance(found, bool):
        text = "true" if found else "false"
    elif isinstance(found, int | Decimal):
        number = decimal_of(found)
        if number is None:
            raise Unreadable(f"{name} has more than {DIGITS_MAX} digits or {DECIMALS_MAX} decimals")
        text = decimal_text(number)
    else:
        raise Unreadable(f"{name} must be a string, a number, true, false or null")
    is_short = len(text) <= DIMENSION_BYTES_MAX // 4
    if not is_short and len(text.encode()) > DIMENSION_BYTES_MAX:
        raise Unreadable(f"{name} has more than {DIMENSION_BYTES_MAX} bytes")
    return text


def data_of(
    definition: Definition, quantity: int | Decimal | None, dimensions: Mapping[str, str | None]
) -> dict[str, Any]:
    """Data that the meter of `definition` reads as this: what a charge records of its usage."""
    # A member whose name is a whole path is found first, however many steps it has.
    data: dict[str, Any] = {
        path: value
        for name, path in definition.group_by
        if (value := dimensions.get(name)) is not None
    }
    if definition.value_property is not None and quantity is not None:
        data[definition.value_property] = decimal_text(quantity)
    return data
