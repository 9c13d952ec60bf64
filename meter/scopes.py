"""What an API key may do: the scopes, and who may hold which."""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from meter.problems import ProblemError

SCOPES: Final[Mapping[str, str]] = {
    "usage:write": "reserve, capture, void, extend, consume, reverse; events and corrections",
    "usage:read": "read holds, charges, requests and usage",
    "grants:write": "make and void grants",
    "customers:write": "make, change, close and erase customers, make customer tokens",
    "customers:read": "read customers, balances, statements and grants",
    "catalog:write": "change assets, meters, rate cards, packs and plans",
    "catalog:read": "read assets, meters, rate cards, packs and plans",
    "billing:write": "checkout, subscriptions, refunds, auto-top-up",
    "billing:read": "read purchases, invoices and subscriptions",
    "books:read": "read journals and reports",
    "books:write": "close periods",
    "admin": "everything, and keys, jobs, test clock",
}
"""Each scope and what it allows."""
UNBOUND_ONLY: Final = frozenset(
    {"catalog:write", "catalog:read", "books:read", "books:write", "admin"}
)
"""Scopes over the whole business: a key that is bound to one customer can't hold them."""
TOKEN_SCOPES: Final = frozenset({"customers:read", "usage:read", "billing:read"})
"""What a customer token can hold."""


class HasScopes(Protocol):
    """An API key, as far as scopes go."""

    @property
    def scopes(self) -> frozenset[str]: ...


def allows(key: HasScopes, scope: str) -> bool:
    """Whether the key may use routes of this scope."""
    scopes = key.scopes
    return scope in scopes or "admin" in scopes


def check_scopes(scopes: Iterable[str], *, is_bound: bool) -> frozenset[str]:
    """The scopes of a new key, bound to one customer or not.

    Raises ProblemError 422 `invalid_scopes`.
    """
    wanted = frozenset(scopes)
    if not wanted:
        raise _refused(f"choose at least one of {', '.join(SCOPES)}")
    if wanted - SCOPES.keys():
        raise _refused(f"choose from {', '.join(SCOPES)}")
    if is_bound and (over := sorted(wanted & UNBOUND_ONLY)):
        raise _refused(f"a key of one customer can't hold {', '.join(over)}")
    return wanted


def check_token_scopes(scopes: Iterable[str], parent: HasScopes) -> frozenset[str]:
    """The scopes of a new customer token: of those that tokens can hold, what its parent may do.

    Raises ProblemError 422 `invalid_scopes`.
    """
    wanted = frozenset(scopes)
    if not wanted or wanted - TOKEN_SCOPES:
        raise _refused(f"a token holds some of {', '.join(sorted(TOKEN_SCOPES))}")
    if over := sorted(scope for scope in wanted if not allows(parent, scope)):
        raise _refused(f"the key that makes the token lacks {', '.join(over)}")
    return wanted


def _refused(words: str) -> ProblemError:
    return ProblemError(422, "invalid_scopes", f"scopes: {words}.", pointer="/scopes")
