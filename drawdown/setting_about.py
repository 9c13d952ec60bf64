"""How a setting is told: its meaning and bounds, beside the type that they annotate."""

from collections.abc import Callable

from msgspec import Meta, Struct

from drawdown import setting_values


class About(Struct, frozen=True):
    """What a setting means to people, and how its text is read if msgspec alone can not."""

    doc: str
    unit: str
    bounds: str = ""
    read: Callable[[str], object] | None = None
    is_secret: bool = False
    mask: Callable[[str], str] | None = None
    """What of a secret may be shown; None: nothing."""


def about(
    doc: str,
    unit: str,
    *,
    ge: int | None = None,
    le: int | None = None,
    bounds: str = "",
    read: Callable[[str], object] | None = None,
    is_secret: bool = False,
    mask: Callable[[str], str] | None = None,
) -> Meta:
    """The annotation of a setting; its bounds are told to people and to msgspec from one place."""
    if ge is not None and le is not None:
        bounds = f"{ge} to {le}"
    told = About(doc, unit, bounds, read, is_secret, mask)
    return Meta(ge=ge, le=le, extra={"about": told})


def about_database(doc: str) -> Meta:
    return about(
        doc,
        "URL",
        bounds="`postgresql://user:password@host:5432/name`",
        read=setting_values.read_database_url,
        is_secret=True,
        mask=setting_values.mask_database_url,
    )
