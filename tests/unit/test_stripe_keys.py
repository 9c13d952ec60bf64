"""Stripe's keys together: what does not fit is refused before anything is sold."""

from datetime import timedelta

import pytest

from drawdown.settings import SettingsError, load
from drawdown.stripe_keys import mode_of, stripe_config
from drawdown.up import config_of
from ledger.customers import Installation
from meter.stripe_port import StripeConfig

TEST = {
    "STRIPE_SECRET_KEY": "sk_test_hunter2",
    "STRIPE_PUBLISHABLE_KEY": "pk_test_51abc",
    "STRIPE_WEBHOOK_SECRET": "whsec_hunter2,whsec_hunter2again",
}
LIVE = TEST | {"STRIPE_SECRET_KEY": "rk_live_hunter2", "STRIPE_PUBLISHABLE_KEY": "pk_live_51abc"}
BOOKS = Installation(
    installation_id="ins_1",
    mode=None,
    books_time_zone="UTC",
    cursor_secret=b"",
    clock_offset=timedelta(0),
)
PROXY = {"STRIPE_API_BASE": "https://proxy.example"}


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {**environ, name: ""}


def test_stripe_config_of_nothing_is_none() -> None:
    assert stripe_config(load({})) is None


def test_stripe_config_has_every_member() -> None:
    config = stripe_config(load(TEST | PROXY))
    assert config == StripeConfig(
        secret_key="sk_test_hunter2",
        publishable_key="pk_test_51abc",
        webhook_secrets=("whsec_hunter2", "whsec_hunter2again"),
        api_base="https://proxy.example",
    )
    assert "hunter2" not in f"{config} {config!r}"


@pytest.mark.parametrize(
    ("key", "mode"),
    [("sk_test_1", "test"), ("rk_test_1", "test"), ("sk_live_1", "live"), ("rk_live_1", "live")],
)
def test_mode_of_is_the_keys(key: str, mode: str) -> None:
    assert mode_of(StripeConfig(secret_key=key)) == mode


def test_stripe_config_naming_stripe_itself_is_naming_none() -> None:
    for name in ("https://api.stripe.com", "https://api.stripe.com/"):
        config = stripe_config(load(LIVE | {"STRIPE_API_BASE": name}))
        assert config is not None
        assert config.api_base is None


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        (LIVE | PROXY, ["STRIPE_API_BASE"]),
        (LIVE | {"STRIPE_API_BASE": "http://127.0.0.1:12111"}, ["STRIPE_API_BASE"]),
        (LIVE | {"STRIPE_API_BASE": "https://api.stripe.com.evil.example"}, ["STRIPE_API_BASE"]),
        (TEST | {"STRIPE_PUBLISHABLE_KEY": "pk_live_51abc"}, ["STRIPE_PUBLISHABLE_KEY"]),
        (LIVE | {"STRIPE_PUBLISHABLE_KEY": "pk_test_51abc"}, ["STRIPE_PUBLISHABLE_KEY"]),
        (without(TEST, "STRIPE_WEBHOOK_SECRET"), ["STRIPE_WEBHOOK_SECRET"]),
        (without(TEST, "STRIPE_SECRET_KEY"), ["STRIPE_SECRET_KEY"]),
        (PROXY, ["STRIPE_SECRET_KEY"]),
        (
            without(LIVE | PROXY, "STRIPE_WEBHOOK_SECRET")
            | {"STRIPE_PUBLISHABLE_KEY": "pk_test_1"},
            ["STRIPE_PUBLISHABLE_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_BASE"],
        ),
    ],
)
def test_stripe_config_misfits_are_told_together(environ: dict[str, str], names: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        stripe_config(load(environ))
    assert [error.partition(":")[0] for error in caught.value.errors] == names
    assert "hunter2" not in str(caught.value)


def test_config_of_passes_on_what_stripe_needs() -> None:
    settings = load({"DRAWDOWN_FREEZE_ON_FRAUD_WARNING": "true"})
    stripe = StripeConfig(secret_key="sk_test_1")
    config = config_of(settings, BOOKS, stripe)
    assert (config.stripe, config.freeze_on_fraud_warning) == (stripe, True)
    assert config_of(load({}), BOOKS).stripe is None
    assert not config_of(load({}), BOOKS).freeze_on_fraud_warning
