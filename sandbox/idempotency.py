"""Idempotency keys as Stripe keeps them: the first answer again, or a refusal of other content."""

from typing import Any, Final

import msgspec

from sandbox.calendar import DAY
from sandbox.errors import StripeError, invalid
from sandbox.shapes import Obj

KEY_MAX: Final = 255
KEPT_SECONDS: Final = DAY
KEPT_SECONDS_V2: Final = 30 * DAY


class Answer(msgspec.Struct):
    """What a request came to."""

    status: int
    body: str
    headers: dict[str, str] = {}


class Kept(msgspec.Struct):
    """An answer under its key."""

    print: str
    at: int
    answer: Answer


def fingerprint(method: str, path: str, params: Any) -> str:
    """What must be the same in a repetition."""
    return msgspec.json.encode([method, path, params], order="sorted").decode()


class Memory:
    """All keys. What is still running is known too."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.running: dict[str, str] = {}

    def recall(self, key: str, print_: str, now: int, *, is_v2: bool = False) -> Answer | None:
        """The first answer of this key, if there is one. Raises StripeError 400, 409."""
        if len(key) > KEY_MAX:
            message = f"Idempotency keys have up to {KEY_MAX} characters."
            raise invalid(message, code="idempotency_key_too_long")
        found = self.kept.get(key)
        if found is not None and now - found.at >= (KEPT_SECONDS_V2 if is_v2 else KEPT_SECONDS):
            del self.kept[key]
            found = None
        other = found.print if found is not None else self.running.get(key)
        if other is not None and other != print_:
            raise StripeError(
                400,
                "Keys for idempotent requests can only be used with the same parameters they were "
                f"first used with. Try using a key other than '{key}' if you meant to execute a "
                "different request.",
                kind="idempotency_error",
            )
        if found is None and key in self.running:
            raise in_use(key)
        return None if found is None else found.answer

    def keep(self, key: str, print_: str, answer: Answer, now: int) -> None:
        self.kept[key] = Kept(print_, now, answer)

    def prune(self, now: int) -> None:
        """Forget what nobody can repeat any more."""
        gone = [key for key, one in self.kept.items() if now - one.at >= KEPT_SECONDS_V2]
        for key in gone:
            del self.kept[key]

    def dump(self) -> Obj:
        return msgspec.to_builtins(self.kept)

    def load(self, dumped: Obj) -> None:
        self.kept = msgspec.convert(dumped, dict[str, Kept])


def in_use(key: str) -> StripeError:
    """Another request with this key is not done."""
    return StripeError(
        409,
        f"There is currently another in-progress request using this Idempotency Key ({key}). "
        "Please try again later.",
        code="idempotency_key_in_use",
    )
