"""Forms made from config dataclasses: what each type becomes, and what is made of what was filled in."""

from __future__ import annotations

import gc
import struct
import subprocess
import sys
import time
import types
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from canon import registry
from canon.errors import InputError
from canon.registry import make_config
from canon.storage import write_image
from canon.viewer import forms
from canon.viewer.forms import CHOICE, FILE, FILES, LAYER, LIST, NUMBER, SWITCH, TEXT, WHOLE, Field, form, options


@dataclass
class Base:
    """What others build upon."""

    layer: str | None = None
    """Layer to edit."""
    amount: float = 0.5
    """How much,
    and where."""


@dataclass
class SketchConfig(Base):
    """Draw a layer with a pencil."""

    count: int = 3
    """How many lines."""
    weight: float | None = None
    """None = by itself."""
    soft: bool = False
    """Whether it is soft."""
    lit: bool | None = None
    """None = as it comes."""
    style: Literal["pencil", "ink"] = "ink"
    """With what."""
    paper: Path | None = None
    """What to draw on."""
    sample: str = ""
    """Picture to learn from."""
    image: Any = None
    """Anything."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Red, green, blue."""
    ids: tuple[int, ...] = ()
    """Numbers."""
    words: tuple[str, ...] = field(default_factory=lambda: ("a, b", "c"))
    """Words."""
    samples_images: tuple[str, ...] = ()
    """Many of them."""
    prompt: str = ""
    """What to draw."""
    steps: int = 9
    seed: int = 0


@pytest.fixture
def sketch() -> dict[str, Field]:
    return {one.name: one for one in form(SketchConfig)}


def test_every_type_becomes_its_control(sketch: dict[str, Field]) -> None:
    kinds = {name: one.kind for name, one in sketch.items()}
    assert kinds == {
        "prompt": TEXT, "layer": LAYER, "amount": NUMBER, "count": WHOLE, "weight": NUMBER, "soft": SWITCH,
        "lit": SWITCH, "style": CHOICE, "paper": FILE, "sample": FILE, "image": FILE, "tint": LIST, "ids": LIST,
        "words": LIST, "samples_images": FILES, "steps": WHOLE, "seed": WHOLE,
    }  # fmt: skip
    assert sketch["style"].choices == ("pencil", "ink")
    assert (sketch["tint"].length, sketch["tint"].item) == (3, float)
    assert (sketch["ids"].length, sketch["ids"].item) == (None, int)
    assert sketch["weight"].optional and sketch["lit"].optional and not sketch["soft"].optional


def test_the_prompt_comes_first_and_docstrings_of_bases_are_help_too(sketch: dict[str, Field]) -> None:
    assert list(sketch)[:3] == ["prompt", "image", "layer"]
    assert sketch["amount"].help == "How much, and where." and sketch["steps"].help == ""
    assert not sketch["amount"].plain and sketch["count"].plain and sketch["prompt"].plain


def test_what_is_left_alone_is_left_out(sketch: dict[str, Field], tmp_path: Path) -> None:
    fields = list(sketch.values())
    assert options(fields, {one.name: forms.shown(one) for one in fields}, tmp_path) == {}
    assert options(fields, {}, tmp_path) == {}


@pytest.mark.parametrize("editor", registry.names(registry.EDITORS))
def test_forms_of_all_editors_start_from_their_defaults(editor: str, tmp_path: Path) -> None:
    kind = registry.editor(editor).Config
    fields = form(kind)
    assert {one.name for one in fields} == set(forms.names(kind)) and all(one.help for one in fields)
    given = {one.name: forms.shown(one) for one in fields}
    if any(one.required for one in fields):  # paint's image
        with pytest.raises(InputError, match="is needed; fill it in"):
            options(fields, given, tmp_path)
    else:
        assert options(fields, given, tmp_path) == {}


def test_an_empty_number_is_none_or_the_default_and_never_0(sketch: dict[str, Field], tmp_path: Path) -> None:
    fields = list(sketch.values())
    assert (forms.shown(sketch["weight"]), forms.shown(sketch["amount"])) == ("", "0.5")
    for nothing in ("", " ", None):
        assert options(fields, {"weight": nothing, "amount": nothing, "count": nothing}, tmp_path) == {}
    assert options(fields, {"weight": "0", "amount": "0", "count": "0"}, tmp_path) == {
        "weight": 0.0, "amount": 0.0, "count": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "wanted"),
    [
        ("Say with --move X Y TO_X TO_Y which point.", "Say with “Move” which point."),
        ("Give --ip-adapter or --Image.", "Give “IP adapter” or --Image."),
        ("Edit one picture: --keyframes 0.", "Edit one picture: “Keyframes” 0."),
        ("Make one with 'canon fit VIDEO --project DIR'.", "Make one with 'canon fit VIDEO --project DIR'."),
        ("It goes by the --prompt.", "It goes by the “Prompt”."),
    ],
)
def test_options_are_named_as_the_form_does(sketch: dict[str, Field], sentence: str, wanted: str) -> None:
    assert forms.as_labels(sentence, list(sketch.values())) == wanted


def test_forms_can_be_made_in_many_threads_at_once() -> None:
    kinds = [registry.editor(name).Config for name in registry.names(registry.EDITORS)]
    forms._field_docstrings.cache_clear()
    thresholds = gc.get_threshold()

    def turn(phase: str, facts: dict[str, int]) -> None:
        """Let another thread go on, in the middle of whatever is collected in."""
        time.sleep(1e-4)

    gc.freeze()
    gc.set_threshold(200)
    gc.callbacks.append(turn)
    try:
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(form, kinds))
    finally:
        gc.callbacks.remove(turn)
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    assert made == [form(kind) for kind in kinds]
    forms.field_docstrings(kinds[0]).clear()
    assert forms.field_docstrings(kinds[0])  # what is kept is nobody else's


def test_values_become_what_the_config_takes(sketch: dict[str, Field], tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((4, 5, 3), np.uint8))
    typed = {
        "prompt": "  a cat ", "layer": "background", "amount": 0.25, "count": 7.0, "weight": "1.5", "soft": True,
        "lit": forms.NO, "style": "pencil", "paper": str(tmp_path / "a.png"), "tint": "1, 0.5 2", "ids": "3; 4,5",
        "words": "one, two\n\n three ", "samples_images": [str(tmp_path / "a.png")], "seed": 3,
    }  # fmt: skip
    found = options(list(sketch.values()), typed, tmp_path)
    assert found == {
        "prompt": "a cat", "layer": "background", "amount": 0.25, "count": 7, "weight": 1.5, "soft": True,
        "lit": False, "style": "pencil", "paper": str(tmp_path / "a.png"), "tint": (1.0, 0.5, 2.0), "ids": (3, 4, 5),
        "words": ("one, two", "three"), "samples_images": (str(tmp_path / "a.png"),), "seed": 3,
    }  # fmt: skip
    assert type(found["count"]) is int and make_config(SketchConfig, found).words == ("one, two", "three")


def bomb(path: Path) -> None:
    """A PNG whose header announces more pixels than are opened."""
    Image.new("1", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 400_000, 300_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def text(path: Path) -> None:
    path.write_text("not a picture")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"count": 2.5}, "Count must be a whole number, not 2.5."),
        ({"amount": "much"}, "Amount must be a number, not 'much'."),
        ({"amount": float("nan")}, "Amount must be a number, not 'nan'."),
        ({"tint": "1, 2"}, "Tint takes 3 values, not 2."),
        ({"ids": "1, two"}, "Ids must be a number, not 'two'."),
        ({"style": "chalk"}, "Style can be pencil, ink, not 'chalk'."),
        ({"prompt": "x" * 20_001}, "Prompt has 20001 characters"),
        ({"paper": "/etc/passwd"}, "Paper must be a file that was uploaded here."),
        ({"paper": "UPLOADS/../../etc/passwd"}, "Paper must be a file that was uploaded here."),
        ({"sample": "UPLOADS/missing.png"}, "Sample must be a file that was uploaded here."),
        ({"sample": text}, "is not an image that can be read"),
        ({"sample": bomb}, "too large|more than canon opens"),
    ],
)
def test_bad_values_are_one_sentence(
    sketch: dict[str, Field], tmp_path: Path, given: dict[str, Any], sentence: str
) -> None:
    (name, value) = next(iter(given.items()))
    if callable(value):
        make: Callable[[Path], None] = value
        make(tmp_path / "picture.png")
        value = str(tmp_path / "picture.png")
    elif isinstance(value, str):
        value = value.replace("UPLOADS", str(tmp_path))
    with pytest.raises(InputError, match=sentence) as caught:
        options(list(sketch.values()), {name: value}, tmp_path)
    assert str(tmp_path) not in str(caught.value) and "\n" not in str(caught.value)


def test_places_outside_of_the_project_are_refused_when_others_may_ask(tmp_path: Path) -> None:
    fields = form(registry.editor("restyle").Config)
    for place in ("/etc/passwd", "~/model", "../model"):
        assert options(fields, {"model": place}, tmp_path)["model"] == place
        with pytest.raises(InputError, match="outside of the project"):
            options(fields, {"model": place}, tmp_path, confined=tmp_path)
        with pytest.raises(InputError, match="outside of the project"):
            options(fields, {"lora": f"fine\n{place}"}, tmp_path, confined=tmp_path)
    inside = str(tmp_path / "models" / "sd")
    found = options(fields, {"model": inside, "prompt": "and/or"}, tmp_path, confined=tmp_path)
    assert found == {"model": inside, "prompt": "and/or"}


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An editor of somebody else's, by an entry point alone."""
    from canon.edits import Delta, Edit, Provenance, Step

    class Sketch(registry.Editor):
        Config = SketchConfig

        def __call__(self, fit: Any, config: SketchConfig) -> Edit:
            return Edit([Step(fit.layers[0], Delta(exposure=1.0), Provenance.now("sketch", config))], fit.id)

    module = types.ModuleType("somebody_elses")
    module.Sketch = Sketch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody_elses", module)
    entries = {**registry._entries(registry.EDITORS)}
    entries["sketch"] = EntryPoint("sketch", "somebody_elses:Sketch", registry.EDITORS)
    monkeypatch.setattr(registry, "_entries", lambda group: entries)
    yield "sketch"


def test_a_third_party_editor_appears_by_itself(third_party: str) -> None:
    assert third_party in registry.names(registry.EDITORS)
    assert forms.described(third_party) == "Draw a layer with a pencil."
    assert form(registry.editor(third_party).Config)[0].name == "prompt"


def test_a_form_is_described_without_torch_and_diffusers() -> None:
    code = (
        "import sys\nfrom canon import registry\nfrom canon.viewer.forms import form\n"
        "for name in registry.names(registry.EDITORS): form(registry.editor(name).Config)\n"
        "print([m for m in ('torch', 'diffusers', 'gradio') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
