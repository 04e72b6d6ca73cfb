"""DynVideo-E's editing stage: a person's field optimised towards a reference picture and what diffusion models wish.

Everything is looked at through cameras: at the reference frame, where picture, silhouette and depth are compared; and
from all around in several poses, where models say what should change. The deformation is left alone. While only colours
change, what each view shows is traced once and only colours are asked for again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canon import progress
from canon.editors.diffusion.concepts import ConceptSettings, train_concept, with_concept
from canon.editors.diffusion.latents import LatentModel, to_tensor
from canon.editors.diffusion.models import DESCRIBE, fingerprint, load_model, step_of_sides
from canon.editors.diffusion.options import MINI
from canon.editors.distill.guidance import Guidance, distillable
from canon.editors.distill.optimising import Checkpoints, optimised
from canon.editors.spatial.dynvideo import DynVideo, DynVideoConfig
from canon.editors.spatial.field import PERSON, EditedField
from canon.editors.spatial.parts import joints_of
from canon.editors.spatial.reference import Held, Reconstruction, Reference, read_reference, square
from canon.editors.spatial.shots import Shares, Shot, Shots
from canon.edits import Edit, Field, Provenance, Step
from canon.errors import InputError
from canon.fits import Fit
from canon.spatial import SpatialFit, Traced, spatial
from canon.storage import content_hash, to_plain, to_uint8

log = logging.getLogger("canon")

_LOCAL_VIEW = 1 / 4
"""Side of a view, of what a model without self-attention works on."""
_PLAIN_VIEW = 256
"""Side of a view where no such model is asked."""
_TRAINED = (1.0, 0.5)
"""Parts of the person's box, as shares of its height, that a model is personalised on."""


class Distilled:
    """What models wish of views from all around."""

    def __init__(
        self,
        config: DynVideoConfig,
        fit: SpatialFit,
        shots: Shots,
        reference: Reference | None,
        model: LatentModel | None,
    ) -> None:
        """Train the model on the reference, and load the one that turns it round.

        Raises:
            InputError: a model or a part cannot be used.
        """
        self.config, self.shots, self.source = config, shots, fit
        self.reshaped = config.shape > 0
        self.views: dict[int, Traced] = {}
        self.guidance = self.turned = None
        settings = config.settings()
        if model is not None:
            self.guidance = Guidance(personalised(model, config, reference, shots.size), settings)
        if config.view_model and reference is not None and config.view_weight:
            self.turned = Turned(config, reference, shots)
        self.words = config.words()
        joints_of(shots.skeleton, [part for part in self.words if part])

    def __call__(self, fit: SpatialFit, step: int) -> Tensor:
        """Of the step's views, per pixel."""
        own = self.config
        total = torch.zeros(())
        by_prompt: dict[tuple[str, bool], list[tuple[Shot, Tensor, Tensor]]] = {}
        for k in range(own.views):
            number = int(np.random.default_rng([own.seed, step, k]).integers(own.pool))
            shot = self.shots(number)
            made, shown = self._shown(fit, number, shot, step)
            # Of poses that the reference does not have, a view model knows nothing.
            turned = self.turned is not None and shot.kind == "reference" and not shot.part
            by_prompt.setdefault((self.prompt(shot), turned), []).append((shot, made, shown))
        for (prompt, turned), several in by_prompt.items():
            made, shown = torch.stack([one[1] for one in several]), torch.stack([one[2] for one in several])
            total = total.to(made.device) + 0.0 * made.sum()  # of a view that nobody is asked about
            if self.guidance is not None:
                source = shown if self.guidance.settings.needs_source else None
                found = self.guidance(made, step, own.steps, source, prompt)
                total = total + own.weight * found.loss / made[:, 0].numel()
            if turned and self.turned is not None:
                for shot, one, _ in several:
                    total = total + own.view_weight * self.turned(one[None], shot, step)
        if step == own.steps - 1 and self.guidance is not None:
            self.guidance.check()
        return total

    def prompt(self, shot: Shot) -> str:
        """What a view is to show."""
        own = self.config
        words = own.prompt
        if shot.part in self.words:
            words = self.words[shot.part]
        elif shot.part and own.model != MINI:
            words = f"{words}, {shot.part}"
        sides = own.model != MINI if own.view_words is None else own.view_words
        return f"{words}, {shot.side}" if sides else words

    def _shown(self, fit: SpatialFit, number: int, shot: Shot, step: int) -> tuple[Tensor, Tensor]:
        """A view [3, h, w] of the person as they are now and as they were, before a plain colour."""
        if self.reshaped:
            seen = fit.seen(shot.t, shot.camera, shot.pose, [PERSON])
            rgb, human = seen.rgb, seen.human
        else:
            if number not in self.views:
                self.views[number] = fit.traced(shot.t, shot.camera, shot.pose)
            rgb, human = self.views[number].rgb(), self.views[number].human
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        plain = torch.rand((), generator=generator).to(rgb.device)
        shown = rgb + (1 - human[..., None]) * plain
        needs = self.guidance is not None and self.guidance.settings.needs_source
        before = shown.detach()
        if needs:
            with torch.no_grad():
                source = self.source.seen(shot.t, shot.camera, shot.pose, [PERSON])
                before = source.rgb + (1 - source.human[..., None]) * plain
        return shown.permute(2, 0, 1), before.permute(2, 0, 1)


class Turned:
    """What a model that was shown the reference expects to see from elsewhere (Zero-1-to-3, Liu et al., ICCV 2023)."""

    def __init__(self, config: DynVideoConfig, reference: Reference, shots: Shots) -> None:
        """Load the model.

        Raises:
            InputError: it cannot be loaded, or is of another kind.
        """
        from canon.editors.diffusion.viewed import load_view_model

        self.config = config
        self.model = load_view_model(config.view_model, config)
        self.guidance = Guidance(self.model, replace(config.settings(), method="sds"))  # it knows no other source
        self.picture = to_tensor(square(reference, (self.model.native, self.model.native), 1.0)[0])
        self.azimuth, self.elevation = shots.seen_from(reference.t)

    def __call__(self, view: Tensor, shot: Shot, step: int) -> Tensor:
        """Of one view [1, 3, h, w], per pixel, at the size that the model is made for."""
        own, size = self.config, (self.model.native, self.model.native)
        view = F.interpolate(view, size, mode="bilinear", antialias=True, align_corners=False)
        angles = np.radians([shot.azimuth - self.azimuth, shot.elevation - self.elevation])
        reference = self.picture.to(self.model.device)
        guide = self.model.guide(reference, float(angles[0]), float(angles[1]), 0.0, own.guidance, size)
        return self.guidance(view, step, own.steps, None, guide).loss / view[:, 0].numel()


def personalised(
    model: LatentModel, config: DynVideoConfig, reference: Reference | None, size: tuple[int, int]
) -> LatentModel:
    """The model that distillation asks, trained on the reference first if there is one.

    Args:
        size: (height, width) of what it is shown.

    Raises:
        InputError: it cannot be trained.
    """
    if reference is None or not config.personalise:
        return model
    pictures, masks = zip(*(square(reference, size, share) for share in _TRAINED), strict=True)
    settings = ConceptSettings(steps=config.personalise, seed=config.seed, size=size[0])
    log.info("training the model on the reference for %d steps", config.personalise)
    return with_concept(model, train_concept(model, pictures, config.prompt, settings, masks))


# --- the edit ---


def edited(fit: Fit, config: DynVideoConfig) -> Edit:
    """The edit of a person's field.

    Raises:
        InputError: see :class:`DynVideo`.
    """
    own = spatial(fit)
    if PERSON not in own.layers or own.clip.poses is None:
        raise InputError("This fit has no person; fit a clip with --poses first.")
    if config.layer not in (None, PERSON):
        raise InputError(f"This editor changes the person; the layer is '{PERSON}', not '{config.layer}'.")
    joints = joints_of(own.clip.poses.skeleton, config.parts)
    reference = read_reference(own, config)
    made = EditedField(own, PERSON, joints, config.shape)
    personalising = config.personalise if config.guided and reference is not None else 0
    preparing, optimising = progress.shares(personalising, config.steps * config.views)
    with preparing:
        loss = _loss(own, config, reference)
    with optimising:
        optimised(made, loss, config.steps, config.rate, _checkpoints(own, config, reference))
    files = [path for path in (config.reference, config.reference_mask) if path]
    options = {**asdict(config), "layer": PERSON, "weights": _fingerprints(config)}
    operation = Field(made.weights(), joints)
    return Edit([Step(PERSON, operation, Provenance.now(DynVideo.name, to_plain(options), files))], own.id)


def _loss(fit: SpatialFit, config: DynVideoConfig, reference: Reference | None) -> Callable[[SpatialFit, int], Tensor]:
    """All terms together."""
    terms: list[tuple[float, Callable[[SpatialFit, int], Tensor]]] = []
    if reference is not None and config.reconstruct:
        terms.append((config.reconstruct, Reconstruction(fit, reference, config.shape > 0, config.seed)))
    if config.held:
        terms.append((config.held, Held(fit, reference, config.seed)))
    if config.guided or config.view_model:
        model = distillable(load_model(config, DESCRIBE)) if config.guided else None
        shares = Shares(config.poses, config.close_ups)
        shots = Shots(fit, view_size(config, model), shares, config.frame, config.parts, config.seed)
        terms.append((1.0, Distilled(config, fit, shots, reference, model)))
    if not terms:
        raise InputError("All weights are 0: nothing would change.")

    def loss(own: SpatialFit, step: int) -> Tensor:
        parts = [weight * term(own, step) for weight, term in terms]
        return sum(parts[1:], parts[0])

    return loss


def view_size(config: DynVideoConfig, model: LatentModel | None) -> tuple[int, int]:
    """(height, width) of a view, sides that the model takes."""
    if model is None:
        side, step = config.view or _PLAIN_VIEW, 8
    else:
        side = config.view or round(model.native * (_LOCAL_VIEW if model.local else 1.0))
        step = step_of_sides(model)
    side = max(side // step * step, step)
    return side, side


def _fingerprints(config: DynVideoConfig) -> dict[str, Any]:
    names = [name for name in (config.model if config.guided else "", *config.lora, config.view_model) if name]
    return {name: fingerprint(name) for name in names}


def _checkpoints(
    fit: SpatialFit, config: DynVideoConfig, reference: Reference | None
) -> Checkpoints[SpatialFit] | None:
    if not config.checkpoints:
        return None
    options = {**to_plain(asdict(config)), "checkpoints": "", "device": None}
    seen = None if reference is None else (reference.rgb, reference.mask)
    key = content_hash(fit.id, options, _fingerprints(config), *(() if seen is None else seen))
    return Checkpoints(Path(config.checkpoints) / PERSON, key, lambda own: preview(own, config.frame))


@torch.no_grad()
def preview(fit: SpatialFit, t: int) -> np.ndarray:
    """The person in a frame's pose, from four sides, uint8 [h, 4 w, 3]."""
    shots = Shots(fit, (128, 128), Shares(), t)
    pictures = []
    for azimuth in (0.0, 90.0, 180.0, -90.0):
        shot = shots.around(t, shots.pose(t), "reference", azimuth, 0.0)
        seen = fit.traced(t, shot.camera, shot.pose)
        pictures.append((seen.rgb() + 0.5 * (1 - seen.human[..., None])).cpu().numpy())
    return to_uint8(np.clip(np.concatenate(pictures, axis=1), 0, 1))
