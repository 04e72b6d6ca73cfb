"""How one frame is to look, and what that asks of a person's field: picture, silhouette, depth; and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from canon.boxes import Box, grown
from canon.editors.diffusion.canvases import resized
from canon.editors.spatial.dynvideo import DynVideoConfig
from canon.editors.spatial.field import PERSON, cut, on, part_of
from canon.errors import InputError
from canon.fits import nonzero_box
from canon.sources import read_rgb
from canon.spatial import Seen, SpatialFit, Traced, recomposed
from canon.storage import to_float

_HELD_POINTS = 8192
"""Places whose colours are held in a step."""
_ABOUT = 0.01
"""How far from the surface (standard deviation) they lie, as a share of the body's longest side."""
_REACH = 1.5
"""Pixels around those that show the person within which a place of the surface counts as shown."""
_CUT = 48
"""Pixels along a side of the part of the reference that is looked at in a step while the shape changes."""
_DEPTH = 0.1
"""Weight of the depth's correlation, beside the silhouette's 1."""


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
        box = part_of(box, _CUT, np.random.default_rng([self.seed, step, 1]))
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


class Held:
    """Colours on and about the surface as they were, where the reference does not show it."""

    def __init__(self, fit: SpatialFit, reference: Reference | None, seed: int) -> None:
        places = fit.surface()
        self.depth = _ABOUT * float(np.ptp(places, axis=0).max())
        if reference is not None:
            places = places[~_shown(fit, reference.t, places)]
        self.fit, self.seed = fit, seed
        self.places = torch.from_numpy(places)

    def __call__(self, fit: SpatialFit, step: int) -> Tensor:
        """Mean square of the difference at some of the places."""
        if not len(self.places):
            return torch.zeros(())
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen = self.places[torch.randint(len(self.places), (_HELD_POINTS,), generator=generator)]
        # A field's surface is no sheet: what lies a little deeper, or further out, is seen, too.
        places = chosen + self.depth * torch.randn(chosen.shape, generator=generator)
        with torch.no_grad():
            before = self.fit.colour_at(places)
        return (fit.colour_at(places) - before).square().mean()


def _shown(fit: SpatialFit, t: int, places: np.ndarray) -> np.ndarray:
    """Which places [V, 3] of the canonical surface frame ``t`` shows, bool [V]."""
    seen = fit.coordinates_3d(t, PERSON)[fit.weights(t)[fit.layers.index(PERSON)] > 0.5]
    if len(seen) < 2:
        return np.zeros(len(places), bool)
    tree = cKDTree(seen)
    apart = float(np.median(tree.query(seen, k=2)[0][:, 1]))
    return np.asarray(tree.query(places)[0] < _REACH * apart)


def square(reference: Reference, size: tuple[int, int], share: float) -> tuple[np.ndarray, np.ndarray]:
    """The person of the reference before white, float32 [h, w, 3], in a square about them, or about their top part; and
    their silhouette [h, w] in it.

    Args:
        share: of the height of their box.
    """
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
