"""Whether a picture has the colours that its caption names: no network, only the share of pixels nearest each name.

Every pixel goes by the name of the nearest of canon-mini's colours (CIEDE2000). A caption's colours are right when each
has a fair share of where it belongs, and all together have half of it. Materials of one fixed look name no colour: half
of their pixels have to lie in the family of colours that the material is made of.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

from canon.editors.diffusion.mini.pictures import draw
from canon.editors.diffusion.mini.vocabulary import COLOURS, SHAPES, Look, Picture

SIZE = 64
"""Pixels along a side of what it looks at."""
EACH = 0.15
"""Share that every named colour has at least."""
TOGETHER = 0.5
"""Share that they have at least together."""
SHADED = {"leaves": 0.2}
"""Share together where much lies in shadows of the colour."""
FAMILIES = {
    "gold": ("yellow", "orange", "brown", "beige"),
    "silver": ("grey", "white", "black"),
    "snow": ("white",),
    "clouds": ("blue", "white", "grey", "turquoise"),
    "fire": ("red", "orange", "yellow"),
}
"""What drawn materials of one fixed look consist of."""
_NAMES = list(COLOURS)
_REFERENCE = rgb2lab(np.array(list(COLOURS.values())) / 255)


def name_pixels(image: np.ndarray) -> np.ndarray:
    """Picture [h, w, 3], sRGB in 0..1 -> number of each pixel's colour in the vocabulary, [SIZE, SIZE]."""
    if image.shape[:2] != (SIZE, SIZE):
        image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    lab = np.repeat(rgb2lab(np.clip(image, 0, 1))[:, :, None], len(_NAMES), 2)
    return np.asarray(deltaE_ciede2000(lab, np.broadcast_to(_REFERENCE, lab.shape)).argmin(-1))


def colours_right(picture: Picture, named: np.ndarray) -> bool:
    """Whether pixels, named by :func:`name_pixels`, have the colours of what a picture should show, where it should."""
    if picture.shape is None or picture.ground is None:
        return _shows(picture.look, named)
    inside, outside = _places(picture.shape)
    return _shows(picture.look, named[inside]) and _shows(picture.ground, named[outside])


def with_one_changed(picture: Picture, rng: np.random.Generator) -> Picture | None:
    """The same picture but for one colour; None where no colour is named."""
    looks = [look for look in (picture.look, picture.ground) if look is not None]
    open_ = [look for look in looks if look.pattern not in FAMILIES]
    if not open_:
        return None
    look = open_[rng.integers(len(open_))]
    there = {colour for each in looks for colour in each.colours}
    colours = list(look.colours)
    colours[rng.integers(len(colours))] = str(rng.choice([name for name in _NAMES if name not in there]))
    other = Look(look.pattern, tuple(colours))
    if look is picture.look:
        return Picture("", other, picture.shape, picture.ground)
    return Picture("", picture.look, picture.shape, other)


def _shows(look: Look, named: np.ndarray) -> bool:
    share = dict(zip(_NAMES, np.bincount(named.ravel(), minlength=len(_NAMES)) / named.size, strict=True))
    colours = FAMILIES.get(look.pattern, look.colours)
    each = 0.0 if look.pattern in FAMILIES else EACH
    together = sum(share[name] for name in colours)
    return together >= SHADED.get(look.pattern, TOGETHER) and all(share[name] >= each for name in colours)


@cache
def _places(shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Where most drawn objects of a shape lie, and where hardly any does, bool [SIZE, SIZE]."""
    silhouette = Picture("", Look("plain", ("white",)), shape, Look("plain", ("black",)))
    rng = np.random.default_rng(SHAPES.index(shape))
    often = np.mean([draw(silhouette, SIZE, rng)[..., 1] > 0.5 for _ in range(100)], axis=0)
    return often > 0.6, often < 0.05
