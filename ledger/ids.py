"""Public ids: a prefix, the customer, and a number of that customer. Sortable, no look-up needed.

`hld_0000000000000001000000000000000A` = hold 10 of customer 1, both as 16 hexadecimal digits: an id
names its shard and its row, and later ids sort after earlier ones.
"""

import re
from typing import Final

_NO_MAX: Final = 2**63 - 1
_ID: Final = re.compile(r"([a-z]{3})_([0-9A-F]{16})([0-9A-F]{16})", re.ASCII)


def public_id(prefix: str, customer_no: int, no: int) -> str:
    """The public id of object `no` of customer `customer_no`, such as `hld_…`."""
    return f"{prefix}_{customer_no:016X}{no:016X}"


def parse_id(prefix: str, text: str) -> tuple[int, int] | None:
    """The (customer_no, no) that a public id names; None if it is not an id of this kind."""
    match = _ID.fullmatch(text)
    if match is None or match[1] != prefix:
        return None
    numbers = int(match[2], 16), int(match[3], 16)
    return None if max(numbers) > _NO_MAX else numbers
