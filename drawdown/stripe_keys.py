"""Which Stripe account the service works with: keys that fit together, of the books' own mode.

Each variable by itself is read in `setting_values`. What they are together is asked only where
Stripe is used, so that a sandbox and the operator's other commands can do without.
"""

from typing import Final, Literal

import structlog

from drawdown.database import StartError
from drawdown.settings import Settings, SettingsError
from ledger import customers
from ledger.customers import Installation
from meter.stripe_port import StripeConfig
from sql.pool import Pool, transaction

STRIPE_ITSELF: Final = "https://api.stripe.com"
SECRET_KEY: Final = "STRIPE_SECRET_KEY"

log = structlog.get_logger()


def mode_of(config: StripeConfig) -> Literal["test", "live"]:
    """Of the key: what it does is played, or real."""
    return "live" if config.is_live else "test"


def names_set(settings: Settings) -> list[str]:
    """The variables of Stripe that are set."""
    found = {
        SECRET_KEY: settings.stripe_secret_key,
        "STRIPE_PUBLISHABLE_KEY": settings.stripe_publishable_key,
        "STRIPE_WEBHOOK_SECRET": settings.stripe_webhook_secret,
        "STRIPE_API_BASE": settings.stripe_api_base,
    }
    return [name for name, value in found.items() if value]


def stripe_config(settings: Settings) -> StripeConfig | None:
    """The account of the environment; None if it names none. Raises SettingsError."""
    names, key = names_set(settings), settings.stripe_secret_key
    if key is None:
        if names:
            raise SettingsError([f"{SECRET_KEY}: is not set, but {', '.join(names)}: set all"])
        return None
    config = StripeConfig(
        secret_key=key,
        publishable_key=settings.stripe_publishable_key,
        webhook_secrets=settings.stripe_webhook_secret,
        # Stripe has several addresses: to name this one is to name none.
        api_base=None if settings.stripe_api_base == STRIPE_ITSELF else settings.stripe_api_base,
    )
    if errors := _misfits(config):
        raise SettingsError(errors)
    return config


def _misfits(config: StripeConfig) -> list[str]:
    errors: list[str] = []
    mode, shown = mode_of(config), config.publishable_key
    if shown is not None and not shown.startswith(f"pk_{mode}_"):
        errors.append(f"STRIPE_PUBLISHABLE_KEY: is not of mode {mode}, as {SECRET_KEY} is")
    if not config.webhook_secrets:
        errors.append(
            f"STRIPE_WEBHOOK_SECRET: must be set with {SECRET_KEY}: Stripe shows it where the"
            " webhook endpoint is made"
        )
    if config.is_live and config.api_base is not None:
        errors.append(f"STRIPE_API_BASE: a live key goes to {STRIPE_ITSELF} only: leave it out")
    return errors


async def fixed_account(
    pool: Pool, settings: Settings, installation: Installation
) -> StripeConfig | None:
    """The account of these books. The first key fixes their mode for ever.

    A sandbox has the stand-in, and never takes keys of the environment. Raises SettingsError,
    StartError for a key of the other mode.
    """
    if installation.mode == "sandbox":
        if names := names_set(settings):
            log.warning("stripe_settings_ignored", names=names, why="a sandbox has its stand-in")
        return None
    config = stripe_config(settings)
    if config is None:
        return None
    wanted = mode_of(config)
    async with transaction(pool) as conn:
        mode = await customers.fix_mode(conn, wanted)
    if mode != wanted:
        raise StartError(wrong_mode(wanted, mode))
    return config


def wrong_mode(wanted: str, mode: str) -> str:
    """What to do about a key of another mode than the books'."""
    return (
        f"{SECRET_KEY} is a {wanted} key, but these books are in {mode} mode since their first key:"
        f" set a {mode} key, or use another database for {wanted} mode"
    )
