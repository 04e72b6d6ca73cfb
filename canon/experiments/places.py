"""Where in an experiment something is written, and what is wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from canon.errors import InputError


@dataclass(frozen=True)
class Place:
    """Where something is written."""

    file: str
    line: int
    """From 1; 0 = not in a file."""
    folder: Path
    """What relative paths start from."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Problems:
    """What is wrong with an experiment, collected, each with its place."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, str], None] = {}

    def add(self, place: Place, sentence: str) -> None:
        """Note a problem; the same one at the same place counts once."""
        self._found[(place.file, place.line, " ".join(sentence.split()))] = None

    def __len__(self) -> int:
        return len(self._found)

    @property
    def texts(self) -> list[str]:
        """What is wrong, without places."""
        return [text for _, _, text in self._found]

    @property
    def sentences(self) -> list[str]:
        """``FILE:LINE: sentence``, file by file, in the order of lines."""
        files = {file: None for file, _, _ in self._found}
        order = sorted(self._found, key=lambda one: (list(files).index(one[0]), one[1]))
        return [f"{file}:{line}: {text}" if line else f"{file}: {text}" for file, line, text in order]

    def check(self) -> None:
        """Raise all that was collected.

        Raises:
            SpecError: there is something.
        """
        if self._found:
            raise SpecError(self.sentences)


class SpecError(InputError):
    """An experiment that cannot be run; its sentences are one line each."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = list(sentences)
