"""A field that follows an instruction: its own training frames are edited one by one while it learns from them.

Instruct-NeRF2NeRF (Haque et al., ICCV 2023): what the field shows of a frame so far is noised and edited, with the
frame as it was for the model to go by, and takes that frame's place; so the edits of different frames come to agree.
"""

from __future__ import annotations

import logging
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from canon.boxes import Box, grown
from canon.editors.diffusion.canvases import painted
from canon.editors.diffusion.instruct import Instruct, InstructConfig
from canon.editors.diffusion.models import fingerprint
from canon.editors.diffusion.painters import InstructPainter
from canon.editors.distill.optimising import optimised
from canon.editors.spatial.field import PERSON, EditedField, cut, on, part_of
from canon.edits import Edit, Field, Provenance, Step
from canon.fits import Fit, nonzero_box
from canon.spatial import SpatialFit, Traced, recomposed, spatial
from canon.storage import to_float, to_plain

log = logging.getLogger("canon")

_AROUND = 0.1
"""Of the person's height, what of a frame is edited around them."""
_CUT = 64
"""Pixels along a side of the part of a frame that a step looks at, of the background."""


class Dataset:
    """Frames as they are to look, as far as they have been edited; and how far the field is from them."""

    def __init__(self, fit: SpatialFit, config: InstructConfig, layer: str) -> None:
        """Load the model.

        Raises:
            InputError: it cannot be loaded, or does not follow instructions.
        """
        self.fit, self.config, self.layer = fit, config, layer
        self.painter = InstructPainter(config)
        self.weight = fit.layers.index(layer)
        self.edited: dict[int, np.ndarray] = {}
        self._traced: dict[int, Traced] = {}
        self._before: dict[int, Tensor] = {}
        times = [t for t in range(len(fit)) if (fit.weights(t)[self.weight] > 0.5).any()]
        order = np.random.default_rng(config.seed).permutation(len(times))
        self.order = [times[k] for k in order]

    def __call__(self, fit: SpatialFit, step: int) -> Tensor:
        """Mean square of the difference from one of the frames that have been edited."""
        if step % self.config.update_every == 0:
            self._update(fit, step)
        rng = np.random.default_rng([self.config.seed, step])
        t = sorted(self.edited)[int(rng.integers(len(self.edited)))]
        box = self._box(t)
        if self.layer != PERSON:
            box = part_of(box, _CUT, rng)
        shown = self._shown(fit, t, box)
        weight = on(self.fit.weights(t, box)[self.weight], shown)[..., None]
        missed = weight * (shown - on(self.edited[t][box], shown)).square()
        return missed.sum() / (3 * weight.sum()).clamp_min(1)

    def _update(self, fit: SpatialFit, step: int) -> None:
        """Edit the next frame, from what the field shows of it."""
        number = step // self.config.update_every
        t = self.order[number % len(self.order)]
        box, rng = self._box(t), np.random.default_rng([self.config.seed, number, 1])
        source = to_float(np.asarray(self.fit.clip.frames[t]))
        with torch.no_grad():
            now = self._shown(fit, t, box).clamp(0, 1).cpu().numpy()
        low, high = self.config.update_noise
        painter = self.painter.continuing(source[box], float(rng.uniform(low, high)), self.config.seed + number)
        found = source.copy()
        found[box] = painted(now, self.fit.weights(t, box)[self.weight], painter)
        self.edited[t] = found
        log.info("frame %d is edited (%d of %d)", t, number + 1, self.config.updates)

    def _shown(self, fit: SpatialFit, t: int, box: Box) -> Tensor:
        """What the video would show of a part of frame ``t``, [h, w, 3]; differentiable."""
        source = to_float(np.asarray(self.fit.clip.frames[t])[box])
        if self.layer != PERSON:
            camera = cut(fit.cameras[t], *box)
            after = fit.seen(t, camera, layers=[self.layer]).rgb
            with torch.no_grad():
                before = self.fit.seen(t, camera, layers=[self.layer]).rgb
            return recomposed(on(source, after), before, after)
        if t not in self._traced:
            self._traced[t] = fit.traced(t, fit.cameras[t])
            with torch.no_grad():
                self._before[t] = self.fit.traced(t, fit.cameras[t]).rgb()
        after, before = self._traced[t].rgb()[box], self._before[t][box]
        # The background adds the same to both; the person alone stands for what they are before.
        behind = on(source, after) - before
        thin = 1 - self._traced[t].human[box][..., None]
        return recomposed(on(source, after), before + thin * behind, after + thin * behind)

    def _box(self, t: int) -> Box:
        """Rows and columns of frame ``t`` about the layer."""
        box = nonzero_box((self.fit.weights(t)[self.weight] > 0.1).astype(np.uint8))
        assert box is not None
        return grown(box, round(_AROUND * (box[0].stop - box[0].start)), self.fit.size)


def updated(fit: Fit, config: InstructConfig) -> Edit:
    """The edit of a field that follows an instruction.

    Raises:
        InputError: the fit has no third dimension, or no such layer; or the model cannot be used.
    """
    own = spatial(fit)
    layer = own.layer(config.layer or own.layers[0]).name
    made = EditedField(own, layer)
    optimised(made, Dataset(own, config, layer), config.updates * config.update_every, config.rate)
    weights = {name: fingerprint(name) for name in config.lora}
    options = {**asdict(config), "layer": layer, "model_hash": fingerprint(config.model), "weights": weights}
    step = Step(layer, Field(made.weights()), Provenance.now(Instruct.name, to_plain(options)))
    return Edit([step], own.id)
