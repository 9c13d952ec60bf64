"""Public ids: a prefix, the customer, and a number of that customer. Sortable, no look-up needed.

`hld_00000000000010000000000000A` = hold 10 of customer 1: both numbers in Crockford's base 32
(13 digits hold 64 bits), so an id names its shard and its row, and later ids sort after earlier.
"""

from typing import Final

_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}
_WIDTH: Final = 13
_NO_MAX: Final = 2**63 - 1


def _encode(number: int) -> str:
    digits = ""
    for _ in range(_WIDTH):
        number, digit = divmod(number, 32)
        digits = _DIGITS[digit] + digits
    return digits


# The customer's half repeats for every id of one customer: worth remembering the last few.
_customers: dict[int, str] = {}
_CUSTOMERS_MAX: Final = 10_000


def public_id(prefix: str, customer_no: int, no: int) -> str:
    """The public id of object `no` of customer `customer_no`, such as `hld_…`."""
    shard = _customers.get(customer_no)
    if shard is None:
        if len(_customers) >= _CUSTOMERS_MAX:
            _customers.clear()
        shard = _customers[customer_no] = _encode(customer_no)
    return f"{prefix}_{shard}{_encode(no)}"


def parse_id(prefix: str, text: str) -> tuple[int, int] | None:
    """The (customer_no, no) that a public id names; None if it is not an id of this kind."""
    if len(text) != len(prefix) + 1 + 2 * _WIDTH or not text.startswith(prefix + "_"):
        return None
    numbers: list[int] = []
    start = len(prefix) + 1
    for half in (text[start : start + _WIDTH], text[start + _WIDTH :]):
        number = 0
        for digit in half:
            value = _VALUES.get(digit)
            if value is None:
                return None
            number = number * 32 + value
        if number > _NO_MAX:
            return None
        numbers.append(number)
    return numbers[0], numbers[1]
