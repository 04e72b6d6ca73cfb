"""The one exception that means "the input was wrong": one sentence, exit code 2 on the command line."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from the user. The message is one sentence: what was wrong, the value seen, what to do."""


def first_line(error: BaseException) -> str:
    """What an error says, for the middle of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
