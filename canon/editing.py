"""``canon.edit``: run an editor on a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canon.edits import Edit
from canon.fits import Fit
from canon.progress import parts
from canon.registry import editor, make_config


def edit(fit: Fit, name: str, *, layers: Mapping[str, Mapping[str, Any]] | None = None, **options: Any) -> Edit:
    """Make an edit with a registered editor.

    Args:
        name: the editor, such as "paint", "remove" or "grade".
        layers: options by layer, for several layers in one edit; ``options`` then hold for all of them.
        options: fields of the editor's ``Config``, ``layer`` among them.

    Raises:
        InputError: unknown editor, layer or option, or one that cannot be used.
    """
    kind = editor(name)
    tool = kind()
    if layers is None:
        return tool(fit, make_config(kind.Config, options))
    steps = []
    for layer, own in parts(layers.items()):
        steps += tool(fit, make_config(kind.Config, {**options, **own, "layer": layer})).steps
    return Edit(steps, fit.id)
