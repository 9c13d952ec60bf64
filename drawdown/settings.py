"""Settings: read once from the environment into one frozen Struct, every mistake told at once.

An empty variable counts as not set. A secret may be in a file instead: NAME_FILE holds its path.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from drawdown import setting_values
from drawdown.setting_about import About, about, about_database
from drawdown.setting_values import MASK, Address, RateLimit, SignupGrant

PREFIX: Final = "DRAWDOWN_"
UNPREFIXED: Final = ("database_url", "stripe_")
"""How fields begin whose variables have the names that other programs use too."""
LIFETIME_SECONDS_MAX: Final = 604_800

OTHER_NAMES: Final[Mapping[str, str]] = {
    "DRAWDOWN_TEST_DATABASE_URL": "PostgreSQL for the tests, instead of the embedded one. Read by "
    "the tests only.",
}
"""Known names that the service itself does not read, with their doc lines."""

Source = Literal["default", "environment", "file"]
SWITCH = "true or false"


class SettingsError(Exception):
    """The environment is wrong. `errors` has one line for each mistake, without secret values."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


def _environment_name(field: str) -> str:
    return ("" if field.startswith(UNPREFIXED) else PREFIX) + field.upper()


class Settings(Struct, frozen=True, kw_only=True, rename=_environment_name):
    """All settings of the service. A field's encoded name is the name of its variable."""

    database_url: Annotated[
        str | None,
        about_database("PostgreSQL as the service's role. Not set: `up` runs the embedded one."),
    ] = None
    owner_database_url: Annotated[
        str | None,
        about_database(
            "PostgreSQL as the owner of the schema, for migrations. Not set: `DATABASE_URL`."
        ),
    ] = None
    reports_database_url: Annotated[
        str | None,
        about_database("A copy of it that reports are read from. Not set: the database itself."),
    ] = None
    stripe_secret_key: Annotated[
        str | None,
        about(
            "Stripe's secret key, or a restricted one. Not set: nothing is sold. Its first use "
            "fixes the mode of the books. A sandbox ignores it.",
            "key",
            bounds="`sk_test_…`, `sk_live_…`, `rk_test_…` or `rk_live_…`",
            read=setting_values.read_stripe_secret_key,
            is_secret=True,
            mask=setting_values.mask_stripe_key,
        ),
    ] = None
    stripe_publishable_key: Annotated[
        str | None,
        about(
            "Stripe's key for browsers, of the same mode: forms in your own pages need it.",
            "key",
            bounds="`pk_test_…` or `pk_live_…`",
            read=setting_values.read_stripe_publishable_key,
        ),
    ] = None
    stripe_webhook_secret: Annotated[
        tuple[str, ...],
        about(
            "What Stripe signs its webhooks with. Several while they are exchanged: any is right.",
            "secrets",
            bounds="`whsec_…`, comma separated",
            read=setting_values.read_stripe_webhook_secrets,
            is_secret=True,
        ),
    ] = ()
    stripe_api_base: Annotated[
        str | None,
        about(
            "Where Stripe is, for a proxy or a stand-in; with test keys only. Not set: Stripe "
            "itself.",
            "URL",
            bounds="`https://…` without a path; `http://` on this machine",
            read=setting_values.read_stripe_api_base,
        ),
    ] = None
    db_pool_max: Annotated[
        int, about("Most connections of one process.", "connections", ge=2, le=100)
    ] = 10
    create_customers: Annotated[
        bool,
        about(
            "Reserve, consume, grant and events create an unknown customer.",
            "switch",
            bounds=SWITCH,
        ),
    ] = False
    signup_grant: Annotated[
        SignupGrant | None,
        about(
            "Promotional credits given once to each new customer.",
            "JSON",
            bounds='`{"amount": "100", "expires_in": seconds, "priority": 0 to 100}`, '
            "the last two may be left out",
            read=setting_values.read_signup_grant,
        ),
    ] = None
    clawback: Annotated[
        Literal["owe", "zero"],
        about(
            "What becomes of bought credits that were spent when their money goes back: "
            "a debt, or a write-off.",
            "policy",
            bounds="owe or zero",
        ),
    ] = "owe"
    usage_stream: Annotated[
        bool,
        about(
            "Usage is told to Stripe by its meter event stream, 100 pieces a call, and not by a "
            "call for each. Stripe then says later, and by samples, what it can't count.",
            "switch",
            bounds=SWITCH,
        ),
    ] = False
    freeze_on_fraud_warning: Annotated[
        bool,
        about("A fraud warning freezes what is left of its purchase.", "switch", bounds=SWITCH),
    ] = False
    past_due_grace_seconds: Annotated[
        int,
        about(
            "How long a subscription whose renewal is not paid still gives access, from the start "
            "of the period.",
            "seconds",
            ge=0,
            le=7_776_000,
        ),
    ] = 0
    portal_cancel: Annotated[
        bool,
        about("Customers may end a subscription on Stripe's page.", "switch", bounds=SWITCH),
    ] = True
    hold_lifetime_max: Annotated[
        int,
        about(
            "Longest life of a hold, extensions included.",
            "seconds",
            ge=1,
            le=LIFETIME_SECONDS_MAX,
        ),
    ] = LIFETIME_SECONDS_MAX
    queue_max: Annotated[
        int,
        about(
            "Most requests waiting for the books in one process; beyond it 503 `queue_full`.",
            "requests",
            ge=1,
            le=100_000,
        ),
    ] = 10_000
    # Its bound and that of the drain add up to less than the 30 s in which a process must stop.
    queue_seconds_max: Annotated[
        int,
        about(
            "Longest wait of one request for the books; beyond it 503 `queue_full`.",
            "seconds",
            ge=1,
            le=8,
        ),
    ] = 5
    drain_seconds: Annotated[
        int,
        about("How long a stopping process goes on accepting requests.", "seconds", ge=0, le=20),
    ] = 5
    rate_limit: Annotated[
        RateLimit | None,
        about(
            "Most requests in a window, per key and process; beyond it 429.",
            "requests/seconds",
            bounds="such as `100/60`; `off`: no limit",
            read=setting_values.read_rate_limit,
        ),
    ] = None
    cors_origins: Annotated[
        tuple[str, ...],
        about(
            "Origins whose pages may read the API (GET only).",
            "origins",
            bounds="comma separated, such as `https://app.example.com`",
            read=setting_values.read_origins,
        ),
    ] = ()
    metrics_bind: Annotated[
        Address | None,
        about(
            "Where `/metrics` is served alone. Not set: on the main port.",
            "host:port",
            bounds="such as `127.0.0.1:9102`",
            read=setting_values.read_address,
        ),
    ] = None
    embedded_user: Annotated[
        str | None,
        about(
            "System user that runs the embedded PostgreSQL when drawdown is root. "
            "Not set: `postgres`, `drawdown` or `nobody`.",
            "user name",
            bounds="a user of this system",
        ),
    ] = None
    event_retention_days: Annotated[
        int,
        about(
            "How long raw events are kept after the end of their month. What meters counted of "
            "them stays.",
            "days",
            ge=62,
            le=36_500,
        ),
    ] = 400
    late_grace_seconds: Annotated[
        int,
        about(
            "How long after its end a window of a meter is priced that is priced once: events "
            "arrive late.",
            "seconds",
            ge=0,
            le=604_800,
        ),
    ] = 300
    late_usage: Annotated[
        Literal["write_off", "next_invoice"],
        about(
            "What becomes of usage billed by Stripe that is known after its invoice was final: it "
            "is listed, or the subscription's next invoice bills it.",
            "policy",
            bounds="write_off or next_invoice",
        ),
    ] = "write_off"
    books_time_zone: Annotated[
        ZoneInfo,
        about(
            "Time zone of the accounting day.",
            "IANA name",
            bounds="such as `Europe/Berlin`",
            read=setting_values.read_time_zone,
        ),
    ] = ZoneInfo("UTC")
    api_key: Annotated[
        str | None,
        about(
            "API key that `drawdown replay` sends.",
            "key",
            bounds="as `drawdown keys create` printed it",
            is_secret=True,
        ),
    ] = None
    traces: Annotated[
        str | None,
        about(
            "Folder of the two traces that `drawdown demo` replays. "
            "Not set: `shared/data` beside the clone, else the samples that come with drawdown.",
            "folder",
            bounds="a path",
        ),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        about("Least severity that is logged.", "level", bounds="debug, info, warning or error"),
    ] = "info"


class Setting(Struct, frozen=True):
    """One setting as the program knows it. `type` is the annotated type of its field."""

    field: str
    name: str
    type: Any
    default: object
    about: About


class Effective(Struct, frozen=True):
    """A setting in force: its value as text, secrets masked (None = not set), and its source."""

    name: str
    value: str | None
    source: Source


def _settings_of(struct: type[Struct]) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            field=field.name,
            name=field.encode_name,
            type=field.type,
            default=field.default,
            about=field.type.__metadata__[0].extra["about"],
        )
        for field in msgspec.structs.fields(struct)
    )


SETTINGS: Final = _settings_of(Settings)


def load(environ: Mapping[str, str]) -> Settings:
    """Read every setting. Raises SettingsError with all that is wrong, unknown names included."""
    errors = _unknown_names(environ)
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        try:
            text = _text_of(setting, environ)
            if text:
                values[setting.field] = _read(setting, text)
        except (ValueError, OSError, msgspec.MsgspecError) as exc:
            errors.append(f"{setting.name}: {_words(exc)}")
    if errors:
        raise SettingsError(errors)
    return Settings(**values)


def describe(settings: Settings, environ: Mapping[str, str]) -> list[Effective]:
    """What is in force and where each value came from, given the environment it was read from."""
    return [
        Effective(
            name=setting.name,
            value=show(setting, getattr(settings, setting.field)),
            source=_source_of(setting, environ),
        )
        for setting in SETTINGS
    ]


def show(setting: Setting, value: object) -> str | None:
    """A value as it would be written in the environment, secrets masked; None = not set."""
    if value is None or value == ():
        return None
    if setting.about.is_secret:
        mask = setting.about.mask
        return mask(value) if mask is not None and isinstance(value, str) else MASK
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    return str(value)


def _source_of(setting: Setting, environ: Mapping[str, str]) -> Source:
    if environ.get(setting.name):
        return "environment"
    if setting.about.is_secret and environ.get(f"{setting.name}_FILE"):
        return "file"
    return "default"


def _text_of(setting: Setting, environ: Mapping[str, str]) -> str:
    text = environ.get(setting.name, "")
    if not setting.about.is_secret or not (path := environ.get(f"{setting.name}_FILE")):
        return text
    if text:
        raise ValueError(f"is set twice, by its name and by {setting.name}_FILE")
    text = Path(path).read_text().strip()
    if not text:
        raise ValueError(f"the file {path} is empty")
    return text


def _read(setting: Setting, text: str) -> object:
    about = setting.about
    if about.read is not None:
        return about.read(text)
    try:
        value = msgspec.convert(text, setting.type, strict=False)
    except msgspec.ValidationError as exc:
        raise ValueError(f"must be {about.bounds}, not {text!r}") from exc
    # msgspec takes "1e3" and "5.0" for whole numbers too.
    if type(value) is int and str(value) != text:
        raise ValueError(f"must be {about.bounds} in plain digits, not {text!r}")
    return value


def _words(exc: Exception) -> str:
    if isinstance(exc, UnicodeDecodeError):
        return "the file is not UTF-8 text"
    if isinstance(exc, OSError):
        return f"can't read {exc.filename}: {exc.strerror}"
    return str(exc)


def _unknown_names(environ: Mapping[str, str]) -> list[str]:
    secrets = {f"{setting.name}_FILE" for setting in SETTINGS if setting.about.is_secret}
    known = {setting.name for setting in SETTINGS} | secrets | OTHER_NAMES.keys()
    # Compared without the prefix, which all have in common and some wrongly add.
    bare = {name.removeprefix(PREFIX): name for name in sorted(known)}
    errors: list[str] = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
            hint = f"did you mean {bare[close[0]]}?" if close else "see `drawdown config`"
            errors.append(f"{name}: unknown setting; {hint}")
    return errors
