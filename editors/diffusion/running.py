"""What the text-driven editors do once their options are known."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from PIL import Image

from canon.editors.diffusion.canvases import regions, repainted
from canon.editors.diffusion.models import fingerprint, load_pipeline, native_size
from canon.editors.diffusion.options import DiffusionConfig
from canon.edits import Edit, Provenance, Step
from canon.errors import InputError
from canon.fits import Fit


def restyle(fit: Fit, config: DiffusionConfig) -> Edit:
    """See :class:`canon.editors.diffusion.restyle.Restyle`."""
    if not config.prompt.strip():
        raise InputError("A prompt is needed: say with --prompt what the layer is to look like.")
    name = fit.layer(config.layer or fit.layers[0]).name
    found = regions(fit, name, config.segment, config.mask, config.feather)
    pipeline = load_pipeline(config)

    def make(picture: np.ndarray) -> np.ndarray:
        generator = torch.Generator("cpu").manual_seed(config.seed)
        try:
            image = pipeline(
                prompt=config.prompt,
                image=Image.fromarray(picture),
                strength=config.strength,
                guidance_scale=config.guidance,
                num_inference_steps=config.steps,
                generator=generator,
                output_type="np",
                **({"negative_prompt": config.negative} if config.negative else {}),
            ).images[0]
        except torch.OutOfMemoryError as error:
            raise InputError(
                "The GPU's memory is too small for this; lower --size, add --offload, or use --device cpu."
            ) from error
        return (np.clip(np.nan_to_num(image), 0, 1) * 255 + 0.5).astype(np.uint8)

    paint = repainted(fit, name, found, config.size or native_size(pipeline), make)
    files = [config.mask] if config.mask is not None else []
    made = Provenance.now("restyle", {**asdict(config), "model_hash": fingerprint(config.model)}, files)
    return Edit([Step(name, paint, made)], fit.id)
