"""What Stripe answers when it refuses, in its own words and codes."""

from typing import Any, Final

from sandbox.shapes import Obj

DOCS: Final = "https://docs.stripe.com/error-codes/"


class StripeError(Exception):
    """A refusal: HTTP status and the members of `error`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        members: Obj = {"code": code, "message": message, "param": param, "type": kind, **more}
        if code is not None:
            members["doc_url"] = DOCS + code.replace("_", "-")
        self.members: Obj = {name: value for name, value in members.items() if value is not None}

    @property
    def code(self) -> str | None:
        return self.members.get("code")

    def body(self) -> Obj:
        return {"error": self.members}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> StripeError:
    """A request that Stripe understands and does not accept."""
    return StripeError(400, message, param=param, code=code)


def missing(kind: str, object_id: str, *, param: str = "id", status: int = 404) -> StripeError:
    """No such object. As a parameter of another request it is a 400."""
    noun = kind.rpartition(".")[2].replace("_", " ")
    message = f"No such {noun}: '{object_id}'"
    return StripeError(status, message, code="resource_missing", param=param)


def unknown_url(method: str, path: str) -> StripeError:
    """What is no route of this stand-in."""
    return StripeError(
        404,
        f"Unrecognized request URL ({method}: {path}). If you are trying to list objects, remove "
        "the trailing slash. If you are trying to retrieve an object, make sure you passed a "
        "valid (non-empty) identifier in your code.",
    )


def unexpected_state(noun: str, obj: Obj, doing: str) -> StripeError:
    """An intent that is not where the operation needs it."""
    error = StripeError(
        400,
        f"You cannot {doing} this {noun} because it has a status of {obj['status']}.",
        code=f"{obj['object']}_unexpected_state",
    )
    error.members[obj["object"]] = obj
    return error


TIME_MAX: Final = 4_102_444_800
"""The year 2100: Stripe's own bounds are nearer, and calendars end somewhere."""
INTERVALS_MAX: Final = {"day": 1_095, "week": 156, "month": 36, "year": 3}


def check_time(at: int, param: str) -> int:
    """The time. Raises StripeError 400 if it is before 1970 or too far ahead."""
    if not 0 < at < TIME_MAX:
        raise invalid("Invalid timestamp.", param=param, code="parameter_invalid_integer")
    return at


def check_interval(interval: str, count: int, param: str) -> None:
    """Raises StripeError 400 for no time, or more than three years."""
    if not 1 <= count <= INTERVALS_MAX[interval]:
        message = f"Between 1 and {INTERVALS_MAX[interval]} for the interval {interval}."
        raise invalid(message, param=param, code="parameter_invalid_integer")


def declined(code: str, decline_code: str | None, message: str, **more: Any) -> StripeError:
    """A card that did not pay."""
    return StripeError(
        402, message, kind="card_error", code=code, decline_code=decline_code, **more
    )
