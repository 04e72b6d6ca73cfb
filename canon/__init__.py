"""canon: edit video through a canonical representation.

Names are imported when they are first used, so that ``import canon`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canon.canvas import Canvas
    from canon.clip import Clip
    from canon.edit_folder import load_edit
    from canon.editing import edit
    from canon.edits import Edit
    from canon.errors import InputError
    from canon.evaluation import evaluate
    from canon.experiments.running import run
    from canon.fit_folder import load
    from canon.fits import Fit
    from canon.fitting import fit
    from canon.rendering import Video, render

# No module may have the name of one of these: importing it would put the module in the place of the function.
_PLACES = {
    "Canvas": "canon.canvas",
    "Clip": "canon.clip",
    "Edit": "canon.edits",
    "Fit": "canon.fits",
    "InputError": "canon.errors",
    "Video": "canon.rendering",
    "edit": "canon.editing",
    "evaluate": "canon.evaluation",
    "fit": "canon.fitting",
    "load": "canon.fit_folder",
    "load_edit": "canon.edit_folder",
    "render": "canon.rendering",
    "run": "canon.experiments.running",
}

__all__ = [
    "Canvas",
    "Clip",
    "Edit",
    "Fit",
    "InputError",
    "Video",
    "edit",
    "evaluate",
    "fit",
    "load",
    "load_edit",
    "render",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'canon' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
