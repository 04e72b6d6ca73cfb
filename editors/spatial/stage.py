"""DynVideo-E's editing stage: a person's field optimised towards a reference picture and what diffusion models wish.

Everything is looked at through cameras: at the reference frame, where picture, silhouette and depth are compared; and
from all around in several poses, where models say what should change. The deformation is left alone. While only colours
change, what each view shows is traced once and only colours are asked for again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from canon.boxes import Box, grown
from canon.editors.diffusion.canvases import resized
from canon.editors.diffusion.concepts import ConceptSettings, train_concept, with_concept
from canon.editors.diffusion.latents import LatentModel, to_tensor
from canon.editors.diffusion.models import DESCRIBE, fingerprint, load_model, step_of_sides
from canon.editors.diffusion.options import MINI
from canon.editors.distill.guidance import Guidance, distillable
from canon.editors.distill.optimising import Checkpoints, optimised
from canon.editors.spatial.dynvideo import DynVideo, DynVideoConfig
from canon.editors.spatial.field import PERSON, EditedField, cut, on
from canon.editors.spatial.parts import joints_of
from canon.editors.spatial.shots import Shares, Shot, Shots
from canon.edits import Edit, Field, Provenance, Step
from canon.errors import InputError
from canon.fits import Fit, nonzero_box
from canon.sources import read_rgb
from canon.spatial import Seen, SpatialFit, Traced, recomposed, spatial
from canon.storage import content_hash, to_float, to_plain, to_uint8

log = logging.getLogger("canon")

_HELD_POINTS = 2048
"""Places of the surface whose colours are held in a step."""
_REACH = 1.5
"""Pixels around those that show the person within which a place of the surface counts as shown."""
_CUT = 48
"""Pixels along a side of the part of the reference that is looked at in a step while the shape changes."""
_DEPTH = 0.1
"""Weight of the depth's correlation, beside the silhouette's 1."""
_LOCAL_VIEW = 1 / 4
"""Side of a view, of what a model without self-attention works on."""
_PLAIN_VIEW = 256
"""Side of a view where no such model is asked."""
_TRAINED = (1.0, 0.5)
"""Parts of the person's box, as shares of its height, that a model is personalised on."""


@dataclass(frozen=True, eq=False)
class Reference:
    """How one frame is to look.

    Attributes:
        t: its number.
        rgb, source: float32 [H, W, 3], the picture, and the frame as it is.
        mask: float32 [H, W], the person's silhouette in it.
        behind: float32 [H, W, 3], what is behind the person.
    """

    t: int
    rgb: np.ndarray
    source: np.ndarray
    mask: np.ndarray
    behind: np.ndarray

    @cached_property
    def box(self) -> Box:
        """Rows and columns about the person."""
        found = nonzero_box((self.mask > 0.1).astype(np.uint8))
        if found is None:
            raise InputError("The reference shows nothing of the person; give another --frame or --reference-mask.")
        return grown(found, 4, (self.mask.shape[0], self.mask.shape[1]))


def read_reference(fit: SpatialFit, config: DynVideoConfig) -> Reference | None:
    """The picture that is to be reached, if there is one.

    Raises:
        InputError: a file cannot be read, or is of another size than the frame; or nobody is in it.
    """
    if not 0 <= config.frame < len(fit):
        raise InputError(f"The clip has {len(fit)} frames; there is no frame {config.frame}.")
    if not config.reference:
        return None
    seen, t = fit.weights(config.frame)[fit.layers.index(PERSON)], config.frame
    rgb, mask = to_float(_picture(config.reference, fit)), seen
    if config.reference_mask:
        mask = to_float(_picture(config.reference_mask, fit)).mean(axis=-1)
    behind = fit.view(t, fit.cameras[t], layers=["background"])
    found = Reference(t, rgb, to_float(np.asarray(fit.clip.frames[t])), mask.astype(np.float32), behind)
    _ = found.box
    return found


def _picture(path: str, fit: SpatialFit) -> np.ndarray:
    found = read_rgb(Path(path))
    if found.shape[:2] != fit.size:
        seen, wanted = f"{found.shape[1]}x{found.shape[0]}", f"{fit.size[1]}x{fit.size[0]}"
        raise InputError(f"'{path}' is {seen} and the frames are {wanted}; give a picture of their size.")
    return found


# --- what is gone down ---


class Reconstruction:
    """The person at the reference view: picture, and while the shape changes, silhouette and depth."""

    def __init__(self, fit: SpatialFit, reference: Reference, reshaped: bool, seed: int) -> None:
        self.reference, self.reshaped, self.seed = reference, reshaped, seed
        t = reference.t
        before = fit.traced(t, fit.cameras[t])
        self.depth = (before.depth / before.human.clamp_min(1e-3)).detach()
        self.human = before.human.detach()
        with torch.no_grad():
            self.before = self._over(before.rgb(), before.human, fit.whole)
        self._traced: Traced | None = None

    def __call__(self, fit: SpatialFit, step: int) -> Tensor:
        """Mean over the pixels about the person."""
        own, t = self.reference, self.reference.t
        box = own.box
        if not self.reshaped:
            if self._traced is None:
                self._traced = fit.traced(t, fit.cameras[t])
            whole = self._traced
            return self._missed(whole.rgb()[box], whole.human[box], box)
        box = self._part(box, step)
        seen = fit.seen(t, cut(fit.cameras[t], *box), layers=[PERSON])
        lost = (seen.human - on(own.mask[box], seen.human)).square().mean()
        return self._missed(seen.rgb, seen.human, box) + lost + _DEPTH * self._apart(seen, box)

    def _missed(self, rgb: Tensor, human: Tensor, box: Box) -> Tensor:
        """Of what the video will show."""
        own = self.reference
        shown = recomposed(on(own.source[box], rgb), self.before[box], self._over(rgb, human, box))
        weight = torch.maximum(human.detach(), on(own.mask[box], human))[..., None]
        missed = weight * (shown - on(own.rgb[box], rgb)).square()
        return missed.sum() / (3 * weight.sum()).clamp_min(1)

    def _over(self, rgb: Tensor, human: Tensor, box: Box) -> Tensor:
        """The person before the background."""
        return rgb + (1 - human[..., None]) * on(self.reference.behind[box], rgb)

    def _apart(self, seen: Seen, box: Box) -> Tensor:
        """1 less Pearson's correlation of the depth with what it was, where the person was and is."""
        both = (self.human[box] > 0.9) & (seen.human.detach() > 0.9)
        if int(both.sum()) < 16:
            return seen.human.new_zeros(())
        now, then = (seen.depth / seen.human.clamp_min(1e-3))[both], self.depth[box][both]
        now, then = now - now.mean(), then - then.mean()
        return 1 - (now * then).mean() / (now.square().mean() * then.square().mean()).clamp_min(1e-12).sqrt()

    def _part(self, box: Box, step: int) -> Box:
        rng = np.random.default_rng([self.seed, step, 1])
        found = []
        for side in box:
            length = min(_CUT, side.stop - side.start)
            first = int(rng.integers(side.start, side.stop - length + 1))
            found.append(slice(first, first + length))
        return found[0], found[1]


class Held:
    """Colours of the surface as they were, where the reference does not show it."""

    def __init__(self, fit: SpatialFit, reference: Reference | None, seed: int) -> None:
        places = fit.surface()
        if reference is not None:
            places = places[~_shown(fit, reference.t, places)]
        self.seed = seed
        self.places = torch.from_numpy(places)
        with torch.no_grad():
            self.colours = torch.cat([fit.colour_at(part) for part in self.places.split(1 << 15)])

    def __call__(self, fit: SpatialFit, step: int) -> Tensor:
        """Mean square of the difference at some of the places."""
        if not len(self.places):
            return self.colours.new_zeros(())
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen = torch.randint(len(self.places), (_HELD_POINTS,), generator=generator)
        return (fit.colour_at(self.places[chosen]) - self.colours[chosen.to(self.colours.device)]).square().mean()


def _shown(fit: SpatialFit, t: int, places: np.ndarray) -> np.ndarray:
    """Which places [V, 3] of the canonical surface frame ``t`` shows, bool [V]."""
    seen = fit.coordinates_3d(t, PERSON)[fit.weights(t)[fit.layers.index(PERSON)] > 0.5]
    if len(seen) < 2:
        return np.zeros(len(places), bool)
    tree = cKDTree(seen)
    apart = float(np.median(tree.query(seen, k=2)[0][:, 1]))
    return np.asarray(tree.query(places)[0] < _REACH * apart)


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
        by_prompt: dict[tuple[str | None, bool], list[tuple[Shot, Tensor, Tensor]]] = {}
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

    def prompt(self, shot: Shot) -> str | None:
        """What a view is to show; None = what the settings say."""
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
        self.guidance = Guidance(self.model, config.settings())
        self.picture = to_tensor(person_alone(reference, (self.model.native, self.model.native)))
        self.azimuth, self.elevation = shots.seen_from(reference.t)

    def __call__(self, view: Tensor, shot: Shot, step: int) -> Tensor:
        """Of one view [1, 3, h, w], per pixel, at the size that the model is made for."""
        own, size = self.config, (self.model.native, self.model.native)
        view = F.interpolate(view, size, mode="bilinear", antialias=True, align_corners=False)
        angles = np.radians([shot.azimuth - self.azimuth, shot.elevation - self.elevation])
        reference = self.picture.to(self.model.device)
        guide = self.model.guide(reference, float(angles[0]), float(angles[1]), 0.0, own.guidance, size)
        return self.guidance(view, step, own.steps, None, guide).loss / view[:, 0].numel()


def person_alone(reference: Reference, size: tuple[int, int], share: float = 1.0) -> np.ndarray:
    """The person of the reference before white, float32 [h, w, 3], in a square about them, or about their top part.

    Args:
        share: of the height of their box.
    """
    picture, _ = _square(reference, size, share)
    return picture


def _square(reference: Reference, size: tuple[int, int], share: float) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`person_alone`; and the silhouette [h, w] in it."""
    rows, columns = reference.box
    side = max(round((rows.stop - rows.start) * share), columns.stop - columns.start if share == 1 else 1, 8)
    top = rows.start if share < 1 else (rows.start + rows.stop - side) // 2
    left = (columns.start + columns.stop - side) // 2
    height, width = reference.mask.shape
    picture, mask = np.ones((side, side, 3), np.float32), np.zeros((side, side), np.float32)
    inner = (slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width)))
    place = (
        slice(inner[0].start - top, inner[0].stop - top),
        slice(inner[1].start - left, inner[1].stop - left),
    )
    own = reference.mask[inner][..., None]
    picture[place], mask[place] = own * reference.rgb[inner] + (1 - own), reference.mask[inner]
    return resized(picture, size), resized(mask, size)


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
    pictures, masks = zip(*(_square(reference, size, share) for share in _TRAINED), strict=True)
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
    loss = _loss(own, config, reference)
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
