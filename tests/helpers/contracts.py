"""What every editor and representation must do, whoever wrote it: derive from a mixin, and say how."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from truth import rebuilt_from_stmaps, small_scene, true_fit

import canon
from canon import registry
from canon.clip import Clip
from canon.edits import Delta, Edit, Over, Step
from canon.exports.stmap import export_stmaps
from canon.fits import Fit
from canon.sampling import remap
from canon.scenes import Scene
from canon.storage import to_uint8


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
        for field in dataclasses.fields(kind):
            owner = next(base for base in kind.__mro__ if field.name in inspect.get_annotations(base))
            source = Path(sys.modules[owner.__module__].__file__ or "").read_text()
            body = source[source.index(f"class {owner.__name__}") :]
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


class BaselineContract(EditorContract):
    """That of an editor which also makes every frame by itself."""

    def test_frame_by_frame_baseline(self, fit: Fit, tmp_path: Path) -> None:
        kind = registry.editor(self.name)
        config = registry.make_config(kind.Config, {**self.options(fit, tmp_path), "layer": "foreground"})
        frames = kind().framewise(fit, config)
        first = frames[0]
        assert len(frames) == len(fit) and first.dtype == np.uint8 and np.array_equal(first, frames[0])
        outside = fit.weights(0)[fit.layers.index("foreground")] == 0
        assert np.array_equal(first[outside], fit.clip.frames[0][outside])
        assert (first != fit.clip.frames[0]).any()


def equal_fits(a: Fit, b: Fit) -> bool:
    """Whether two fits hold the same numbers, to the bit."""
    pairs = zip(a.baked, b.baked, strict=True)
    return a.layers == b.layers and all(
        np.array_equal(getattr(x, key), getattr(y, key))
        for x, y in pairs
        for key in ("grid", "color", "coverage", "lighting", "opacity")
        if not (getattr(x, key) is None and getattr(y, key) is None)
    )


def scene_clip(scene: Scene, absent: tuple[int, ...] = ()) -> Clip:
    """A scene as a clip with its masks; in the frames ``absent`` only its background is to be seen."""
    count, fronts = len(scene), scene.layers[:-1]
    frames = scene.frames
    masks = {name: np.stack([scene.masks(t, name) for t in range(count)]) for name in fronts}
    for t in absent:
        uv = scene.coordinates(t, "background")[0]
        frames[t] = to_uint8(remap(scene.textures["background"][..., :3], uv))
        for mask in masks.values():
            mask[t] = 0
    return Clip.from_frames(frames, masks=masks)


class RepresentationContract:
    """Derive, set ``name``, ``given`` (what :func:`canon.fit` takes besides the clip), and where it can be cut."""

    name: str
    given: dict[str, Any]
    interrupt_stage = "refine"
    """Stage, as progress names it, that can be interrupted and taken up again."""
    interruptions: tuple[int, ...] = (2, 4)
    """At which of its reports the fit is cut."""
    converged = True
    """Whether ``given`` is work enough for opacity to follow the masks."""

    def scene(self, **overrides: object) -> Scene:
        return small_scene("demo", **{"width": 128, "height": 72, "frames": 5, **overrides})

    def fit(self, clip: Clip, **more: Any) -> Fit:
        return canon.fit(clip, self.name, device="cpu", **{**self.given, **more})

    def make_clip(self, **overrides: object) -> Clip:
        return scene_clip(self.scene(**overrides))

    @pytest.fixture(scope="class")
    def clip(self) -> Clip:
        return self.make_clip()

    @pytest.fixture(scope="class")
    def reports(self) -> list[tuple[str, float]]:
        """What the fit below told of its progress."""
        return []

    @pytest.fixture(scope="class")
    def solved(self, clip: Clip, reports: list[tuple[str, float]]) -> Fit:
        return self.fit(clip, progress=lambda stage, done, figures: reports.append((stage, done)))

    def check(self, fit: Fit, clip: Clip) -> None:
        """Shapes, types and ranges that hold whatever is fitted."""
        height, width = clip.size
        assert len(fit) == len(clip) and fit.layers[-1] == "background"
        assert fit.layers[:-1] == list(clip.masks), "front to back, as the masks"
        for name in fit.layers:
            canvas = fit.canonical(name)
            assert canvas.rgba.dtype == np.float32 and canvas.rgba.shape == (*canvas.coverage.shape, 4)
            assert np.isfinite(canvas.rgba).all() and canvas.rgba.min() >= 0 and canvas.rgba.max() <= 1
            assert canvas.coverage.max() == 1, f"nothing of {name} was seen"
            assert fit.segments(name) == [(0, len(fit) - 1)]
        for t in range(len(fit)):
            total = np.zeros(clip.size, np.float32)
            for name in fit.layers:
                uv, weight = fit.coordinates(t, name)
                assert uv.shape == (height, width, 2) and uv.dtype == np.float32 and np.isfinite(uv).all()
                assert weight.shape == (height, width) and weight.dtype == np.float32
                assert weight.min() >= 0 and weight.max() <= 1
                light = fit.lighting(t, name)
                assert light.shape == (height, width, 3) and light.dtype == np.float32
                assert np.isfinite(light).all() and light.min() > 0
                total += weight
            assert np.abs(total - 1).max() < 1e-5
            image = fit.reconstruct(t)
            assert image.shape == (height, width, 3) and image.dtype == np.float32 and np.isfinite(image).all()

    def test_is_registered_and_has_options(self) -> None:
        assert self.name in registry.names(registry.REPRESENTATIONS)
        assert dataclasses.is_dataclass(registry.representation(self.name).Config)
        with pytest.raises(canon.InputError, match="has no option 'prset'; did you mean 'preset'"):
            registry.make_config(registry.representation(self.name).Config, {"prset": "fast"})

    def test_gives_layers_and_sane_numbers(self, solved: Fit, clip: Clip) -> None:
        self.check(solved, clip)
        assert solved.representation == self.name and solved.stats["seconds"] and solved.stats["seconds_total"] > 0

    def test_progress_rises_to_the_end(self, solved: Fit, reports: list[tuple[str, float]]) -> None:
        shares = [done for _, done in reports]
        assert all(0 <= done <= 1 for done in shares) and shares[-1] > 0.5
        assert shares == sorted(shares), "the share of all work done never falls"

    def test_an_edit_of_nothing_gives_the_source_back(self, solved: Fit, clip: Clip) -> None:
        steps = [Step(name, Over(np.zeros((*solved.layer(name).canvas_size, 4)))) for name in solved.layers]
        steps += [Step(name, Delta()) for name in solved.layers]
        for edit in (Edit(steps, solved.id), Edit([], solved.id)):
            video = canon.render(solved, edit)
            assert all(np.array_equal(video[t], clip.frames[t]) for t in range(len(clip)))

    def test_opaque_paint_arrives(self, solved: Fit) -> None:
        """So that the identity above is no accident: paint covers what its layer covers."""
        colour = np.array([0.9, 0.1, 0.6, 1.0], np.float32)
        for name in solved.layers:
            rgba = np.broadcast_to(colour, (*solved.layer(name).canvas_size, 4))
            t = len(solved) // 2
            frame = canon.render(solved, Edit([Step(name, Over(rgba))], solved.id))[t]
            only = solved.coordinates(t, name)[1] > 0.999
            wanted = np.clip(solved.lighting(t, name) * colour[:3], 0, 1)
            assert only.any() or not self.converged
            assert not only.any() or np.abs(frame / 255.0 - wanted)[only].max() < 0.01

    def test_another_sampler_rebuilds_it_from_its_st_maps(self, solved: Fit, tmp_path: Path) -> None:
        export_stmaps(solved, tmp_path / "maps")
        for t in (0, len(solved) - 1):
            off = np.abs(rebuilt_from_stmaps(tmp_path / "maps", t) - solved.reconstruct(t)).max(axis=-1)
            for name in solved.layers:
                seen = solved.coordinates(t, name)[1] > 0
                assert (off[seen] <= 1 / 255).mean() >= 0.99, f"{name}: {(off[seen] <= 1 / 255).mean():.4f}"

    def test_saved_and_loaded_is_the_same(self, solved: Fit, tmp_path: Path) -> None:
        solved.save(tmp_path / "fit")
        loaded = canon.load(tmp_path / "fit")
        assert equal_fits(loaded, solved) and loaded.id == solved.id and loaded.config == solved.config
        name = solved.layers[0]
        edit = Edit([Step(name, Delta(exposure=0.7))], solved.id)
        for t in range(len(solved)):
            assert np.array_equal(loaded.reconstruct(t), solved.reconstruct(t))
            assert np.array_equal(canon.render(loaded, edit)[t], canon.render(solved, edit)[t])

    def test_the_same_seed_gives_the_same_fit(self, solved: Fit, clip: Clip) -> None:
        assert equal_fits(self.fit(clip), solved)

    def test_an_interrupted_fit_goes_on_and_ends_the_same(
        self,
        solved: Fit,
        reports: list[tuple[str, float]],
        clip: Clip,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for when in self.interruptions:
            folder = Path(str(when))  # relative, as a person types it
            seen: list[str] = []

            def cut(stage: str, done: float, figures: Any, seen: list[str] = seen, when: int = when) -> None:
                seen.append(stage)
                if seen.count(self.interrupt_stage) == when:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                self.fit(clip, workspace=folder, progress=cut)
            before = len(seen)
            again = self.fit(clip, workspace=folder, progress=lambda stage, *_, seen=seen: seen.append(stage))
            assert equal_fits(again, solved), f"cut at report {when} of {self.interrupt_stage}"
            left = seen[before:].count(self.interrupt_stage)
            whole = sum(stage == self.interrupt_stage for stage, _ in reports)
            assert left < whole, "what was done is not done again"

    def test_a_finished_fit_is_taken_up(self, solved: Fit, clip: Clip, tmp_path: Path) -> None:
        self.fit(clip, workspace=tmp_path)
        assert equal_fits(self.fit(clip, workspace=tmp_path), solved)

    @pytest.mark.parametrize("size", [(73, 129), (97, 55)])
    def test_odd_and_portrait_sizes(self, size: tuple[int, int]) -> None:
        clip = self.make_clip(width=size[1], height=size[0], frames=3)
        fit = self.fit(clip)
        assert fit.size == size
        self.check(fit, clip)

    @pytest.mark.parametrize("count", [1, 2])
    def test_very_short_clips(self, count: int, tmp_path: Path) -> None:
        clip = self.make_clip(frames=count)
        fit = self.fit(clip, workspace=tmp_path)
        self.check(fit, clip)
        assert equal_fits(self.fit(clip, workspace=tmp_path), fit), "the second run takes up the first"


class LayeredContract(RepresentationContract):
    """Of representations in two dimensions, which find layers by masks or by themselves."""

    def test_a_layer_that_is_absent_in_some_frames(self) -> None:
        clip = scene_clip(self.scene(frames=6), absent=(0, 1, 5))
        fit = self.fit(clip)
        self.check(fit, clip)
        area = [float(fit.coordinates(t, fit.layers[0])[1].sum()) for t in range(6)]
        assert max(area[t] for t in (0, 1, 5)) < 0.01 * min(area[2:5]) or not self.converged

    def test_no_masks_and_no_search_is_one_layer(self, clip: Clip) -> None:
        alone = Clip.from_frames(clip.frames[:3])
        fit = self.fit(alone, search=False)
        assert fit.layers == ["background"]
        self.check(fit, alone)
