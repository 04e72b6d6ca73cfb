"""Digests of the files that tasks read, kept with size and time of change, so that a second plan reads none of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canon.errors import InputError
from canon.experiments.options import files_named
from canon.storage import content_hash, file_digest, write_json

if TYPE_CHECKING:
    from canon.experiments.choices import ClipChoice

_MOST_FILES = 200_000


class Digests:
    """SHA-256 of files, looked up where a file has the size and the time that it had before."""

    def __init__(self, path: Path) -> None:
        self._path, self._changed = path, False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        self._known: dict[str, list[Any]] = found if isinstance(found, dict) else {}
        self.inputs: dict[str, str] = {}
        """What was asked for, by path: a hash of all the digests of a file or folder."""

    def save(self) -> None:
        """Keep what was found, if it is new."""
        if self._changed:
            write_json(self._path, self._known)

    def file(self, path: Path) -> str:
        """SHA-256 of a file.

        Raises:
            InputError: it cannot be read.
        """
        name = str(path)
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(f"Cannot read '{path}' ({error.strerror}); check the name.") from error
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(name)
        if not isinstance(known, list) or known[:2] != stamp:
            self._known[name] = known = [*stamp, file_digest(path)]
            self._changed = True
        return str(known[2])

    def files(self, paths: Iterable[Path], root: Path) -> list[list[str]]:
        """Names relative to ``root`` and digests, in order."""
        return [[_relative(path, root), self.file(path)] for path in paths]

    def tree(self, path: Path) -> list[list[str]]:
        """The same of a file, or of all files of a folder.

        Raises:
            InputError: a file cannot be read, or there are too many.
        """
        if path.is_file():
            return [["", self.file(path)]]
        return self.files(_inside(path), path)

    def plain(self, value: Any) -> Any:
        """A plain value with the contents of files in the place of their paths, so that moved files are the same."""
        if isinstance(value, Mapping):
            return {str(key): self.plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(item) for item in value]
        found = files_named(value)
        if not found:
            return value
        tree = self.tree(Path(found[0]))
        self.inputs[found[0]] = content_hash(tree)
        return {"text": value.replace(found[0], ""), "files": tree}

    def clip(self, clip: ClipChoice) -> Any:
        """What a clip's pictures, masks, cameras and poses are read from."""
        options = {name: self.plain(value) for name, value in clip.options.items()}
        sources = [self._source(Path(source)) for source in clip.sources]
        self.inputs |= {path: content_hash(found) for path, found in zip(clip.sources, sources, strict=True)}
        return [sources, options]

    def _source(self, path: Path) -> Any:
        from canon.clip import CLIP_FILE
        from canon.sources import IMAGE_SUFFIXES, find_source

        if (path / CLIP_FILE).is_file():
            return self.tree(path)
        source = find_source(path)
        frames = [source.video] if source.video is not None else list(source.images)
        found: list[Any] = [self.files(frames, frames[0].parent)]
        masks = source.masks
        if isinstance(masks, Path):
            found.append(self.tree(masks))
        elif masks:
            found.append([[name, self.tree(folder)] for name, folder in masks])
        if source.cameras or source.poses:  # in some files beside the images
            others = [path] if path.is_file() else _inside(path)
            found.append(self.files([one for one in others if one.suffix.lower() not in IMAGE_SUFFIXES], path))
        return found


def _inside(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path)
            if len(found) > _MOST_FILES:
                raise InputError(f"'{folder}' holds more than {_MOST_FILES} files; give a folder with less beside.")
    return sorted(found)


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
