"""The new subject of a swap: the model with a concept, learned from pictures or loaded, and kept for the next run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from canon.editors.diffusion.concepts import (
    ConceptSettings,
    apart,
    load_concept,
    save_concept,
    train_concept,
    with_concept,
)
from canon.editors.diffusion.latents import LatentModel
from canon.editors.diffusion.models import fingerprint
from canon.editors.diffusion.swap import SwapConfig
from canon.errors import InputError
from canon.sources import images_in
from canon.storage import content_hash, file_digest, read_image, to_float

log = logging.getLogger("canon")

_CLASS_WEIGHT = 1.0


def subject(model: LatentModel, config: SwapConfig) -> LatentModel:
    """A model that knows the new subject, with weights that take no gradients.

    Raises:
        InputError: pictures that cannot be read, or a model that cannot learn.
    """
    files = concept_files(config)
    if not files:
        return apart(model)
    prompt = config.concept_prompt or config.prompt
    settings = ConceptSettings(
        steps=config.concept_steps,
        rate=config.concept_rate,
        prior=_CLASS_WEIGHT if config.concept_class else 0.0,
        prior_prompt=config.concept_class,
        size=config.size,
        seed=config.seed,
    )

    def learned() -> Mapping[str, Tensor]:
        pictures, masks = zip(*map(_read, files), strict=True)
        log.info("concept: learning from %d pictures", len(files))
        return train_concept(model, pictures, prompt, settings, masks)

    parts = [[file_digest(path) for path in files], prompt, asdict(settings), base_of(config)]
    return with_concept(model, kept(config, "concept", content_hash(*parts), learned), config.concept_scale)


def check_concept(name: str) -> None:
    """Refuse what is neither a file or folder nor a hub id.

    Raises:
        InputError: so it is.
    """
    if name and not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise InputError(f"There is no concept '{name}': no such file or folder, and it is no hub id.")


def base_of(config: SwapConfig) -> list[str]:
    """What tells versions of the model apart that is there before anything is learned."""
    return [*map(fingerprint, (config.model, *config.lora, config.concept)), config.dtype]


def concept_files(config: SwapConfig) -> list[Path]:
    """The pictures that a concept is learned from.

    Raises:
        InputError: one is not there, or there is none in a folder.
    """
    found: list[Path] = []
    for name in config.concept_images:
        path = Path(name)
        own = images_in(path) if path.is_dir() else [path]
        if not own:
            raise InputError(f"There are no pictures of a concept in '{path}'.")
        found += own
    return found


def kept(
    config: SwapConfig, kind: str, key: str, make: Callable[[], Mapping[str, Tensor]], lora: bool = True
) -> Mapping[str, Tensor]:
    """What was learned before, or what ``make`` learns now, which is kept.

    Args:
        kind: of the file's name.
        key: tells apart all that it depends on.
        lora: whether it is one, and is read as such.
    """
    folder = _folder(config)
    if folder is None:
        return make()
    path = folder / f"{kind}-{key[:16]}.safetensors"
    if path.is_file():
        return load_concept(path) if lora else _arrays(path)
    state = make()
    try:
        save_concept(state, path)
    except InputError as error:
        log.warning("what was learned is not kept: %s", error)
    return state


def _arrays(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{path}' is damaged; delete it, and it is made again.") from error


def _folder(config: SwapConfig) -> Path | None:
    if config.cache:
        return Path(config.cache)
    beside = Path(config.concept_images[0] if config.concept_images else config.concept)
    if beside.is_file():
        return beside.parent
    return beside if str(beside) != "." and beside.is_dir() else None


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture float32 [h, w, 3] in 0..1, and where it is opaque, float32 [h, w]."""
    image = to_float(read_image(path))
    mask = image[..., 3] if image.shape[2] == 4 else np.ones(image.shape[:2], np.float32)
    return (np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]), mask
