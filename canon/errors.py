"""The one exception that means "the input was wrong": one sentence, exit code 2 on the command line."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from the user. The message is one sentence: what was wrong, the value seen, what to do."""
