"""A fit as ST-maps, mattes, light passes and canonical plates, from which a compositor rebuilds every frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from canon.coordinates import Size, to_stmap
from canon.errors import InputError
from canon.exports.hosts import Export, ExportedLayer, blender_script, nuke_script
from canon.fits import Fit
from canon.folders import atomic_folder
from canon.runtime import map_frames
from canon.sampling import pyramid
from canon.storage import write_exr, write_json

_MARKER = "stmaps.json"


@dataclass(frozen=True)
class Convention:
    """What a program expects in the channels of an ST-map. In all of them a pixel's centre is (x + 0.5) / W.

    Attributes:
        upwards: V = 0 is the bottom edge of the plate.
        blue: constant in the blue channel, or None for none.
        matte: whether the layer's matte is in the alpha channel as well (else it is 1).
        named: U and V also in channels of these names.
    """

    upwards: bool = True
    blue: float = 0.0
    matte: bool = True
    named: bool = False


CONVENTIONS = {
    "nuke": Convention(),
    # Map UV multiplies the texture by the third component.
    "blender": Convention(blue=1.0, matte=False),
    # The Loader assigns any channel to U and V; names of their own save looking them up.
    "fusion": Convention(named=True),
    "flame": Convention(),
}


def export_stmaps(fit: Fit, folder: str | Path, convention: str = "nuke", layers: Sequence[str] = ()) -> list[Path]:
    """Write, for every layer, the maps of all frames and the canonical plates that they look at.

    A frame is the sum over the layers of matte * light * plate looked up through the ST-map, in display values (no
    colour management). Where a frame shows a layer smaller than its plate, our render blends the plate with its halves,
    so that it does not shimmer: the halves are written too, and how much each counts in each frame. Beside the images
    lies a script that wires them up, for nuke and blender.

    Args:
        folder: made, or replaced where an earlier export wrote it. LAYER/canonical.exr (and canonical.2.exr, at half
            the size, and so on), and per frame LAYER/stmap.NNNNN.exr (float32), LAYER/matte.NNNNN.exr (half),
            LAYER/light.NNNNN.exr (half).
        convention: a key of :data:`CONVENTIONS`.
        layers: names; all without them.

    Returns:
        the folder, and the script if there is one.

    Raises:
        InputError: unknown convention or layer, or the folder cannot be written.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"The convention '{convention}' is not known; choose one of {', '.join(CONVENTIONS)}.")
    names = [fit.layer(name).name for name in layers] or fit.layers
    target, form = Path(folder), CONVENTIONS[convention]
    with atomic_folder(target, _owned) as temporary:
        exported = [_write_plates(fit, name, temporary / name) for name in names]

        def one(t: int) -> None:
            for layer in exported:
                _write_frame(fit, layer, t, form, temporary / layer.name)

        for _ in map_frames(one, range(len(fit))):
            pass
        about = Export(exported, fit.size, len(fit), float(fit.clip.fps))
        scripts = {"nuke": ("comp.nk", nuke_script), "blender": ("comp_blender.py", blender_script)}
        written = [target]
        if convention in scripts:
            file, write = scripts[convention]
            (temporary / file).write_text(write(about))
            written.append(target / file)
        entries = sorted(entry.name for entry in temporary.iterdir())
        write_json(temporary / _MARKER, {"convention": convention, "files": [*entries, _MARKER], **asdict(about)})
    return written


def _write_plates(fit: Fit, name: str, folder: Path) -> ExportedLayer:
    """The canvas, and its halves as far as some frame looks at them."""
    shares = [fit.detail(t, name) for t in range(len(fit))]
    last = max(max(share) for share in shares)
    plate = fit.canvas(name).rgba
    # Whole halves, so that the same ST-map fits all of them.
    plate = np.pad(plate, [(0, -side % 2**last) for side in plate.shape[:2]] + [(0, 0)], mode="edge")
    files = ["canonical.exr", *(f"canonical.{2**k}.exr" for k in range(1, last + 1))]
    for file, level in zip(files, pyramid(plate, last + 1), strict=True):
        write_exr(folder / file, {"RGBA": level})
    weights = [[round(share.get(k, 0.0), 6) for share in shares] for k in range(last + 1)]
    return ExportedLayer(name, (plate.shape[0], plate.shape[1]), files, weights)


def _write_frame(fit: Fit, layer: ExportedLayer, t: int, form: Convention, folder: Path) -> None:
    uv, weight = fit.coordinates(t, layer.name)
    st = stmap(uv, layer.size, form.upwards)
    u, v = st[..., 0], st[..., 1]
    channels = {"R": u, "G": v, "B": np.full_like(u, form.blue), "A": weight if form.matte else np.ones_like(u)}
    if form.named:
        channels |= {"U": u, "V": v}
    write_exr(folder / f"stmap.{t:05d}.exr", channels)
    write_exr(folder / f"matte.{t:05d}.exr", {channel: weight.astype(np.float16) for channel in "RGBA"})
    write_exr(folder / f"light.{t:05d}.exr", {"RGB": fit.lighting(t, layer.name).astype(np.float16)})


def stmap(uv: np.ndarray, canvas: Size, upwards: bool = True) -> np.ndarray:
    """Canvas pixels [H, W, 2] -> ST coordinates float32 [H, W, 2], from 0 to 1 edge to edge; V up if ``upwards``."""
    return to_stmap(torch.from_numpy(np.ascontiguousarray(uv, np.float32)), canvas, upwards).numpy()


def _owned(folder: Path) -> set[str]:
    """What an earlier export wrote into ``folder``."""
    try:
        files = json.loads((folder / _MARKER).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {str(name) for name in files} if isinstance(files, list) else set()
