"""DIR/sandbox.json: how to use a running sandbox, for scripts and for our own commands."""

import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from meter.stripe_port import StripeConfig

SANDBOX_FILE: Final = "sandbox.json"


class SandboxFile(Struct, frozen=True, kw_only=True):
    """All that it says."""

    url: str
    api_key: str
    stripe_url: str
    stripe_secret_key: str
    stripe_publishable_key: str
    sandbox_token: str
    database_url: str
    webhook_secret: str

    def write(self, file: Path) -> None:
        """Make or replace it, readable for its owner only; nobody sees half of it."""
        part = file.with_name(f"{file.name}.part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        part.replace(file)


def stand_in_beside(data: Path, database_url: str) -> StripeConfig | None:
    """The stand-in of a sandbox that runs on this folder and this database, if one does."""
    try:
        told = msgspec.json.decode((data / SANDBOX_FILE).read_bytes(), type=SandboxFile)
    except (OSError, msgspec.MsgspecError):
        return None
    if told.database_url != database_url:
        return None
    return StripeConfig(
        secret_key=told.stripe_secret_key,
        publishable_key=told.stripe_publishable_key,
        webhook_secrets=(told.webhook_secret,),
        api_base=told.stripe_url,
    )
