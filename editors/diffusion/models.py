"""Loading of diffusers models: any family, from the hub or a folder."""

from __future__ import annotations

import json
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from canon.editors.diffusion.latents import LatentModel
from canon.editors.diffusion.mini.heads import has_instructions, instructed_pipeline, mini_weights
from canon.editors.diffusion.options import MINI, DiffusionConfig
from canon.errors import InputError

log = logging.getLogger("canon")

DESCRIBE, FILL, INSTRUCT = "describe", "fill", "instruct"
"""What a model is asked for: a picture of a description, a masked part of one, or to follow an instruction."""
_WANTED = {
    DESCRIBE: "model that turns an image into another by a description, such as Stable Diffusion or FLUX.1",
    FILL: "model that fills in a part of an image by a description, such as Stable Diffusion or FLUX.1 Fill",
    INSTRUCT: "model that follows instructions, such as InstructPix2Pix, FLUX.1 Kontext or Qwen-Image-Edit",
}
_INSTRUCTED = ("InstructPix2Pix", "Kontext", "QwenImageEdit")
"""In the names of pipelines that take an instruction instead of a description."""
_FILLS_ONLY = ("Fill",)
_LOCAL = 6
"""Times the size that it was trained on at which a model without self-attention is used."""
UNREADABLE = (OSError, ImportError, KeyError, TypeError, ValueError, RuntimeError)
"""What loading of a model raises where there is none, or one of another kind."""


class WholePipeline:
    """A model that is called as one diffusers pipeline: those with a transformer in the place of the UNet."""

    def __init__(self, pipeline: Any, native: int) -> None:
        """Keep the pipeline; ``native`` is the side in pixels of the pictures that it is made for."""
        self.pipeline, self.native = pipeline, native

    @property
    def factor(self) -> int:
        """Pixels along a side of a latent."""
        return int(getattr(self.pipeline, "vae_scale_factor", 8))


Model = LatentModel | WholePipeline


def load_model(config: DiffusionConfig, task: str) -> Model:
    """A model on its device, ready for a task.

    Args:
        task: DESCRIBE, FILL or INSTRUCT.

    Raises:
        InputError: diffusers is missing, the model is none or not there, or it is of another kind.
    """
    import_diffusers()
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = _dtype(config.dtype, device)
    files = tuple(map(fingerprint, (*config.lora, config.ip_adapter)))
    return _loaded(
        config.model, fingerprint(config.model), task, dtype, device, config.scheduler, config.lora, config.ip_adapter,
        files, config.offload,
    )  # fmt: skip


# One model at a time is kept: several layers, canvases and variants ask for the same one.
@lru_cache(maxsize=1)
def _loaded(
    name: str,
    _version: str,
    task: str,
    dtype: torch.dtype,
    device: torch.device,
    scheduler: str,
    lora: tuple[str, ...],
    ip_adapter: str,
    _files: tuple[str, ...],
    offload: bool,
) -> Model:
    diffusers = import_diffusers()
    folder = mini_folder() if name == MINI else name
    kind = _class_name(diffusers, folder)
    instructed = task == INSTRUCT and has_instructions(Path(folder))
    if not instructed:
        _check_kind(name, kind, task)
    options = {} if "XL" in kind or "StableDiffusion" not in kind or "3" in kind else {"safety_checker": None}
    try:
        if instructed:
            pipeline = instructed_pipeline(Path(folder)).to(dtype=dtype)
        else:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                folder, dtype=dtype, local_files_only=offline(folder), use_safetensors=True, **options
            )
    except UNREADABLE as error:
        raise InputError(f"'{name}' cannot be loaded: {first_line(error)}.") from error
    if getattr(pipeline, "unet", None) is None:
        pipeline = _for_task(diffusers, pipeline, name, kind, task)
    elif not instructed:
        _check_channels(pipeline, name, kind, task)
    if scheduler:
        pipeline.scheduler = _scheduler(diffusers, scheduler, pipeline.scheduler)
    for weights in lora:
        _add_lora(pipeline, weights)
    if ip_adapter:
        _add_ip_adapter(pipeline, ip_adapter)
    if offload and device.type == "cuda":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    native = _native_size(pipeline)
    return WholePipeline(pipeline, native) if getattr(pipeline, "unet", None) is None else LatentModel(pipeline, native)


def load_controlnet(name: str, model: Model) -> Any:
    """A ControlNet that goes with a model, on its device.

    Args:
        name: hub id or folder; for canon-mini, its own by its name.

    Raises:
        InputError: it cannot be loaded, or does not fit the model.
    """
    diffusers = import_diffusers()
    if not isinstance(model, LatentModel):
        raise InputError(
            f"ControlNets are used with Stable Diffusion models, not with a {type(model.pipeline).__name__}."
        )
    folder = str(mini_folder() / "controlnet") if name == MINI else name
    _there(diffusers, folder, "config.json")
    try:
        network = diffusers.ControlNetModel.from_pretrained(
            folder, dtype=model.dtype, local_files_only=offline(folder), use_safetensors=True
        )
    except UNREADABLE as error:
        raise InputError(f"The ControlNet '{name}' cannot be loaded: {first_line(error)}.") from error
    own, other = network.config, model.unet.config
    same = ("block_out_channels", "cross_attention_dim")
    if any(own[key] != other[key] for key in same):
        raise InputError(f"The ControlNet '{name}' was made for another model than the one that is used.")
    return network.to(model.device)


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
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


def mini_folder() -> Path:
    """Where the package keeps canon-mini.

    Raises:
        InputError: this installation lacks it.
    """
    folder = mini_weights()
    if not (folder / "model_index.json").exists():
        raise InputError("This installation lacks the weights of canon-mini; name another model with --model.")
    return folder


def step_of_sides(model: Model) -> int:
    """Pixels of which the sides of a model's pictures are to be multiples."""
    if isinstance(model, LatentModel):
        return model.factor * 2 ** (len(model.unet.config.block_out_channels) - 1)
    return model.factor * 2


def fingerprint(model: str) -> str:
    """What tells versions of a model apart: for a folder, a hash of its files' names, sizes and configs."""
    from canon.storage import content_hash, file_digest

    folder = mini_folder() if model == MINI else Path(model)
    if not model or not folder.exists():
        return model
    if folder.is_file():
        return file_digest(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    small = [file_digest(path) for path in files if path.suffix == ".json" or path.stat().st_size < 1 << 26]
    return content_hash([[str(path.relative_to(folder)), path.stat().st_size] for path in files], small)


def _native_size(pipeline: Any) -> int:
    core = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    config = getattr(core, "config", None)
    latents = getattr(config, "sample_size", None) or 64
    latents = latents if isinstance(latents, int) else max(latents)
    # Where no latent looks at all others, larger pictures are more of the same.
    times = _LOCAL if getattr(config, "only_cross_attention", False) is True else 1
    return int(latents) * int(getattr(pipeline, "vae_scale_factor", 8)) * times


def _check_kind(name: str, kind: str, task: str) -> None:
    told = any(part in kind for part in _INSTRUCTED)
    if told != (task == INSTRUCT):
        how = "follows instructions" if told else "follows no instructions"
        raise InputError(f"'{name}' {how} ({kind}); give a {_WANTED[task]}.")
    if task == DESCRIBE and any(part in kind for part in _FILLS_ONLY):
        raise InputError(f"'{name}' only fills in parts of images ({kind}); give a {_WANTED[task]}.")


def _check_channels(pipeline: Any, name: str, kind: str, task: str) -> None:
    vae: Any = getattr(pipeline, "vae", None)
    if type(pipeline.unet).__name__ != "UNet2DConditionModel" or not hasattr(vae, "decode"):
        raise InputError(f"'{name}' is a {kind}, which is no {_WANTED[task]}.")
    width = vae.config.latent_channels
    beside = pipeline.unet.config.in_channels - width
    if (task == DESCRIBE and beside) or (task == FILL and beside not in (0, 1 + width)):
        raise InputError(f"'{name}' is a {kind} whose UNet is made for another task; give a {_WANTED[task]}.")


def _for_task(diffusers: Any, pipeline: Any, name: str, kind: str, task: str) -> Any:
    auto = {DESCRIBE: "AutoPipelineForImage2Image", FILL: "AutoPipelineForInpainting"}.get(task)
    if auto is None or any(part in kind for part in _FILLS_ONLY):
        return pipeline
    try:
        return getattr(diffusers, auto).from_pipe(pipeline)
    except ValueError as error:
        raise InputError(f"'{name}' is a {kind}, which is no {_WANTED[task]}.") from error


def _class_name(diffusers: Any, model: str | Path) -> str:
    if not str(model):
        raise InputError("A model is needed: give --model with a diffusers model's hub id or folder.")
    folder = Path(model)
    if folder.exists():
        index = folder / "model_index.json"
        try:
            return str(json.loads(index.read_text())["_class_name"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{model}' is no diffusers model: it has no readable model_index.json.") from error
    found = _there(diffusers, str(model), "model_index.json")
    return str(found.get("_class_name", "")) if isinstance(found, dict) else ""


def _there(diffusers: Any, name: str, index: str) -> Any:
    """The index of what a hub id or folder holds."""
    if Path(name).exists():
        return {}
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(f"There is no folder '{name}', and it is no hub id such as stable-diffusion-v1-5/...")
    kind = diffusers.DiffusionPipeline if index == "model_index.json" else diffusers.ControlNetModel
    try:
        return kind.load_config(name, local_files_only=offline(name))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The weights of '{name}' are not on this machine and cannot be fetched; where there is a network: hf"
            f" download {name}."
        ) from error


def offline(model: str | Path) -> bool:
    """Whether nothing is to be fetched for a model: it is a folder, or the hub is switched off."""
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
    local = offline(weights) or Path(weights).is_file()
    try:
        pipeline.load_lora_weights(weights, local_files_only=local, use_safetensors=True)
    except UNREADABLE as error:
        raise InputError(f"The LoRA '{weights}' cannot be loaded: {first_line(error)}.") from error


def _add_ip_adapter(pipeline: Any, weights: str) -> None:
    if not hasattr(pipeline, "load_ip_adapter"):
        raise InputError(f"A {type(pipeline).__name__} takes no IP-Adapter.")
    path = Path(weights)
    place, file = (path.parent, path.name) if path.is_file() else (path, "ip-adapter_sd15.safetensors")
    if path.suffix not in ("", ".safetensors"):
        raise InputError(f"The IP-Adapter '{weights}' is no .safetensors file; others are not opened.")
    try:
        pipeline.load_ip_adapter(
            str(place),
            subfolder="" if place.is_dir() else "models",
            weight_name=file,
            image_encoder_folder=str((place / "image_encoder").resolve()) if place.is_dir() else "models/image_encoder",
            local_files_only=offline(place),
        )
    except UNREADABLE as error:
        raise InputError(f"The IP-Adapter '{weights}' cannot be loaded: {first_line(error)}.") from error


def first_line(error: BaseException) -> str:
    """What an error says, for the middle of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
