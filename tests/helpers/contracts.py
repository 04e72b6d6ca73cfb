"""What every editor must do, whoever wrote it: derive from a mixin, say how to make one, and inherit the tests."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from truth import small_scene, true_fit

import canon
from canon import registry
from canon.fits import Fit


@pytest.fixture(scope="module")
def fit() -> Fit:
    """A fit with three layers, soft edges, changing light and noise; not to be changed."""
    return true_fit(small_scene("occlusion", lighting=0.25, frames=4))


class EditorContract:
    """Derive, set ``name``, and give ``options``; pytest needs ``from contracts import fit`` in the same module."""

    name: str

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:
        """Options, beside the layer, that change something of any layer; files go to ``folder``."""
        raise NotImplementedError

    def make(self, fit: Fit, folder: Path, layer: str = "foreground", **more: Any) -> Any:
        return canon.edit(fit, self.name, layer=layer, **{**self.options(fit, folder), **more})

    def test_is_registered_and_cheap_to_describe(self) -> None:
        assert self.name in registry.names(registry.EDITORS)
        kind = registry.editor(self.name)
        assert issubclass(kind, registry.Editor) and dataclasses.is_dataclass(kind.Config)
        assert "layer" in {field.name for field in dataclasses.fields(kind.Config)}
        code = (
            f"import sys; from canon import registry; registry.editor({self.name!r});"
            "print(sorted({'torch', 'diffusers', 'scipy', 'skimage'} & set(sys.modules)))"
        )
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert loaded.stdout.strip() == "[]", "the command line asks every editor for its options"

    def test_every_option_is_explained(self) -> None:
        kind = registry.editor(self.name).Config
        source = Path(sys.modules[kind.__module__].__file__ or "").read_text()
        body = source[source.index(f"class {kind.__name__}") :]
        for field in dataclasses.fields(kind):
            after = body.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
            assert after.strip().startswith('"""'), f"{kind.__name__}.{field.name} has no docstring"

    def test_changes_its_layer_and_nothing_else(self, fit: Fit, tmp_path: Path) -> None:
        edit = self.make(fit, tmp_path)
        assert edit.layers == ["foreground"] and edit.fit == fit.id
        video = canon.render(fit, edit)
        changed = 0
        for t in range(len(fit)):
            source, out = fit.clip.frames[t], video[t]
            assert out.dtype == np.uint8 and out.shape == source.shape
            different = (out != source).any(axis=-1)
            changed += int(different.sum())
            # A removal may be widened by a few pixels; further away, nothing of the layer is to be seen.
            near = fit.coordinates(t, "foreground")[1] > 0
            grown = np.lib.stride_tricks.sliding_window_view(np.pad(near, 4), (9, 9)).any(axis=(2, 3))
            assert not different[~grown].any()
        assert changed > 100, "the options are to change something"

    def test_says_where_it_comes_from(self, fit: Fit, tmp_path: Path) -> None:
        edit = self.make(fit, tmp_path)
        for step in edit.steps:
            assert step.provenance.editor == self.name and step.provenance.version
            assert step.provenance.created.endswith("+00:00")
            assert step.provenance.options["layer"] == "foreground"
            assert yaml.safe_load(yaml.safe_dump(step.provenance.options)) == step.provenance.options

    def test_is_the_same_after_saving_and_when_made_again(self, fit: Fit, tmp_path: Path) -> None:
        edit = self.make(fit, tmp_path)
        edit.save(tmp_path / "edit")
        loaded = canon.load_edit(tmp_path / "edit")
        assert [step.provenance for step in loaded.steps] == [step.provenance for step in edit.steps]
        again = self.make(fit, tmp_path)
        for t in (0, len(fit) - 1):
            frame = canon.render(fit, edit)[t]
            assert np.array_equal(frame, canon.render(fit, loaded)[t])
            assert np.array_equal(frame, canon.render(fit, again)[t])

    def test_leaves_the_fit_alone(self, fit: Fit, tmp_path: Path) -> None:
        before = [(layer.color.copy(), layer.grid.copy(), layer.lighting.copy()) for layer in fit.baked]
        list(canon.render(fit, self.make(fit, tmp_path)))
        for layer, arrays in zip(fit.baked, before, strict=True):
            for now, then in zip((layer.color, layer.grid, layer.lighting), arrays, strict=True):
                assert np.array_equal(now, then)

    def test_takes_several_layers_at_once(self, fit: Fit, tmp_path: Path) -> None:
        own = self.options(fit, tmp_path)
        edit = canon.edit(fit, self.name, layers={"occluder": own, "foreground": own})
        assert edit.layers == ["occluder", "foreground"]

    def test_refuses_unknown_layers_and_options(self, fit: Fit, tmp_path: Path) -> None:
        with pytest.raises(canon.InputError, match=r"'sky'.*occluder, foreground, background"):
            self.make(fit, tmp_path, layer="sky")
        with pytest.raises(canon.InputError, match="'layr'; did you mean 'layer'"):
            canon.edit(fit, self.name, layr="foreground")
