"""The reference page of the settings, written from their definitions.

Renew it with `.venv/bin/python -m drawdown.settings_page >docs/reference/settings.md`.
"""

import click

from drawdown.settings import OTHER_NAMES, SETTINGS, show

INTRODUCTION = """\
# Settings

drawdown reads its settings from environment variables, once, at start. An empty variable counts
as not set. An unknown name that begins with `DRAWDOWN_` is an error, and all errors are shown at
once. `drawdown config` shows the values in force and where each came from.

A variable marked *secret* can come from a file instead: set its name with `_FILE` at the end to
the path, for example `DATABASE_URL_FILE=/run/secrets/database_url`. Secrets are masked wherever
they are shown.

This page is written from the code.

| name | what it does | unit | values | default |
|---|---|---|---|---|
"""


def settings_page() -> str:
    """The whole page as Markdown."""
    rows: list[str] = []
    for setting in SETTINGS:
        about = setting.about
        default = show(setting, setting.default)
        secret = " *Secret.*" if about.is_secret else ""
        shown = f"`{default}`" if default is not None else "not set"
        rows.append(
            f"| `{setting.name}` | {about.doc}{secret} | {about.unit} | {about.bounds} | {shown} |"
        )
    rows.extend(
        f"| `{name}` | {doc} | URL | `postgresql://…` | not set |"
        for name, doc in OTHER_NAMES.items()
    )
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    click.echo(settings_page(), nl=False)
