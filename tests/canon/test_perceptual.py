"""CLIP from a folder, against what transformers computes of images prepared by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import CLIP_MEAN, CLIP_STD
from tiny_models import clip as tiny_clip

from canon.errors import InputError
from canon.perceptual import ClipEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder(str(folder))


def frames(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 48, 80, 3), np.uint8))


def test_images_are_embedded_as_clip_does(folder: Path, encoder: ClipEncoder) -> None:
    from transformers import CLIPVisionModelWithProjection

    picture = frames(1)[0]
    small = Image.fromarray(picture).resize((53, 32), Image.Resampling.BICUBIC).crop((10, 0, 42, 32))
    pixels = (np.asarray(small, np.float32) / 255 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
    with torch.no_grad():
        model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
        wanted = model(pixel_values=torch.from_numpy(pixels).permute(2, 0, 1)[None]).image_embeds[0].numpy()
    found = encoder.images([picture])
    assert found.shape == (1, 32) and np.abs(found[0] - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert "torchvision" not in sys.modules


def test_frames_are_embedded_one_by_one(encoder: ClipEncoder) -> None:
    some = frames(11)
    together = encoder.images(iter(some))
    assert together.shape == (11, 32)
    assert np.allclose(together, np.concatenate([encoder.images([frame]) for frame in some]), atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_texts_are_embedded_as_clip_does(folder: Path, encoder: ClipEncoder) -> None:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    text = "a red circle on blue"
    tokens = CLIPTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        wanted = CLIPTextModelWithProjection.from_pretrained(folder).eval()(**tokens).text_embeds[0].numpy()
    found = encoder.text(text)
    assert np.allclose(found, wanted, atol=1e-5)
    assert np.abs(found - encoder.text("green stripes")).max() > 1e-3
    assert np.isfinite(encoder.text("red " * 500)).all(), "what is too long is cut"


def test_what_is_no_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    for missing in (str(tmp_path / "nowhere"), "nobody/nothing", ""):
        with pytest.raises(InputError, match="cannot be loaded from this machine"):
            ClipEncoder(missing)
    config = json.loads((folder / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(InputError, match="kind 'siglip', not CLIP"):
        ClipEncoder(str(other))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "model.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(InputError, match="cannot be loaded from this machine"):
        ClipEncoder(str(broken))
