"""The page on which edits are stacked and rendered."""

from __future__ import annotations

from typing import Any

import gradio as gr

from canon.errors import InputError
from canon.viewer import forms
from canon.viewer.page_edit import NOTICE, page_blocks, refusal
from canon.viewer.routes import Workplace
from canon.viewer.work import FORMATS

_MOST_SCALE = 8
_ABOUT = {"mp4": "H.264, plays everywhere", "webm": "VP9", "gif": "256 colours", "mov": "ProRes 4444, to work on"}


def render_page(place: Workplace, tab: gr.Tab) -> None:
    """Put the page into the block that is open; see :func:`canon.viewer.page_edit.edit_page`."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340):
            with gr.Group():
                stack = gr.Dropdown(
                    **_edits(place, None),
                    multiselect=True,
                    allow_custom_value=True,
                    label="Edits",
                    info="In this order, the first at the bottom",
                    elem_id="stack",
                )
                format = gr.Dropdown(
                    [(f"{name}: {_ABOUT[name]}", name) for name in FORMATS], value="mp4", label="Format"
                )
                scale = gr.Number(1, label="Scale", info=f"Times the clip's size, 1 to {_MOST_SCALE}", elem_id="scale")
                lit = gr.Checkbox(True, label="Lit", info="The light of the scene falls on the edit")
            run = gr.Button("Render", variant="primary", elem_id="render")
            said = gr.HTML("", elem_id="render-said", padding=False)
            gr.HTML('<canon-jobs of="render"></canon-jobs>', padding=False)
        with gr.Column(scale=5, min_width=520):
            gr.HTML("<canon-films></canon-films>", padding=False)

    def edits(chosen: list[str] | None) -> Any:
        return gr.Dropdown(**_edits(place, chosen))

    def start(stack: list[str] | None, format: str, scale: Any, lit: bool) -> str:
        try:
            submitted(place, list(stack or []), format, scale, lit)
        except InputError as error:
            return refusal(str(error))
        return ""

    for event in (tab.select, page_blocks().load):
        event(edits, stack, stack, queue=False, show_progress="hidden", api_visibility="private")
    run.click(
        start, [stack, format, scale, lit], said, queue=False, show_progress="hidden", api_visibility="private"
    ).then(None, js=NOTICE)


def _edits(place: Workplace, chosen: list[str] | None) -> dict[str, Any]:
    """What can be stacked, and what is."""
    there = place.shelf.project.edits
    kept = [name for name in chosen or [] if name in there]
    return {"choices": there, "value": kept or there[-1:]}


def submitted(place: Workplace, stack: list[str], format: str, scale: Any, lit: bool) -> None:
    """Have the worker render.

    Raises:
        InputError: no edit, an edit that is not there, edits of several fits, or a format or scale that there is not.
    """
    project = place.shelf.project
    if not stack:
        raise InputError("There is nothing to render; choose an edit.")
    if format not in FORMATS:
        raise InputError(f"A render can be {', '.join(FORMATS)}, not '{format}'.")
    times = forms.whole("Scale", scale, 1, _MOST_SCALE)
    project.fit_of([place.studio.edit(name) for name in stack])
    arguments = {
        "project": str(project.folder.resolve()),
        "edits": stack,
        "scale": times,
        "format": format,
        "lit": bool(lit),
    }
    place.jobs.submit("render", f"Render {' + '.join(stack)}", arguments)
