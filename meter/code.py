"""The form of a problem code."""

from msgspec import Struct


class Code(Struct, frozen=True):
    """One problem code: where it appears, and what people need to know of it."""

    statuses: tuple[int, ...]
    title: str
    """The same for every occurrence."""
    meaning: str
    advice: str
    """What to do about it."""
    retryable: bool = False
    """Sending the same request again, unchanged, may succeed."""
