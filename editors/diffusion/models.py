"""Loading of diffusers models: any family, from the hub or a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from canon.editors.diffusion.options import DiffusionConfig
from canon.errors import InputError

_INSTRUCTED = ("InstructPix2Pix", "Kontext", "QwenImageEdit")
"""In the names of pipelines that take an instruction instead of a description."""
_WANTED = "model that turns an image into another by a description"


def load_pipeline(config: DiffusionConfig) -> Any:
    """A diffusers pipeline from image to image, on its device.

    Raises:
        InputError: diffusers is missing, the model is none or not there, or it is of another kind.
    """
    diffusers = import_diffusers()
    kind = _class_name(diffusers, config.model)
    if any(name in kind for name in _INSTRUCTED):
        raise InputError(f"'{config.model}' follows instructions ({kind}); give a {_WANTED}.")
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = _dtype(config.dtype, device)
    try:
        pipeline = diffusers.AutoPipelineForImage2Image.from_pretrained(
            config.model, dtype=dtype, local_files_only=_offline(config.model), safety_checker=None
        )
    except ValueError as error:
        raise InputError(f"'{config.model}' is a {kind}, which is no {_WANTED}.") from error
    except (OSError, ImportError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"'{config.model}' cannot be loaded: {_first_line(error)}.") from error
    if config.scheduler:
        pipeline.scheduler = _scheduler(diffusers, config.scheduler, pipeline.scheduler)
    for weights in config.lora:
        _add_lora(pipeline, weights)
    if config.offload and device.type == "cuda":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def import_diffusers() -> Any:
    """The module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise InputError(
            'Text-driven editors need the extra [diffusion]: pip install -c constraints.txt -e ".[diffusion]".'
        ) from error
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return diffusers


def native_size(pipeline: Any) -> int:
    """Pixels along a side of the pictures that a model is made for."""
    core = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    latents = getattr(getattr(core, "config", None), "sample_size", None) or 64
    latents = latents if isinstance(latents, int) else max(latents)
    return int(latents) * int(getattr(pipeline, "vae_scale_factor", 8))


def fingerprint(model: str) -> str:
    """What tells versions of a model apart: for a folder, a hash of its files' names, sizes and configs."""
    from canon.storage import content_hash, file_digest

    folder = Path(model)
    if not folder.is_dir():
        return model
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    small = [file_digest(path) for path in files if path.suffix == ".json"]
    return content_hash([[str(path.relative_to(folder)), path.stat().st_size] for path in files], small)


def _class_name(diffusers: Any, model: str) -> str:
    if not model:
        raise InputError("A model is needed: give --model with a diffusers model's hub id or folder.")
    folder = Path(model)
    if folder.exists():
        index = folder / "model_index.json"
        try:
            return str(json.loads(index.read_text())["_class_name"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{model}' is no diffusers model: it has no readable model_index.json.") from error
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise InputError(f"There is no folder '{model}', and it is no hub id such as stable-diffusion-v1-5/...")
    try:
        found = diffusers.DiffusionPipeline.load_config(model, local_files_only=_offline(model))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The weights of '{model}' are not on this machine and cannot be fetched; where there is a network: hf"
            f" download {model}."
        ) from error
    return str(found.get("_class_name", "")) if isinstance(found, dict) else ""


def _offline(model: str) -> bool:
    return Path(model).is_dir() or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _scheduler(diffusers: Any, name: str, current: Any) -> Any:
    kind = getattr(diffusers, name, None)
    names = [one.__name__ for one in getattr(current, "compatibles", [])]
    if kind is None or (names and name not in names):
        raise InputError(f"The model cannot be sampled with '{name}'; choose one of {', '.join(sorted(names))}.")
    return kind.from_config(current.config)


def _add_lora(pipeline: Any, weights: str) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise InputError(f"A {type(pipeline).__name__} takes no LoRA.")
    try:
        pipeline.load_lora_weights(weights, local_files_only=_offline(weights) or Path(weights).is_file())
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"The LoRA '{weights}' cannot be loaded: {_first_line(error)}.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
