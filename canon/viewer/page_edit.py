"""The page on which an editor is chosen, its form filled in, and one of its variants kept."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from canon import registry
from canon.errors import InputError
from canon.viewer import forms
from canon.viewer.forms import Field
from canon.viewer.routes import Workplace

MOST_VARIANTS = 24
_FIRST = "restyle"
NOTICE = "() => { setTimeout(() => window.dispatchEvent(new Event('canon-jobs-changed')), 50); }"


def edit_page(
    place: Workplace, tab: gr.Tab, uploads: Path, confined: Path | None = None, device: str | None = None
) -> None:
    """Put the page into the block that is open.

    Args:
        tab: that it is on; what can be chosen is looked up whenever it is opened.
        uploads: where uploaded files are.
        confined: see :func:`canon.viewer.forms.options`.
        device: for editors that have an option of that name.
    """
    names = registry.names(registry.EDITORS)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340, elem_classes="canon-side"):
            with gr.Group():
                editor = gr.Dropdown(
                    names,
                    value=_FIRST if _FIRST in names else names[0],
                    label="Editor",
                    elem_id="editor",
                    filterable=True,
                )
                fit = gr.Dropdown(**_fits(place, None), label="Fit", elem_id="fit", allow_custom_value=True)

            renew = gr.Button("Make the form again", visible="hidden", elem_id="renew")
            made = [editor.change, fit.change, page_blocks().load, renew.click]

            @gr.render(inputs=[editor, fit], triggers=made, queue=False, show_progress="hidden")
            def form(editor: str, fit: str | None) -> None:
                _form(place, editor, fit, uploads, confined, device)

        with gr.Column(scale=5, min_width=520):
            gr.HTML('<canon-dismiss of="edit"></canon-dismiss><canon-variants></canon-variants>', padding=False)

    def fits(chosen: str | None) -> Any:
        return gr.Dropdown(**_fits(place, chosen))

    for event in (tab.select, page_blocks().load):
        event(fits, fit, fit, queue=False, show_progress="hidden", api_visibility="private")


def _fits(place: Workplace, chosen: str | None) -> dict[str, Any]:
    """What can be chosen among the fits, and which of them is."""
    there = place.shelf.project.fits
    value = chosen if chosen in there else there[-1] if there else None
    return {"choices": there, "value": value, "visible": len(there) > 1}


def page_blocks() -> gr.Blocks:
    """The whole page that is being made."""
    found = Context.root_block
    assert found is not None
    return found


def _form(
    place: Workplace, editor: str, fit: str | None, uploads: Path, confined: Path | None, device: str | None
) -> None:
    """The form of one editor, with what runs it."""
    try:
        about = forms.described(editor)
        fields = [one for one in forms.form(registry.editor(editor).Config) if one.name != "device" or device is None]
        layers = [] if fit is None else place.studio.fit(fit).layers
    except InputError as error:
        gr.HTML(refusal(str(error)))
        return
    gr.Markdown(forms.as_labels(about, fields), elem_classes="canon-about")
    inputs: dict[str, Any] = {}
    with gr.Group():
        for field in fields:
            if field.plain:
                inputs[field.name] = _input(field, layers, (editor, field.name), forms.as_labels(field.help, fields))
    folded = [field for field in fields if not field.plain]
    if folded:
        with gr.Accordion("More options", open=False):
            for field in folded:
                inputs[field.name] = _input(field, layers, (editor, field.name), forms.as_labels(field.help, fields))
    chance = any(field.name == "seed" for field in fields)
    with gr.Row(elem_classes="canon-run"):
        said = gr.HTML("", elem_id="said", elem_classes="canon-said", padding=False)
        count = gr.Number(
            1,
            label="Variants",
            visible=chance,
            elem_id="variants",
            interactive=True,
            min_width=120,
        )
        run = gr.Button("Run", variant="primary", elem_id="run", min_width=120)

    def start(count: Any, *values: Any) -> str:
        try:
            given = dict(zip(inputs, values, strict=True))
            return submitted(place, editor, fit, fields, given, count if chance else 1, uploads, confined, device)
        except InputError as error:
            return refusal(forms.as_labels(str(error), fields))

    run.click(
        start,
        [count, *inputs.values()],
        said,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    ).then(None, js=NOTICE)


def submitted(
    place: Workplace,
    editor: str,
    fit: str | None,
    fields: Sequence[Field],
    values: dict[str, Any],
    count: Any,
    uploads: Path,
    confined: Path | None,
    device: str | None,
) -> str:
    """Have the worker make what a filled-in form asks for; gives a line to show.

    Raises:
        InputError: no fit, or an option that cannot be used.
    """
    number = forms.whole("Variants", count, 1, MOST_VARIANTS)
    options = forms.options(fields, values, uploads, confined)
    kind = registry.editor(editor).Config
    if device is not None and "device" in forms.names(kind):
        options["device"] = device
    registry.make_config(kind, options)  # refused now, not once its turn has come
    project = place.shelf.project
    arguments = {
        "project": str(project.folder.resolve()),
        "fit": project.fit_name(fit),
        "editor": editor,
        "options": options,
        "count": number,
    }
    title = f"{editor}: {_shortened(str(options['prompt']))}" if options.get("prompt") else editor
    place.jobs.submit("edit", title + (f", {number} variants" if number > 1 else ""), arguments)
    return ""


def _input(field: Field, layers: Sequence[str], key: tuple[str, ...], help: str) -> Any:
    """The gradio component of a field; ``key`` tells it from those of other editors, whose values it must not take."""
    own: dict[str, Any] = {
        "key": key,
        "label": field.label,
        "info": help,
        "elem_id": f"option-{field.name}",
        "interactive": True,
    }
    value = forms.shown(field)
    if field.kind == forms.LAYER:
        choices = [("Automatic", ""), *((name, name) for name in layers)]
        return gr.Dropdown(choices, value="", allow_custom_value=True, **{**own, "key": (*key, *layers)})
    if field.kind in (forms.FILE, forms.FILES):
        pictures = [*forms.PICTURES, *forms.OTHER_FILES]
        several = field.kind == forms.FILES
        gr.Markdown(f"{html.escape(field.label)}<br><small>{html.escape(help)}</small>", elem_classes="canon-help")
        made = gr.File(
            label=field.label,
            show_label=False,
            file_count="multiple" if several else "single",
            file_types=pictures,
            type="filepath",
            key=key,
            elem_id=own["elem_id"],
            elem_classes="canon-file",
            interactive=True,
        )
        return made
    if field.kind == forms.SWITCH:
        return (
            gr.Radio([forms.AUTOMATIC, forms.YES, forms.NO], value=value, **own)
            if field.optional
            else gr.Checkbox(bool(value), **own)
        )
    if field.kind == forms.CHOICE:
        return gr.Dropdown(list(field.choices), value=value, **own)
    if field.kind in (forms.NUMBER, forms.WHOLE):
        # gradio's own number would send 0 for nothing.
        return gr.Textbox(value, placeholder=forms.AUTOMATIC if field.optional else value, max_lines=1, **own)
    lines = 3 if field.name == "prompt" else 2 if field.kind == forms.LIST and field.item is str else 1
    return gr.Textbox(value, lines=lines, max_lines=max(lines, 4), **own)


def refusal(sentence: str) -> str:
    """A sentence as the page shows what was refused."""
    return f'<p class="canon-refusal" role="alert">{html.escape(" ".join(sentence.split()))}</p>'


def _shortened(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
