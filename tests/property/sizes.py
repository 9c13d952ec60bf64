"""How much the random tests try: a few seconds each, or as long as `--long` asks for."""

import sys

IS_LONG = "--long" in sys.argv


def size(usual: int, long: int) -> int:
    """The number of examples of this run."""
    return long if IS_LONG else usual
