"""`python -m sandbox --port 12111`: the stand-in by hand."""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from sandbox.server import running


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=12111)
    parser.add_argument("--webhook-url", help="where all events are delivered")
    parser.add_argument("--state", type=Path, help="a file that keeps the state")
    parser.add_argument("--frozen", action="store_true", help="time stands still until it is set")
    return parser.parse_args()


async def serve() -> None:
    """Print the address and the secrets as JSON, and serve until interrupted."""
    asked, stop = _arguments(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with running(
        asked.host,
        asked.port,
        webhook_url=asked.webhook_url,
        state_file=asked.state,
        is_ticking=not asked.frozen,
    ) as sandbox:
        sys.stdout.write(json.dumps(sandbox.members(), indent=2) + "\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve())
