"""OpenRaster and Photoshop files: exact round trips, other programs' files and readers, bad files of all kinds."""

from __future__ import annotations

import io
import logging
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PsdImagePlugin import PsdImageFile
from psd_tools import PSDImage
from psd_tools.constants import BlendMode
from truth import small_scene, true_fit

import canon
from canon.cli import BAD_INPUT, DONE, main
from canon.edits import Over
from canon.errors import InputError
from canon.fits import Fit
from canon.layered_images import (
    CANONICAL,
    SUFFIXES,
    LayeredImage,
    PaintLayer,
    encoded_layers,
    flattened,
    read_layers,
    write_layers,
)
from canon.project import Project
from canon.storage import to_float, to_uint8, write_image

GOOD_NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff"), max_size=40)


@st.composite
def images(draw: Any, reach: int = 30) -> LayeredImage:
    """Layers of any size, inside of the picture and beyond, up to ``reach`` pixels away from its corner."""
    layers = []
    for _ in range(draw(st.integers(0, 3))):
        size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
        rgba = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (*size, 4), dtype=np.uint8)
        offset = draw(st.tuples(st.integers(-reach, reach), st.integers(-reach, reach)))
        opacity = draw(st.integers(0, 255)) / 255
        layers.append(PaintLayer(draw(GOOD_NAMES), rgba, offset, opacity, draw(st.booleans())))
    return LayeredImage(draw(st.tuples(st.integers(1, 20), st.integers(1, 20))), layers)


def assert_same(a: LayeredImage, b: LayeredImage) -> None:
    assert a.size == b.size
    for one, other in zip(a.layers, b.layers, strict=True):
        assert one.name == other.name and one.offset == other.offset and one.visible == other.visible
        assert one.opacity == other.opacity and np.array_equal(one.rgba, other.rgba)


def over(layers: list[PaintLayer], size: tuple[int, int]) -> np.ndarray:
    """What visible layers show, by Pillow, layer by layer."""
    picture = Image.new("RGBA", size[::-1])
    for layer in layers:
        own = layer.rgba.astype(np.float64)
        own[..., 3] *= layer.opacity * layer.visible
        sheet = Image.new("RGBA", size[::-1])
        sheet.paste(Image.fromarray((own + 0.5).astype(np.uint8)), layer.offset)
        picture = Image.alpha_composite(picture, sheet)
    return np.asarray(picture)


def premultiplied(rgba: np.ndarray) -> np.ndarray:
    values = rgba.astype(np.float64)
    return np.dstack([values[..., :3] * values[..., 3:] / 255, values[..., 3]])


def sample() -> LayeredImage:
    """A soft gradient, a translucent disc that reaches over the rim, and something hidden."""
    ramp = np.zeros((24, 37, 4), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(37) * 6, np.arange(24)[:, None] * 9
    ramp[..., 3] = np.clip(np.arange(37) * 10, 0, 255)
    disc = np.zeros((20, 20, 4), np.uint8)
    disc[...] = [30, 200, 90, 180]
    disc[np.hypot(*(np.indices((20, 20)) - 9.5)) > 9] = 0
    layers = [
        PaintLayer(CANONICAL, ramp),
        PaintLayer("Schwänchen 白鳥 🦢", disc, (25, -6), 0.6),
        PaintLayer("hidden", 255 - disc, (0, 0), visible=False),
    ]
    return LayeredImage((24, 37), layers)


# --- what is written is read ---


@settings(max_examples=60)
@given(image=images(), suffix=st.sampled_from(SUFFIXES))
def test_round_trips_are_exact(image: LayeredImage, suffix: str) -> None:
    if suffix == ".psd" and not image.layers:
        return  # a picture without layers is a layer then
    assert_same(read_layers(encoded_layers(image, suffix)), image)


@given(opacity=st.floats(0, 1))
def test_openraster_keeps_any_opacity(opacity: float) -> None:
    image = LayeredImage((1, 1), [PaintLayer("a", np.zeros((1, 1, 4), np.uint8), opacity=opacity)])
    assert read_layers(encoded_layers(image, ".ora")).layers[0].opacity == opacity


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_bytes_and_open_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix}"
    write_layers(path, sample())
    assert path.read_bytes() == encoded_layers(sample(), suffix), "equal images give equal files"
    assert_same(read_layers(path), sample())
    assert_same(read_layers(str(path)), sample())
    with path.open("rb") as handle:
        assert_same(read_layers(handle), sample())
    assert_same(read_layers(path.rename(tmp_path / "upload.bin")), sample())


def test_control_characters_in_names_become_spaces() -> None:
    assert PaintLayer("a\0b\nc\ud800\uffff\x85", np.zeros((1, 1, 4), np.uint8)).name == "a b c   "


@settings(max_examples=60)
@given(image=images(reach=4))
def test_flattened_is_what_pillow_makes_of_it(image: LayeredImage) -> None:
    difference = np.abs(premultiplied(flattened(image)) - premultiplied(over(image.layers, image.size)))
    assert difference.max() <= 2.5, "Pillow rounds after every layer"


def test_a_single_layer_stays_as_it_is() -> None:
    rgba = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).astype(np.uint8)[..., [0, 0, 0, 1]]
    seen = flattened(LayeredImage((256, 256), [PaintLayer("a", rgba)]))
    assert np.array_equal(seen[1:], rgba[1:]) and not seen[0].any()


# --- as other programs see it ---


def test_an_openraster_file_as_the_specification_has_it() -> None:
    image = sample()
    data = encoded_layers(image, ".ora")
    assert data[30:38] == b"mimetype" and data[38:54] == b"image/openraster", "to be told from its first bytes"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        root = ElementTree.fromstring(archive.read("stack.xml"))
        assert root.tag == "image" and (root.get("w"), root.get("h")) == ("37", "24")
        (stack,) = root
        seen = [layer.get("name") for layer in stack]
        assert seen == [layer.name for layer in image.layers[::-1]], "the first is the top one"
        for element, layer in zip(stack, image.layers[::-1], strict=True):
            with Image.open(archive.open(str(element.get("src")))) as picture:
                assert picture.mode == "RGBA" and np.array_equal(np.asarray(picture), layer.rgba)
            assert (int(element.get("x", "")), int(element.get("y", ""))) == layer.offset
            assert element.get("visibility") == ("visible" if layer.visible else "hidden")
            assert element.get("composite-op") == "svg:src-over"
        with Image.open(archive.open("mergedimage.png")) as merged:
            assert np.array_equal(np.asarray(merged), flattened(image))
        with Image.open(archive.open("Thumbnails/thumbnail.png")) as thumbnail:
            assert thumbnail.mode == "RGBA" and max(thumbnail.size) <= 256


def test_a_photoshop_file_as_pillow_and_psd_tools_read_it() -> None:
    image, data = sample(), encoded_layers(sample(), ".psd")
    rgba = flattened(image)
    picture = PsdImageFile(io.BytesIO(data))
    assert picture.mode == "RGBA"
    assert [box for _, _, box, _ in picture.layers] == [(0, 0, 37, 24), (25, -6, 45, 14), (0, 0, 20, 20)]
    share = rgba[..., 3:] / 255
    white = rgba[..., :3] * share + 255 * (1 - share)
    assert np.array_equal(np.asarray(picture)[..., 3], rgba[..., 3])
    assert np.abs(np.asarray(picture)[..., :3] - white).max() <= 0.51, "the preview is on white"
    psd = PSDImage.open(io.BytesIO(data))
    assert psd.has_preview() and [layer.name for layer in psd] == [layer.name for layer in image.layers]
    assert [layer.is_visible() for layer in psd] == [True, True, False]
    for seen in (psd.topil(), psd.composite(force=True)):
        assert seen is not None
        assert np.abs(premultiplied(np.asarray(seen)) - premultiplied(rgba)).max() <= 2


# --- other programs' files ---


def ora(stack: str, parts: dict[str, bytes] | None = None, head: str = "", size: str = 'w="8" h="6"') -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "image/openraster")
        archive.writestr("stack.xml", f'<?xml version="1.0" encoding="UTF-8"?>{head}<image {size}>{stack}</image>')
        for name, data in (parts or {}).items():
            archive.writestr(name, data)
    return out.getvalue()


def png(image: np.ndarray | Image.Image) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, "PNG")
    return out.getvalue()


def plain(colour: tuple[int, int, int, int], size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.full((*size, 4), colour, np.uint8)


def test_nested_stacks_of_openraster(caplog: pytest.LogCaptureFixture) -> None:
    red, green, blue = plain((255, 0, 0, 255)), plain((0, 255, 0, 255), (2, 2)), plain((0, 0, 255, 255), (3, 3))
    stack = """<stack><text/>
      <stack name="half" opacity="0.5">
        <layer name="blue" src="data/blue.png" x="1" y="1"/><layer name="green" src="data/green.png" x="2" y="2"/>
      </stack>
      <stack visibility="hidden"><stack><layer name="off" src="data/blue.png" x="0" y="0"/></stack></stack>
      <stack><layer name="multiplied" src="data/green.png" x="6" y="4" composite-op="svg:multiply"/></stack>
      <layer name="red" src="data/red.png" unknown="1"/></stack>"""
    with caplog.at_level(logging.WARNING):
        image = read_layers(
            ora(stack, {"data/red.png": png(red), "data/green.png": png(green), "data/blue.png": png(blue)})
        )
    assert [layer.name for layer in image.layers] == ["red", "multiplied", "off", "half"]
    assert [layer.visible for layer in image.layers] == [True, True, False, True]
    assert "'svg:multiply' of 'multiplied'" in caplog.text and "'text'" in caplog.text
    seen = flattened(image)
    # Blue hides green within the group; the group as one lets half of the red through.
    assert seen[2, 2].tolist() == [128, 0, 128, 255] and seen[5, 7].tolist() == [0, 255, 0, 255]
    assert seen[0, 0].tolist() == [255, 0, 0, 255]


def test_pngs_of_every_kind_in_openraster() -> None:
    ramp = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    deep = cv2.imencode(".png", np.dstack([ramp, ramp, ramp[::-1], ramp]))[1].tobytes()
    grey = cv2.imencode(".png", ramp)[1].tobytes()
    eight = Image.fromarray((ramp >> 8).astype(np.uint8))
    palette = eight.convert("P")
    palette.info["transparency"] = 0
    kinds = {"deep": deep, "grey": grey, "l": png(eight), "p": png(palette), "la": png(eight.convert("LA"))}
    stack = "".join(f'<layer name="{name}" src="{name}.png"/>' for name in reversed(kinds))
    layers = {
        one.name: one.rgba
        for one in read_layers(ora(f"<stack>{stack}</stack>", {f"{n}.png": d for n, d in kinds.items()})).layers
    }
    rounded = np.round(ramp / 257).astype(np.uint8)
    assert np.array_equal(layers["deep"], np.dstack([rounded[::-1], rounded, rounded, rounded]))
    assert np.array_equal(layers["grey"][..., 1], rounded) and (layers["grey"][..., 3] == 255).all()
    for name in ("l", "p", "la"):
        assert np.array_equal(layers[name][..., 0], ramp >> 8)
    assert layers["p"][0, 0, 3] == 0 and layers["p"][5, 7, 3] == 255


def psd_bytes(psd: Any) -> bytes:
    out = io.BytesIO()
    psd.save(out)
    return out.getvalue()


def rough(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 4), dtype=np.uint8))


@pytest.mark.parametrize("depth", [8, 16])
def test_groups_masks_and_clipping_of_photoshop(depth: Any) -> None:
    """Against psd-tools' own compositor."""
    psd = PSDImage.new("RGBA", (40, 30), depth=depth)
    psd.create_pixel_layer(rough(0, (30, 40)), name="bottom")
    inside = [psd.create_pixel_layer(rough(k, (12, 15)), name=f"in {k}", top=3 * k, left=4 * k) for k in (1, 2)]
    psd.create_group(inside, name="together", opacity=120)
    masked = psd.create_pixel_layer(rough(3, (20, 18)), name="masked", top=8, left=20, opacity=200)
    masked.create_mask(Image.fromarray(np.tile(np.arange(0, 240, 20, dtype=np.uint8), (10, 1))), top=10, left=22)
    # Where the layer below is soft, psd-tools mixes the colours in other shares than src-atop.
    hard = np.array(rough(4, (14, 14)))
    hard[..., 3] = np.where(hard[..., 3] > 80, 255, 0)
    base = psd.create_pixel_layer(Image.fromarray(hard), name="base", top=-3, left=-2)
    clipped = psd.create_pixel_layer(rough(5, (9, 9)), name="clipped", top=1, left=3)
    clipped.clipping = True
    hidden = psd.create_pixel_layer(rough(6, (30, 40)), name="hidden")
    hidden.visible = False
    apart = psd.create_group([psd.create_pixel_layer(rough(7, (5, 5)), name="apart", top=20)], name="plain")
    assert base.has_clip_layers() and masked.has_mask() and apart.opacity == 255
    data = psd_bytes(psd)
    image = read_layers(data)
    assert [one.name for one in image.layers] == ["bottom", "together", "masked", "base", "hidden", "apart"]
    truth = np.asarray(PSDImage.open(io.BytesIO(data)).composite(force=True))
    assert np.abs(premultiplied(flattened(image)) - premultiplied(truth)).max() <= 3


@pytest.mark.parametrize(("mode", "depth"), [("RGB", 8), ("RGB", 16), ("L", 8), ("L", 16), ("RGBA", 8)])
def test_other_kinds_of_photoshop_files(mode: str, depth: Any) -> None:
    picture = rough(1, (9, 13)).convert("RGB").convert(mode)
    wanted = np.asarray(picture.convert("RGBA"))
    flat = PSDImage.frompil(picture)
    layered = PSDImage.new(mode, picture.size, depth=depth)
    layered.create_pixel_layer(picture, name="only")
    for psd, name in ((flat, "Background"), (layered, "only")):
        (layer,) = read_layers(psd_bytes(psd)).layers
        assert layer.name == name and np.array_equal(layer.rgba, wanted)


def test_blend_modes_of_photoshop_are_told(caplog: pytest.LogCaptureFixture) -> None:
    psd = PSDImage.new("RGBA", (5, 4))
    psd.create_pixel_layer(rough(1, (4, 5)), name="dark").blend_mode = BlendMode.MULTIPLY
    assert [layer.name for layer in read_layers(psd_bytes(psd)).layers] == ["dark"]
    assert "'multiply' of 'dark'" in caplog.text


# --- bad files: one sentence each ---

LAYER = '<stack><layer name="a" src="a.png"/></stack>'
PNG = png(plain((1, 2, 3, 4)))


def bomb_png(width: int, height: int) -> bytes:
    """A small file that says that it is huge."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def psd_header(height: int = 4, width: int = 5, depth: int = 8, mode: int = 3, version: int = 1) -> bytes:
    return b"8BPS" + struct.pack(">H6xHIIHH", version, 3, height, width, depth, mode)


def wrong_password() -> bytes:
    data = bytearray(ora(LAYER, {"a.png": PNG}))
    at = data.index(b"PK\x01\x02")
    while at >= 0:
        data[at + 8] |= 1
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(data)


def other_archive(names: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in names.items():
            archive.writestr(name, text)
    return out.getvalue()


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "neither"),
    "text": (b"hello", "neither"),
    "a PNG": (PNG, "neither"),
    "another archive": (other_archive({"word/document.xml": "x"}), "not OpenRaster"),
    "another kind": (other_archive({"mimetype": "application/zip", "stack.xml": LAYER}), "not OpenRaster"),
    "cut short": (ora(LAYER, {"a.png": PNG})[:-60], "damaged"),
    "encrypted": (wrong_password(), "damaged"),
    "broken XML": (ora("<stack>"), "damaged"),
    "no stack": (ora(""), "no stack"),
    "two stacks": (ora("<stack/><stack/>"), "no stack"),
    "entities": (ora(LAYER, {"a.png": PNG}, LAUGHS), "document type"),
    "a document elsewhere": (ora(LAYER, {"a.png": PNG}, '<!DOCTYPE x SYSTEM "file:///etc/passwd">'), "document type"),
    "deep": (ora("<stack>" * 40 + "</stack>" * 40), "groups in each other"),
    "many layers": (ora("<stack>" + "<layer/>" * 5000 + "</stack>"), "too many layers"),
    "many files": (ora(LAYER, {f"{k}": b"" for k in range(5000)}), "5002 files"),
    "no part": (ora(LAYER), "lacks its part 'a.png'"),
    "a path": (ora('<stack><layer src="../../../etc/passwd"/></stack>'), "lacks its part"),
    "no size": (ora(LAYER, {"a.png": PNG}, size=""), "0x0"),
    "a size of words": (ora(LAYER, {"a.png": PNG}, size='w="wide" h="1"'), "'wide'"),
    "a huge canvas": (ora(LAYER, {"a.png": PNG}, size='w="100000" h="100000"'), "more pixels"),
    "a huge layer": (ora(LAYER, {"a.png": bomb_png(60000, 60000)}), "more pixels"),
    "a damaged layer": (ora(LAYER, {"a.png": PNG[:-30]}), "damaged"),
    "a layer that is none": (ora(LAYER, {"a.png": b"GIF89a" * 9}), "no PNG"),
    "opacity": (ora('<stack><layer src="a.png" opacity="nan"/></stack>', {"a.png": PNG}), "opacity 'nan'"),
    "offset": (ora('<stack><layer src="a.png" x="1e3"/></stack>', {"a.png": PNG}), "'1e3'"),
    "Photoshop, cut": (psd_header()[:20], "cut short"),
    "Photoshop, header only": (psd_header(), "damaged"),
    "Photoshop, no size": (psd_header(0), "damaged"),
    "Photoshop, version": (psd_header(version=7), "damaged"),
    "Photoshop, CMYK": (psd_header(mode=4), "convert it to RGB"),
    "Photoshop, 32 bits": (psd_header(depth=32), "convert it to RGB"),
    "Photoshop, huge": (psd_header(60000, 60000), "more pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, tmp_path: Path) -> None:
    data, pattern = BAD[name]
    (tmp_path / "bad.ora").write_bytes(data)
    for source in (tmp_path / "bad.ora", data):
        with pytest.raises(InputError, match=pattern) as caught:
            read_layers(source)
        said = str(caught.value)
        assert said.endswith(".") and "\n" not in said and len(said) < 300
        assert isinstance(source, bytes) or "bad.ora" in said


def test_a_layer_that_is_used_often_counts_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [
        ora("<stack>" + '<layer src="a.png"/>' * count + "</stack>", {"a.png": png(plain((1, 2, 3, 4), (50, 50)))})
        for count in (3, 4)
    ]
    monkeypatch.setattr("canon.layered_images.MAX_IMAGE_PIXELS", 3 * 2500 + 48)
    assert len(read_layers(data[0]).layers) == 3
    with pytest.raises(InputError, match="more pixels"):
        read_layers(data[1])


def test_a_huge_layer_of_photoshop_is_refused_before_it_is_decoded() -> None:
    rgba = np.zeros((1, 1, 4), np.uint8)
    data = bytearray(encoded_layers(LayeredImage((4, 5), [PaintLayer("a", rgba, (77, 66))]), ".psd"))
    at = data.index(struct.pack(">iiii", 66, 77, 67, 78))
    data[at : at + 16] = struct.pack(">iiii", 0, 0, 250_000, 250_000)
    with pytest.raises(InputError, match="more pixels"):
        read_layers(bytes(data))


def test_bad_places_and_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_layers(tmp_path / "none.ora")
    with pytest.raises(InputError, match="Cannot read"):
        read_layers(tmp_path)
    with pytest.raises(InputError, match=r"use \.ora or \.psd"):
        write_layers(tmp_path / "a.xcf", sample())
    with pytest.raises(InputError, match="30000 pixels"):
        encoded_layers(LayeredImage((1, 30_001), []), ".psd")
    for rgba in (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 4)), np.zeros((0, 2, 4), np.uint8)):
        with pytest.raises(InputError, match="must be uint8"):
            PaintLayer("a", rgba)
    with pytest.raises(InputError, match="opacity"):
        PaintLayer("a", np.zeros((1, 1, 4), np.uint8), opacity=1.5)


def test_photoshop_files_without_psd_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded_layers(sample(), ".psd")
    monkeypatch.setitem(sys.modules, "psd_tools", None)
    for work in (lambda: read_layers(data), lambda: encoded_layers(sample(), ".psd")):
        with pytest.raises(InputError, match=r"need the package psd-tools.*\[viewer\]"):
            work()
    assert_same(read_layers(encoded_layers(sample(), ".ora")), sample())


@settings(max_examples=150)
@given(
    suffix=st.sampled_from(SUFFIXES),
    cut=st.integers(0, 300),
    flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=6),
)
def test_damage_is_a_sentence_or_harmless(suffix: str, cut: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(encoded_layers(sample(), suffix))
    for place, change in flips:
        data[place % len(data)] ^= change
    try:
        read_layers(bytes(data[: len(data) - cut]))
    except InputError as error:
        assert str(error).endswith(".")


# --- painting with them ---


@pytest.fixture(scope="module")
def bent() -> Fit:
    return true_fit(small_scene("bend", lighting=0.2))


@pytest.fixture
def project(bent: Fit, tmp_path: Path) -> Path:
    made = Project.create(tmp_path / "project")
    bent.save(made.fit_folder("truth"))
    return made.folder


def emblem(of: Fit, layer: str = "foreground") -> tuple[np.ndarray, tuple[int, int]]:
    """A soft disc for the middle of a canvas, uint8 RGBA, and where it goes."""
    height, width = of.canonical(layer).size
    rgba = np.full((21, 21, 4), [230, 40, 60, 0], np.uint8)
    rgba[..., 3] = np.clip(255 - 22 * np.hypot(*(np.indices((21, 21)) - 10)), 0, 255)
    return rgba, (width // 2 - 10, height // 2 - 10)


def rgba_of(edit: canon.Edit, layer: str = "foreground") -> np.ndarray:
    (operation,) = edit.operations(layer)
    assert isinstance(operation, Over)
    return operation.rgba


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_command_line_writes_layers_and_takes_them_back(
    suffix: str, project: Path, bent: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["canonical", str(project), "--format", suffix[1:]]) == DONE
    for line in capsys.readouterr().out.splitlines():
        assert line.split()[0].endswith(suffix)
    path = project / "canonical" / "truth" / f"foreground{suffix}"
    image = read_layers(path)
    assert [layer.name for layer in image.layers] == [CANONICAL, "paint"]
    assert np.array_equal(image.layers[0].rgba, to_uint8(bent.canonical("foreground").rgba))
    assert not image.layers[1].rgba.any()
    # Nothing painted is no edit; a disc on a layer of its own is that disc, as an overlay would be.
    assert canon.edit(bent, "paint", layer="foreground", image=path).steps == []
    disc, offset = emblem(bent)
    image.layers.append(PaintLayer("disc", disc, offset, opacity=0.8))
    write_layers(path, image)
    command = ["edit", str(project), "--editor", "paint", "--layer", "foreground", "--name", "n", "--image", str(path)]
    assert main(command) == DONE
    painted = Project.open(project).edit("n")
    assert list(painted.steps[0].provenance.files) == [str(path)]
    whole = np.zeros((*bent.canonical("foreground").size, 4), np.uint8)
    whole[offset[1] : offset[1] + 21, offset[0] : offset[0] + 21] = disc
    whole[..., 3] = (whole[..., 3] * 0.8 + 0.5).astype(np.uint8)
    wanted = rgba_of(canon.edit(bent, "paint", layer="foreground", image=whole, overlay=True))
    assert np.abs(rgba_of(painted)[..., 3] - wanted[..., 3]).max() < 0.6 / 255
    strong = wanted[..., 3] > 0.1
    assert np.abs(rgba_of(painted) - wanted)[strong].max() < 1.6 / 255
    # A second export leaves the painting alone.
    assert main(["canonical", str(project), "--format", suffix[1:]]) == DONE
    assert_same(read_layers(path), image)
    assert path.with_name(f"foreground-2{suffix}").exists()


def test_which_layer_is_the_canonical_image(bent: Fit, tmp_path: Path) -> None:
    canvas = to_uint8(bent.canonical("foreground").rgba)
    size = canvas.shape[:2]
    disc, offset = emblem(bent)
    paint = PaintLayer("disc", disc, offset)
    wanted = rgba_of(canon.edit(bent, "paint", layer="foreground", image=LayeredImage(size, [paint]), overlay=True))
    assert wanted[..., 3].max() == 1
    cases: dict[str, tuple[list[PaintLayer], dict[str, Any]]] = {
        "at the bottom by any name": ([PaintLayer("Background", canvas), paint], {}),
        "by name, and hidden above it": ([paint, PaintLayer("Canonical", canvas, visible=False)], {}),
        "by name, of an overlay": ([PaintLayer(CANONICAL, canvas), paint], {"overlay": True}),
        "cut to what is in it": (
            [PaintLayer("a", canvas[3:], (0, 3)) if not canvas[:3, :, 3].any() else PaintLayer("a", canvas), paint],
            {},
        ),
    }
    for what, (layers, options) in cases.items():
        made = canon.edit(bent, "paint", layer="foreground", image=LayeredImage(size, layers), **options)
        assert np.array_equal(rgba_of(made), wanted), what


def test_paint_on_the_canonical_image_itself_counts_too(bent: Fit) -> None:
    canvas = to_uint8(bent.canonical("foreground").rgba)
    height, width = canvas.shape[:2]
    rows, columns = slice(height // 2, height // 2 + 6), slice(width // 2, width // 2 + 30)
    canvas[rows, columns] = [0, 0, 255, 255]
    disc, offset = emblem(bent)
    image = LayeredImage((height, width), [PaintLayer(CANONICAL, canvas), PaintLayer("disc", disc, offset)])
    made = rgba_of(canon.edit(bent, "paint", layer="foreground", image=image))
    assert (made[rows, columns, 3] > 0.999).all()
    assert np.allclose(made[height // 2, width // 2 + 29], [0, 0, 1, 1], atol=1e-3)
    # Where the disc is half there, half of the blue shows through it.
    row, column = height // 2, width // 2 + 6
    alpha = disc[10, 16, 3] / 255
    mixed = alpha * to_float(disc[10, 16, :3]) + (1 - alpha) * np.array([0, 0, 1])
    assert 0.3 < alpha < 0.7 and np.allclose(made[row, column, :3], mixed, atol=4e-3)


def test_a_painted_frame_in_layers_is_what_it_shows(bent: Fit, tmp_path: Path) -> None:
    frame = np.dstack([bent.clip.frames[3], np.full(bent.size, 255, np.uint8)])
    disc, _ = emblem(bent)
    image = LayeredImage(bent.size, [PaintLayer("frame", frame), PaintLayer("disc", disc, (80, 40))])
    write_layers(tmp_path / "frame.ora", image)
    write_image(tmp_path / "frame.png", flattened(image))
    layered, plain_one = (
        canon.edit(bent, "paint", frame=3, image=tmp_path / name) for name in ("frame.ora", "frame.png")
    )
    assert layered.layers == plain_one.layers != []
    for name in layered.layers:
        assert np.array_equal(rgba_of(layered, name), rgba_of(plain_one, name))


def test_bad_input_on_the_command_line(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.psd").write_text("hello")
    write_layers(tmp_path / "wide.ora", LayeredImage((9, 90), [PaintLayer("a", plain((1, 2, 3, 255), (9, 90)))] * 2))
    edit = ["edit", str(project), "--editor", "paint", "--name", "n", "--image"]
    canonical = ["canonical", str(project)]
    for command, pattern in (
        ([*edit, str(tmp_path / "text.psd")], "neither"),
        ([*edit, str(tmp_path / "none.ora")], "does not exist"),
        ([*edit, str(tmp_path / "wide.ora")], "keep the aspect ratio"),
        ([*canonical, "--format", "xcf"], "xcf"),
        ([*canonical, "--format", "ora", "--bits", "16"], "8 bits"),
        ([*canonical, "--format", "ora", "--layer", "foreground", "--out", str(tmp_path / "a.png")], "drop --format"),
        ([*canonical, "--out", str(tmp_path / "a.xcf")], ".psd for layers"),
    ):
        assert main(command) == BAD_INPUT
        said = capsys.readouterr().err
        assert pattern in said and said.count("\n") == 1, said
    assert main([*canonical, "--layer", "foreground", "--out", str(tmp_path / "one.psd")]) == DONE
    assert len(read_layers(tmp_path / "one.psd").layers) == 2
