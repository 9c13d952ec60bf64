"""Settings: every mistake is told at once, secrets never, and every value can be shown."""

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drawdown.setting_values import Address, RateLimit, SignupGrant, mask_database_url
from drawdown.settings import SETTINGS, Settings, SettingsError, describe, load

URL = "postgresql://app:hunter2@db.internal:5432/books"

GOOD = {
    "DATABASE_URL": URL,
    "DRAWDOWN_OWNER_DATABASE_URL": "postgres://owner@/books?host=/run/postgresql",
    "DRAWDOWN_REPORTS_DATABASE_URL": "postgresql://reader@copy.internal/books",
    "STRIPE_SECRET_KEY": "rk_live_hunter2",
    "STRIPE_PUBLISHABLE_KEY": "pk_live_51abc",
    "STRIPE_WEBHOOK_SECRET": "whsec_hunter2, whsec_hunter2again",
    "STRIPE_API_BASE": "https://api.stripe.com/",
    "DRAWDOWN_DB_POOL_MAX": "2",
    "DRAWDOWN_CREATE_CUSTOMERS": "true",
    "DRAWDOWN_SIGNUP_GRANT": '{"amount": "5.5", "priority": 10, "expires_in": 60}',
    "DRAWDOWN_CLAWBACK": "zero",
    "DRAWDOWN_USAGE_STREAM": "true",
    "DRAWDOWN_FREEZE_ON_FRAUD_WARNING": "true",
    "DRAWDOWN_PAST_DUE_GRACE_SECONDS": "86400",
    "DRAWDOWN_PORTAL_CANCEL": "false",
    "DRAWDOWN_HOLD_LIFETIME_MAX": "3600",
    "DRAWDOWN_QUEUE_MAX": "500",
    "DRAWDOWN_QUEUE_SECONDS_MAX": "1",
    "DRAWDOWN_DRAIN_SECONDS": "0",
    "DRAWDOWN_RATE_LIMIT": "100/60",
    "DRAWDOWN_CORS_ORIGINS": "https://a.example,http://localhost:3000",
    "DRAWDOWN_METRICS_BIND": "[::1]:9102",
    "DRAWDOWN_EMBEDDED_USER": "books",
    "DRAWDOWN_BOOKS_TIME_ZONE": "Europe/Berlin",
    "DRAWDOWN_EVENT_RETENTION_DAYS": "90",
    "DRAWDOWN_LATE_GRACE_SECONDS": "60",
    "DRAWDOWN_LATE_USAGE": "next_invoice",
    "DRAWDOWN_API_KEY": "ddk_hunter2",
    "DRAWDOWN_TRACES": "/srv/traces",
    "DRAWDOWN_LOG_LEVEL": "debug",
}


def errors_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return caught.value.errors


def test_load_empty_environment_gives_the_defaults() -> None:
    assert load({"PATH": "/bin"}) == Settings()


def test_load_all_set_reads_every_setting() -> None:
    assert GOOD.keys() == {setting.name for setting in SETTINGS}
    assert load(GOOD) == Settings(
        database_url=URL,
        owner_database_url="postgres://owner@/books?host=/run/postgresql",
        reports_database_url="postgresql://reader@copy.internal/books",
        stripe_secret_key="rk_live_hunter2",
        stripe_publishable_key="pk_live_51abc",
        stripe_webhook_secret=("whsec_hunter2", "whsec_hunter2again"),
        stripe_api_base="https://api.stripe.com",
        db_pool_max=2,
        create_customers=True,
        signup_grant=SignupGrant(amount=5_500_000_000, expires_in=60, priority=10),
        clawback="zero",
        usage_stream=True,
        freeze_on_fraud_warning=True,
        past_due_grace_seconds=86_400,
        portal_cancel=False,
        hold_lifetime_max=3600,
        queue_max=500,
        queue_seconds_max=1,
        drain_seconds=0,
        rate_limit=RateLimit(requests=100, seconds=60),
        cors_origins=("https://a.example", "http://localhost:3000"),
        metrics_bind=Address(host="::1", port=9102),
        embedded_user="books",
        books_time_zone=ZoneInfo("Europe/Berlin"),
        event_retention_days=90,
        late_grace_seconds=60,
        late_usage="next_invoice",
        api_key="ddk_hunter2",
        traces="/srv/traces",
        log_level="debug",
    )


def test_load_empty_values_count_as_not_set() -> None:
    assert load(dict.fromkeys(GOOD, "")) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("DATABASE_URL", "mysql://app:hunter2@db/books", "must be a URL such as postgresql://"),
        ("STRIPE_SECRET_KEY", "pk_test_hunter2", "must be a secret or restricted key"),
        ("STRIPE_SECRET_KEY", "sk_test_", "must be a secret or restricted key"),
        ("STRIPE_SECRET_KEY", "sk_test_hunter2\r\nX: 1", "must be a secret or restricted key"),
        ("STRIPE_PUBLISHABLE_KEY", "sk_live_hunter2", "must be a publishable key"),
        ("STRIPE_WEBHOOK_SECRET", "hunter2", "must be a signing secret: it begins with whsec_"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_1,hunter2", "secret 2 of 2 must be a signing secret"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_hunter2,", "secret 2 of 2 must be a signing secret"),
        ("STRIPE_API_BASE", "api.stripe.com", "must be a URL such as https://api.stripe.com"),
        ("STRIPE_API_BASE", "ftp://localhost", "must be a URL such as https://api.stripe.com"),
        ("STRIPE_API_BASE", "https://u:hunter2@proxy", "without user or path"),
        ("STRIPE_API_BASE", "https://api.stripe.com/v1", "without user or path"),
        ("STRIPE_API_BASE", "http://stripe.internal:80", "must begin with https"),
        ("STRIPE_API_BASE", "http://127.0.0.1.example.com", "must begin with https"),
        ("DRAWDOWN_DB_POOL_MAX", "1", "must be 2 to 100, not '1'"),
        ("DRAWDOWN_DB_POOL_MAX", "101", "must be 2 to 100, not '101'"),
        ("DRAWDOWN_DB_POOL_MAX", "ten", "must be 2 to 100, not 'ten'"),
        ("DRAWDOWN_QUEUE_MAX", "1e3", "in plain digits"),
        ("DRAWDOWN_DRAIN_SECONDS", "21", "must be 0 to 20"),
        ("DRAWDOWN_DRAIN_SECONDS", "5.0", "in plain digits"),
        ("DRAWDOWN_HOLD_LIFETIME_MAX", "604801", "must be 1 to 604800"),
        ("DRAWDOWN_CREATE_CUSTOMERS", "maybe", "must be true or false"),
        ("DRAWDOWN_LOG_LEVEL", "loud", "must be debug, info, warning or error"),
        ("DRAWDOWN_SIGNUP_GRANT", "{", "truncated"),
        ("DRAWDOWN_SIGNUP_GRANT", '{"amount": 5}', "$.amount"),
        ("DRAWDOWN_SIGNUP_GRANT", '{"amount": "-5"}', "plain decimal"),
        ("DRAWDOWN_SIGNUP_GRANT", '{"amount": "0"}', "must be above 0"),
        ("DRAWDOWN_SIGNUP_GRANT", '{"amount": "0.0000000001"}', "more than 9 decimals"),
        ("DRAWDOWN_SIGNUP_GRANT", '{"amount": "99999999999"}', "above the limit"),
        ("DRAWDOWN_SIGNUP_GRANT", '{"amount": "5", "priority": 101}', "$.priority"),
        ("DRAWDOWN_SIGNUP_GRANT", '{"amount": "5", "expires": 1}', "unknown field"),
        ("DRAWDOWN_RATE_LIMIT", "100", "must be REQUESTS/SECONDS"),
        ("DRAWDOWN_RATE_LIMIT", "0/60", "$.requests"),
        ("DRAWDOWN_CORS_ORIGINS", "https://a.example/,https://b.example", "'https://a.example/'"),
        ("DRAWDOWN_METRICS_BIND", "9102", "must be HOST:PORT"),
        ("DRAWDOWN_METRICS_BIND", "localhost:99999", "$.port"),
        ("DRAWDOWN_BOOKS_TIME_ZONE", "Mars/Olympus", "not an IANA time zone"),
        ("DRAWDOWN_BOOKS_TIME_ZONE", "../etc/passwd", "not an IANA time zone"),
    ],
)
def test_load_bad_value_is_named_and_explained(name: str, text: str, says: str) -> None:
    [error] = errors_of({name: text})
    assert error.startswith(f"{name}: ")
    assert says in error
    assert "hunter2" not in error


def test_load_many_mistakes_are_told_together() -> None:
    errors = errors_of(
        {"DRAWDOWN_DB_POOL_MAX": "0", "DRAWDOWN_RATE_LIMIT": "fast", "DRAWDOWN_NOPE": "1"}
    )
    assert [error.partition(":")[0] for error in errors] == [
        "DRAWDOWN_NOPE",
        "DRAWDOWN_DB_POOL_MAX",
        "DRAWDOWN_RATE_LIMIT",
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DRAWDOWN_QUEUEMAX", "did you mean DRAWDOWN_QUEUE_MAX?"),
        ("DRAWDOWN_DATABASE_URL", "did you mean DATABASE_URL?"),
        ("DRAWDOWN_STRIPE_SECRET_KEY", "did you mean STRIPE_SECRET_KEY?"),
        ("DRAWDOWN_PORT", "see `drawdown config`"),
        ("DRAWDOWN_QUEUE_MAX_FILE", "did you mean DRAWDOWN_QUEUE_MAX?"),
    ],
)
def test_load_unknown_name_is_an_error_with_a_hint(name: str, hint: str) -> None:
    [error] = errors_of({name: ""})
    assert error == f"{name}: unknown setting; {hint}"


def test_load_name_of_the_tests_is_accepted() -> None:
    assert load({"DRAWDOWN_TEST_DATABASE_URL": URL}) == Settings()


def test_load_rate_limit_off_means_none() -> None:
    assert load({"DRAWDOWN_RATE_LIMIT": "off"}).rate_limit is None


def test_load_secret_from_file_drops_the_line_end(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(URL + "\n")
    environ = {"DATABASE_URL_FILE": str(tmp_path / "url")}
    settings = load(environ)
    assert settings.database_url == URL
    assert describe(settings, environ)[0].source == "file"


def test_load_secrets_of_stripe_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk_test_hunter2\n")
    (tmp_path / "signing").write_text("whsec_1,\nwhsec_2\n")
    settings = load(
        {
            "STRIPE_SECRET_KEY_FILE": str(tmp_path / "key"),
            "STRIPE_WEBHOOK_SECRET_FILE": str(tmp_path / "signing"),
        }
    )
    assert settings.stripe_secret_key == "sk_test_hunter2"
    assert settings.stripe_webhook_secret == ("whsec_1", "whsec_2")


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:12111", "http://localhost:1", "http://[::1]:12111", "https://proxy"]
)
def test_load_address_of_stripe_may_be_here_or_encrypted(text: str) -> None:
    assert load({"STRIPE_API_BASE": text + "/"}).stripe_api_base == text


def test_load_secret_from_wrong_file_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "url").write_text(URL)
    assert errors_of({"DATABASE_URL_FILE": str(tmp_path / "no")}) == [
        f"DATABASE_URL: can't read {tmp_path / 'no'}: No such file or directory"
    ]
    assert errors_of({"DATABASE_URL_FILE": str(tmp_path / "empty")}) == [
        f"DATABASE_URL: the file {tmp_path / 'empty'} is empty"
    ]
    assert errors_of({"DATABASE_URL_FILE": str(tmp_path / "bytes")}) == [
        "DATABASE_URL: the file is not UTF-8 text"
    ]
    assert errors_of({"DATABASE_URL": URL, "DATABASE_URL_FILE": str(tmp_path / "url")}) == [
        "DATABASE_URL: is set twice, by its name and by DATABASE_URL_FILE"
    ]


def test_describe_masks_secrets_and_writes_values_that_load_again() -> None:
    settings = load(GOOD)
    rows = {row.name: row for row in describe(settings, GOOD)}
    assert {row.source for row in rows.values()} == {"environment"}
    assert rows["DATABASE_URL"].value == "postgresql://app:***@db.internal:5432/books"
    assert rows["DRAWDOWN_API_KEY"].value == "***"
    assert rows["STRIPE_SECRET_KEY"].value == "rk_live_***"
    assert rows["STRIPE_WEBHOOK_SECRET"].value == "***"
    assert "hunter2" not in repr(rows)
    again = {name: row.value or "" for name, row in rows.items()}
    masked = {name for name, row in rows.items() if "***" in (row.value or "")}
    assert masked == {
        "DATABASE_URL",
        "DRAWDOWN_API_KEY",
        "STRIPE_SECRET_KEY",
        "STRIPE_WEBHOOK_SECRET",
    }
    assert load(again | {name: GOOD[name] for name in masked}) == settings


def test_describe_defaults_show_what_is_in_force() -> None:
    rows = {row.name: row for row in describe(Settings(), {})}
    assert {row.source for row in rows.values()} == {"default"}
    assert rows["DRAWDOWN_CREATE_CUSTOMERS"].value == "false"
    assert rows["DRAWDOWN_BOOKS_TIME_ZONE"].value == "UTC"
    assert rows["DRAWDOWN_CORS_ORIGINS"].value is None


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?password=x&host=/run/a", "postgresql://h/d?password=***&host=/run/a"),
        ("postgresql://u:p@[h/d", "***"),
    ],
)
def test_mask_database_url_hides_every_password(url: str, masked: str) -> None:
    assert mask_database_url(url) == masked
