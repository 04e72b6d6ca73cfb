"""Measures by learned networks, LPIPS and CLIP, whose weights are on this machine already: nothing is downloaded."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from canon.errors import InputError
from canon.fits import Fit

DEFAULT_CLIP = "openai/clip-vit-base-patch32"
"""CLIP (Radford et al. 2021) as most papers measure with it."""
_BATCH = 8


def load_lpips() -> Any | str:
    """The network of LPIPS (Zhang et al. 2018, AlexNet), of images [N, 3, H, W] in -1..1; or why it cannot be had."""
    if importlib.util.find_spec("lpips") is None:
        return "it needs the extra [lpips], which is not installed"
    if not list((Path(torch.hub.get_dir()) / "checkpoints").glob("alexnet-*.pth")):
        return "AlexNet's weights are not in torch's cache on this machine"
    import lpips

    return lpips.LPIPS(net="alex", verbose=False)


def lpips_distance(fit: Fit, notes: list[str]) -> dict[str, float]:
    """LPIPS of the reconstruction; ``notes`` says why if it cannot be had."""
    model = load_lpips()
    if isinstance(model, str):
        notes.append(f"lpips is left out: {model}.")
        return {}

    def tensor(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() * 2 - 1

    frames = fit.clip.frames
    with torch.no_grad():
        pairs = ((np.clip(fit.reconstruct(t), 0, 1), frames[t].astype(np.float32) / 255) for t in range(len(fit)))
        return {"lpips": float(np.mean([model(tensor(a), tensor(b)).item() for a, b in pairs]))}


class ClipEncoder:
    """Embeddings of images and texts in one space, by a CLIP model."""

    def __init__(self, model: str = DEFAULT_CLIP) -> None:
        """Load it.

        Args:
            model: a folder, or the hub id of a model that is in the hub's cache on this machine.

        Raises:
            InputError: transformers is not installed, the weights are not on this machine, or are not CLIP's.
        """
        try:
            import transformers
        except ImportError as error:
            raise InputError("CLIP needs the extra [diffusion], which is not installed.") from error
        from safetensors import SafetensorError

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        # Its first choice reads images with torchvision, which is not to be needed; older releases have one kind only.
        processor = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        try:
            kind = transformers.AutoConfig.from_pretrained(model, local_files_only=True).model_type
            if kind != "clip":
                raise InputError(f"'{model}' is a model of the kind '{kind}', not CLIP; give a CLIP model.")
            self._model: Any = transformers.CLIPModel.from_pretrained(
                model, local_files_only=True, use_safetensors=True
            ).eval()
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
            self._processor: Any = processor.from_pretrained(model, local_files_only=True)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            raise InputError(
                f"The CLIP model '{model}' cannot be loaded from this machine; give --clip-model a folder with model,"
                " tokenizer and image processor, or a hub id that was downloaded before."
            ) from error

    @torch.no_grad()
    def images(self, frames: Iterable[np.ndarray]) -> np.ndarray:
        """Embeddings float32 [T, D] of uint8 [H, W, 3] each, a few at a time."""
        found = []
        for batch in _batches(frames):
            pixels = self._processor(images=batch, return_tensors="pt")["pixel_values"]
            found.append(self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output))
        return np.asarray(torch.cat(found).float().numpy())

    @torch.no_grad()
    def text(self, text: str) -> np.ndarray:
        """Embedding float32 [D]; a text that is too long for the model loses its end."""
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        pooled = self._model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return np.asarray(self._model.text_projection(pooled)[0].float().numpy())


def _batches(frames: Iterable[np.ndarray]) -> Iterable[list[np.ndarray]]:
    todo = iter(frames)
    while batch := list(itertools.islice(todo, _BATCH)):
        yield batch
