"""Loading of diffusers models: any family, from the hub or a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from canon.editors.diffusion.latents import LatentModel
from canon.editors.diffusion.mini.heads import has_instructions, instructed_pipeline, mini_weights
from canon.editors.diffusion.options import MINI, DiffusionConfig
from canon.errors import InputError, first_line
from canon.runtime import usable_device
from canon.storage import content_hash, file_digest

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
_LARGE, _SAMPLES, _SAMPLED = 1 << 26, 33, 1 << 20
"""Bytes from which a file is hashed by samples, their number, and their bytes."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
UNREADABLE = (OSError, ImportError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError)
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
    device = usable_device(config.device)
    version = tuple(map(fingerprint, (config.model, *config.lora, config.ip_adapter)))
    asked = (task, str(device), config.dtype, config.scheduler, len(config.lora), config.offload, *version)
    if asked not in _kept:
        _kept.clear()  # before the next one needs the memory
        _kept[asked] = _loaded(config, task, device)
    return _kept[asked]


_kept: dict[tuple[Any, ...], Model] = {}
"""The model that was asked for last: several layers, canvases and variants ask for the same one."""


def _loaded(config: DiffusionConfig, task: str, device: torch.device) -> Model:
    diffusers = import_diffusers()
    name = config.model
    folder = mini_folder() if name == MINI else name
    kind = _class_name(diffusers, folder)
    dtype = _dtype(config.dtype, device, kind)
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
    if config.scheduler:
        pipeline.scheduler = _scheduler(diffusers, config.scheduler, pipeline.scheduler)
    _add_loras(pipeline, config.lora)
    if config.ip_adapter:
        _add_ip_adapter(pipeline, config.ip_adapter)
    if config.offload and device.type == "cuda":
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
    """What tells versions of a model apart: a hash of its folder or file, or its hub id with the revision."""
    folder = mini_folder() if model == MINI else Path(model)
    if not model:
        return model
    if not folder.exists():
        return _with_revision(model)
    if folder.is_file():
        return _digest(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return content_hash([[str(path.relative_to(folder)), _digest(path)] for path in files])


def _digest(path: Path) -> str:
    """Hash of a file; of a large one, of its size, its beginning and end, and samples between them."""
    size = path.stat().st_size
    if size < _LARGE:
        return file_digest(path)
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for k in range(_SAMPLES):
            file.seek(k * (size - _SAMPLED) // (_SAMPLES - 1))
            found.update(file.read(_SAMPLED))
    return found.hexdigest()


def _with_revision(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    for file in ("model_index.json", "config.json"):
        with contextlib.suppress(ValueError):
            path = try_to_load_from_cache(name, file)
            if isinstance(path, str):
                return f"{name}@{Path(path).parent.name}"
    return name


def _native_size(pipeline: Any) -> int:
    core = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    config = getattr(core, "config", None)
    latents = getattr(config, "sample_size", None) or getattr(pipeline, "default_sample_size", None) or 64
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
    own = pipeline.unet.config
    xl = getattr(pipeline, "text_encoder_2", None) is not None
    aesthetic = getattr(pipeline.config, "requires_aesthetics_score", False)
    if own.class_embed_type is not None or own.addition_embed_type != ("text_time" if xl else None) or aesthetic:
        raise InputError(f"'{name}' is a {kind} that is told more than a prompt; give a {_WANTED[task]}.")
    width = vae.config.latent_channels
    beside = own.in_channels - width
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


def _dtype(name: str, device: torch.device, kind: str) -> torch.dtype:
    if name == "auto" and device.type != "cuda":
        return torch.float32
    if name == "auto":  # transformers such as FLUX.1's and Qwen's run over in half precision
        return torch.float16 if "StableDiffusion" in kind else torch.bfloat16
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _scheduler(diffusers: Any, name: str, current: Any) -> Any:
    kind = getattr(diffusers, name, None)
    names = [one.__name__ for one in getattr(current, "compatibles", [])]
    if kind is None or (names and name not in names):
        raise InputError(f"The model cannot be sampled with '{name}'; choose one of {', '.join(sorted(names))}.")
    try:
        return from_config(kind, current)
    except (ImportError, ValueError) as error:
        raise InputError(f"The model cannot be sampled with '{name}': {first_line(error)}.") from error


def from_config(kind: Any, current: Any) -> Any:
    """A scheduler of a kind in the place of another.

    Latents have no bounds: a configuration that does not speak of clipping would have some kinds clip them.
    """
    return kind.from_config({**current.config, "clip_sample": False})


def _add_loras(pipeline: Any, files: tuple[str, ...]) -> None:
    from huggingface_hub.errors import HTTPError  # of whichever client the hub uses, which lets it through

    if files and not hasattr(pipeline, "load_lora_weights"):
        raise InputError(f"A {type(pipeline).__name__} takes no LoRA.")
    names = [f"lora-{k}" for k in range(len(files))]
    for name, weights in zip(names, files, strict=True):
        local = offline(weights) or Path(weights).is_file()
        try:
            pipeline.load_lora_weights(weights, adapter_name=name, local_files_only=local, use_safetensors=True)
        except HTTPError as error:
            raise InputError(
                f"The LoRA '{weights}' cannot be fetched from the hub; where there is no network, give its .safetensors"
                " file."
            ) from error
        except UNREADABLE as error:
            raise InputError(f"The LoRA '{weights}' cannot be loaded: {first_line(error)}.") from error
    if len(names) > 1:
        pipeline.set_adapters(names)  # else the last one alone counts


def _add_ip_adapter(pipeline: Any, weights: str) -> None:
    from transformers import CLIPVisionModelWithProjection

    if not hasattr(pipeline, "load_ip_adapter") or getattr(pipeline, "unet", None) is None:
        raise InputError(f"A {type(pipeline).__name__} takes no IP-Adapter here; Stable Diffusion 1.5, 2.1 and XL do.")
    path = Path(weights)
    if path.suffix in _PICKLED or (path.is_file() and path.suffix != ".safetensors"):
        raise InputError(f"The IP-Adapter '{weights}' is no .safetensors file; others are not opened.")
    xl = getattr(pipeline, "text_encoder_2", None) is not None
    place, file = (
        (path.parent, path.name) if path.is_file() else (path, f"ip-adapter_sd{'xl' if xl else '15'}.safetensors")
    )
    inside = "" if place.is_dir() else "sdxl_models" if xl else "models"
    local = offline(place)
    try:
        # diffusers would open an encoder that is pickled, too.
        encoder = CLIPVisionModelWithProjection.from_pretrained(
            str(place),
            subfolder=f"{inside}/image_encoder".lstrip("/"),
            dtype=pipeline.dtype,
            local_files_only=local,
            use_safetensors=True,
        )
        pipeline.register_modules(image_encoder=encoder)
        pipeline.load_ip_adapter(
            str(place), subfolder=inside, weight_name=file, image_encoder_folder=None, local_files_only=local
        )
    except UNREADABLE as error:
        raise InputError(f"The IP-Adapter '{weights}' cannot be loaded: {first_line(error)}.") from error


@contextlib.contextmanager
def memory_told() -> Iterator[None]:
    """Say in a sentence what to do where a GPU's memory is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            "The GPU's memory is too small for this; lower --size, add --offload, or use --device cpu."
        ) from error
