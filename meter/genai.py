"""LLM usage: what is billed of the token counts that an event of type `llm.usage` tells.

Counts come under the names of OpenTelemetry's GenAI conventions, in any of their spellings, or
under plain names. There the cached and the reasoning tokens are a part of the input and output
counts; providers that tell them beside say so. Either way no token is counted twice.
"""

from collections.abc import Mapping
from typing import Any, Final

EVENT_TYPE: Final = "llm.usage"
"""Meters of this type of event may read `billable.…`."""

_OF: Final = "gen_ai.usage."
_CLIENT: Final = "gen_ai.client.inference.usage."
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "input_tokens": (
        "input_tokens",
        "prompt_tokens",
        f"{_OF}input_tokens",
        f"{_OF}prompt_tokens",
        f"{_CLIENT}input_tokens",
    ),
    "output_tokens": (
        "output_tokens",
        "completion_tokens",
        f"{_OF}output_tokens",
        f"{_OF}completion_tokens",
        f"{_CLIENT}output_tokens",
    ),
    "cache_read_tokens": (
        "cache_read_tokens",
        f"{_OF}cache_read.input_tokens",
        f"{_OF}cache_read_input_tokens",
        f"{_CLIENT}cache_read.input_tokens",
    ),
    "cache_write_tokens": (
        "cache_write_tokens",
        "cache_creation_tokens",
        f"{_OF}cache_write.input_tokens",
        f"{_OF}cache_creation.input_tokens",
        f"{_OF}cache_creation_input_tokens",
        f"{_CLIENT}cache_write.input_tokens",
        f"{_CLIENT}cache_creation.input_tokens",
    ),
    "reasoning_tokens": (
        "reasoning_tokens",
        f"{_OF}reasoning.output_tokens",
        f"{_OF}reasoning_output_tokens",
        f"{_CLIENT}reasoning.output_tokens",
    ),
}
"""Each count, and the members of the data that may tell it."""
_COUNT_OF: Final = {member: name for name, members in NAMES.items() for member in members}
TOKENS_MAX: Final = 10**15
"""Of one count: no model call comes near."""


_FLAGS: Final = {
    "cached": "input_includes_cached",
    "reasoning": "output_includes_reasoning",
}
MEMBERS: Final = frozenset({*_COUNT_OF, *_FLAGS.values()})
"""All members of the data that decide what is billed."""


class TokensError(ValueError):
    """The counts can't be read, or contradict each other. Says which, and what to send."""


def billable(data: Mapping[str, Any]) -> dict[str, int]:
    """The tokens to be billed: input without cached, cache_read, cache_write, output without
    reasoning, reasoning. Each under the name of its count, as `input_tokens`.

    `input_includes_cached` and `output_includes_reasoning` (default true) say whether the cached
    and the reasoning tokens are a part of the input and output counts. A count that is left out is
    0. Raises TokensError.
    """
    counts = dict.fromkeys(NAMES, 0)
    told: dict[str, int] = {}
    for member, value in data.items():
        name = _COUNT_OF.get(member)
        if name is None or value is None:
            continue
        if type(value) is not int or not 0 <= value <= TOKENS_MAX:
            raise TokensError(f"{member} must be a whole number from 0 to {TOKENS_MAX}")
        if told.setdefault(name, value) != value:
            raise TokensError(f"{name} is told twice, with different numbers")
        counts[name] = value
    cached = counts["cache_read_tokens"] + counts["cache_write_tokens"]
    if cached and _flag(data, "input_includes_cached"):
        counts["input_tokens"] = _less(counts["input_tokens"], cached, "input", "cached")
    reasoning = counts["reasoning_tokens"]
    if reasoning and _flag(data, "output_includes_reasoning"):
        counts["output_tokens"] = _less(counts["output_tokens"], reasoning, "output", "reasoning")
    return counts


def _less(whole: int, part: int, name: str, of: str) -> int:
    if part > whole:
        raise TokensError(
            f"{part} {of} tokens are more than the {whole} {name} tokens that they are a part of: "
            f"send {_FLAGS[of]} as false if they are told beside"
        )
    return whole - part


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is None:
        return True
    if type(value) is not bool:
        raise TokensError(f"{name} must be true or false")
    return value
