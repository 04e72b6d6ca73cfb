"""A layer in the look of a picture: by the statistics of its patches, or by an IP-Adapter (Ye et al., 2023)."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.restyle import RestyleConfig
from canon.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from canon.editors.patches import Picture
    from canon.edits import Edit
    from canon.fits import Fit
    from canon.registry import Frames

_OF_PATCHES = ("image_mask", "structure", "scale", "patch")
_OF_BOTH = ("image", "layer", "mask", "feather", "segment", "seed")
_MOST = 2_000_000
"""Pixels of a picture, at the size at which it is to appear, whose patches are compared in reasonable time."""


@dataclass
class ExemplarConfig(RestyleConfig):
    """Give a layer the look of a picture, by its patches, or with an IP-Adapter and a diffusion model."""

    image: str = ""
    """Picture whose look is taken over; what is transparent in it does not count."""
    image_mask: str = ""
    """Image of the picture's aspect, white where its look is to be taken from; none = everywhere."""
    structure: float = 0.6
    """How much of the layer's own light and shade stays visible: 0 = none, 1 = all."""
    scale: float | None = None
    """Texels that a pixel of the picture takes: 2 makes its pattern appear twice as large; none = 1, or less for a
    picture larger than the canvas, which is shrunk to its size."""
    patch: int = 7
    """Side of the patches in texels, odd; larger ones keep more of the pattern together."""
    ip_adapter: str = ""
    """IP-Adapter that takes over the look in place of patches, with a --model: hub id, folder or .safetensors file."""
    exemplar: str = ""
    """Of other editors; the picture is --image here."""

    needs_prompt: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.image:
            raise InputError("A picture is needed: say with --image whose look the layer is to take.")
        if self.exemplar not in ("", self.image):
            raise InputError("The picture is given once; leave --exemplar out and keep --image.")
        self.exemplar = self.image if self.ip_adapter else ""
        super().__post_init__()
        if not 0 <= self.structure <= 1:
            raise InputError(f"The structure {self.structure:g} is out of range; choose 0 to 1.")
        if self.scale is not None and not 0 < self.scale <= 32:
            raise InputError(f"The scale {self.scale:g} is out of range; choose above 0, up to 32.")
        if not 3 <= self.patch <= 15 or self.patch % 2 == 0:
            raise InputError(f"The patch {self.patch} cannot be used; choose an odd number from 3 to 15.")
        self._check_kind()

    def _check_kind(self) -> None:
        """Refuse options of the one way with those of the other."""
        own = {"exemplar", *_OF_PATCHES, *_OF_BOTH}
        for field in fields(self):
            given = field.default is not MISSING and getattr(self, field.name) != field.default
            name = field.name.replace("_", "-")
            if given and self.ip_adapter and field.name in _OF_PATCHES:
                raise InputError(f"The option --{name} is of patches; leave it or --ip-adapter out.")
            if given and not self.ip_adapter and field.name not in own:
                raise InputError(
                    f"The option --{name} is of a diffusion model; give --ip-adapter, too, or leave it out."
                )


class Exemplar(DiffusionEditor):
    """Gives a layer the look of a picture; see :class:`ExemplarConfig`."""

    Config = ExemplarConfig
    name = "exemplar"
    painter = "RestylePainter"

    def __call__(self, fit: Fit, config: ExemplarConfig) -> Edit:
        """The edit: paint on the layer.

        Raises:
            InputError: unknown layer or segment, a picture, a mask or a model that cannot be used, or too little of the
                picture to take patches from.
        """
        return super().__call__(fit, config) if config.ip_adapter else _edit(fit, config)

    def framewise(self, fit: Fit, config: ExemplarConfig) -> Frames:
        """The same for every frame by itself; see the base class.

        Raises:
            InputError: as of a call; or an edit of a part of the canvas.
        """
        return super().framewise(fit, config) if config.ip_adapter else _FramesInLook(fit, config)


def _edit(fit: Fit, config: ExemplarConfig) -> Edit:
    """The look of a picture's patches as paint on a layer."""
    from canon.boxes import box_size
    from canon.editors.diffusion.canvases import Region, regions, repainted
    from canon.edits import Edit, Provenance, Step

    layer = fit.layer(config.layer or fit.layers[0]).name
    found = regions(fit, layer, config)

    def made(region: Region) -> np.ndarray:
        picture = read_exemplar(config, box_size(fit.segment_box(layer, region.segment)))
        return _in_look(region.image, region.area, picture, config)

    paint = repainted(fit, layer, found, made)
    own = asdict(config)
    options = {**{name: own[name] for name in (*_OF_BOTH, *_OF_PATCHES)}, "layer": layer}
    read = [path for path in (config.image, config.image_mask, config.mask) if path]
    return Edit([Step(layer, paint, Provenance.now("exemplar", options, read))], fit.id)


def _in_look(image: np.ndarray, area: np.ndarray, picture: Picture, config: ExemplarConfig) -> np.ndarray:
    from canon.editors.patches import synthesise

    return synthesise(image, area, picture, structure=config.structure, patch=config.patch, seed=config.seed)


def read_exemplar(config: ExemplarConfig, size: tuple[int, int]) -> Picture:
    """The picture at the size at which it is to appear on a canvas of ``size`` (height, width).

    Raises:
        InputError: it or its mask cannot be read; the mask has another aspect; or it is too small or too large then.
    """
    from pathlib import Path

    import cv2
    import numpy as np

    from canon.editors.diffusion.canvases import resized
    from canon.editors.painting import read_rgba
    from canon.editors.patches import Picture, count_patches
    from canon.edits import fits_canvas
    from canon.storage import read_image, to_float

    rgba = read_rgba(config.image)
    height, width = rgba.shape[:2]
    usable = rgba[..., 3] if rgba.shape[2] == 4 else np.ones((height, width), np.float32)
    scale = config.scale or min((size[0] * size[1] / (height * width)) ** 0.5, 1.0)
    shown = (max(round(height * scale), 1), max(round(width * scale), 1))
    if shown[0] * shown[1] > _MOST:
        raise InputError(
            f"The picture '{config.image}' is {shown[1]}x{shown[0]} at the scale {scale:g}, which is too large to"
            " compare; give a smaller --scale."
        )
    if config.image_mask:
        mask = to_float(read_image(Path(config.image_mask)))
        if not fits_canvas((mask.shape[0], mask.shape[1]), (height, width)):
            raise InputError(
                f"The mask '{config.image_mask}' is {mask.shape[1]}x{mask.shape[0]} and the picture {width}x{height};"
                " keep the aspect ratio."
            )
        wanted = mask[..., :3].mean(axis=-1) * (mask[..., 3] if mask.shape[2] == 4 else 1)
        usable = usable * resized(wanted, (height, width))
    known = (usable > 0.99).astype(np.float32)
    if scale > 1:  # cubic interpolation sees two pixels around
        known = np.asarray(cv2.erode(known, np.ones((5, 5), np.uint8)), np.float32)
    image, share = resized(rgba[..., :3], shown), resized(known, shown)
    colours = rgba[..., :3][usable > 0.99]
    if len(colours):
        image = np.asarray(np.clip(image, colours.min(axis=0), colours.max(axis=0)), np.float32)
    # A pixel that is shrunk together with an unusable one has some of its colour.
    found = Picture(image, share > 0.999)
    if not count_patches(found.usable, config.patch):
        raise InputError(
            f"Of the picture '{config.image}', less than a patch of {config.patch} texels is to be used; give a larger"
            " --scale, a smaller --patch or another --image-mask."
        )
    return found


class _FramesInLook:
    """Every frame in the look of the picture, laid over the source by the layer's weight, uint8 [H, W, 3]."""

    def __init__(self, fit: Fit, config: ExemplarConfig) -> None:
        """Read the picture; frames are made when they are asked for."""
        for option in ("mask", "segment"):
            if getattr(config, option) is not None:
                raise InputError(f"The edit's --{option} is of the canvas, so that it has no frame-by-frame baseline.")
        self.fit, self.config = fit, config
        self.layer = fit.layers.index(fit.layer(config.layer or fit.layers[0]).name)
        self.picture = read_exemplar(config, fit.size)

    def __len__(self) -> int:
        return len(self.fit)

    def __getitem__(self, t: int, /) -> np.ndarray:
        import numpy as np

        from canon.editors.diffusion.canvases import cropped
        from canon.storage import to_float, to_uint8

        frame = np.asarray(self.fit.clip.frames[self.fit.index(t)])
        weight = self.fit.weights(t)[self.layer]
        box = cropped(weight)
        if box is None:
            return frame
        source, share = to_float(frame[box]), weight[box]
        made = _in_look(source, share, self.picture, self.config)
        out = frame.copy()
        out[box] = to_uint8(source + share[..., None] * (made - source))
        return out
