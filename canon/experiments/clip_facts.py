"""What an experiment's clips are before they are decoded: how many frames, of which size, and with cameras or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from canon.errors import InputError

Facts = tuple[int, tuple[int, int], bool]
"""Frames, (height, width), and whether there are cameras."""


def facts_of(sources: Sequence[str], plain: Mapping[str, Any]) -> Facts:
    """What files say of themselves, after ``max_frames`` and ``size``.

    Args:
        sources: videos, folders or globs of images, or a saved clip; several are views.
        plain: options of the clip, JSON primitives.

    Raises:
        InputError: one of them is missing, or cannot be read.
    """
    from canon.clip import CLIP_FILE
    from canon.clip_world import CAMERAS_FILE
    from canon.sources import find_source, resized_size
    from canon.storage import image_size, read_yaml
    from canon.video import probe

    frames, first, cameras = 0, (0, 0), plain.get("cameras") is not None
    for path in sources:
        if (Path(path) / CLIP_FILE).is_file():
            refused = [name for name in ("masks", "max_frames", "size", "fps") if plain.get(name) is not None]
            if refused:
                raise InputError(f"'{path}' is a saved clip; {refused[0]} cannot be changed, load its video again.")
            record = read_yaml(Path(path) / CLIP_FILE)
            height, width = record.get("size") or (0, 0)
            cameras = cameras or (Path(path) / CAMERAS_FILE).is_file()
            frames, first = frames + int(record.get("frames") or 0), (int(height), int(width))
            continue
        source = find_source(path)
        cameras = cameras or bool(source.cameras)
        if source.video is not None:
            info = probe(source.video)
            count, size = info.frames or 100, info.size
        else:
            count, size = len(source.images), image_size(source.images[0])
        frames += min(count, plain.get("max_frames") or count)
        wanted = plain.get("size")
        first = resized_size(size, tuple(wanted) if isinstance(wanted, list) else wanted)
    return frames, first, cameras
