"""What an experiment says of figures and renders."""

from __future__ import annotations

import fnmatch

from canon.errors import InputError
from canon.experiments.checking import Checker, Given, given_by, near_to, patterns_of, shown
from canon.experiments.choices import EDIT_FIGURES, FIT_FIGURES, MetricsOptions, RenderOptions
from canon.experiments.nodes import Node
from canon.experiments.options import for_config


def read_metrics(checker: Checker, *nodes: Node | None) -> MetricsOptions | None:
    """What the experiment, the clip and the item say of figures, the later over the earlier; None = none."""
    given: Given | None = {}
    for node in nodes:
        if node is None:
            continue
        if node.value in (False, None, "none"):
            given = None
        elif node.value in (True, "all"):
            given = {name: one for name, one in (given or {}).items() if name != "only"}
        elif node.is_mapping:
            given = {**(given or {}), **given_by(node)}
        elif node.is_list or isinstance(node.value, str):
            given = {**(given or {}), "only": (node.place, node)}
        else:
            checker.say(node.place, f"metrics takes all, false, a list of figures, or a mapping; not {shown(node)}.")
    if given is None:
        return None
    if "only" in given:
        _check_figures(checker, given["only"][1])
    plain = checker.typed(MetricsOptions, given, "metrics")
    if plain is None:
        return None
    found = MetricsOptions(**for_config(MetricsOptions, plain))
    if found.colour is not None:
        from canon.colour import named_colour

        try:
            named_colour(found.colour)
        except InputError as error:
            checker.say(given["colour"][1].place, str(error))
    return found


def _check_figures(checker: Checker, node: Node) -> None:
    known = (*FIT_FIGURES, *EDIT_FIGURES)
    for pattern in patterns_of(node):
        if not any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(pattern, name) for name in known):
            near = near_to(pattern, [name for name in known if "*" not in name])
            checker.say(node.place, f"There is no figure '{pattern}'{near or '; see docs/measures.md.'}")


def read_render(checker: Checker, node: Node | None) -> RenderOptions | None:
    """How videos are written; None = not at all."""
    if node is None or node.value is True:
        return RenderOptions()
    if node.value is False or node.value is None:
        return None
    found = checker.simple(node, RenderOptions, "render")
    if found is not None and not 1 <= found.scale <= 8:
        checker.say(node.place, f"The scale {found.scale} is out of range; choose 1 to 8.")
    return found
