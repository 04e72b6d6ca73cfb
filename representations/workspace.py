"""Stages of a fit on disk, addressed by content: what an interrupted run finished, the next one takes up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from canon.storage import content_hash, write_bytes

Result = TypeVar("Result")

_DONE = "done"


class Workspace:
    """A folder with one sub-folder per stage, named by the stage and a hash of everything that it depends on."""

    def __init__(self, folder: Path, *inputs: Any) -> None:
        self.folder, self.inputs = Path(folder), inputs

    def stage(self, name: str, *parts: Any) -> Path:
        """The folder of a stage (made if need be) for the workspace's inputs and these further ones."""
        path = self.folder / f"{name}-{content_hash(*self.inputs, name, *parts)}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run(self, path: Path, build: Callable[[Path], Result], load: Callable[[Path], Result]) -> Result:
        """``load`` the stage in ``path`` if it was finished, else empty the folder and ``build`` it."""
        if (path / _DONE).exists():
            return load(path)
        shutil.rmtree(path)
        path.mkdir(parents=True)
        result = build(path)
        write_bytes(path / _DONE, b"")
        return result

    def clear(self) -> None:
        """Remove all stages."""
        shutil.rmtree(self.folder, ignore_errors=True)
