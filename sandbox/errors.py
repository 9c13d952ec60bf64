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


def declined(code: str, decline_code: str | None, message: str, **more: Any) -> StripeError:
    """A card that did not pay."""
    return StripeError(
        402, message, kind="card_error", code=code, decline_code=decline_code, **more
    )
