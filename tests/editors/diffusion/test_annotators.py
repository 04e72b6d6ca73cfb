"""What ControlNets are shown: edges where they are, nearness in range; and transformers models of the real classes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_models
import torch

from canon.editors.diffusion.annotators import annotate, canny, guessed_depth, segment, segment_at, soft_edges
from canon.errors import InputError

CPU = torch.device("cpu")


def step() -> np.ndarray:
    picture = np.full((41, 67, 3), 0.2, np.float32)
    picture[:, 30:] = 0.8
    return picture


def test_edges_are_where_the_picture_changes() -> None:
    edges = canny(step())
    assert set(np.unique(edges)) == {0.0, 1.0} and edges[:, 27:33].any(axis=1).all()
    assert edges[:, :26].sum() == 0 and edges[:, 34:].sum() == 0
    soft = soft_edges(step())
    assert soft.min() >= 0 and soft.max() <= 1
    assert soft[20, 29:31].min() > 0.8 and soft[20, :20].max() < 0.05 and soft[20, 45:].max() < 0.05


def test_what_is_lower_counts_as_nearer() -> None:
    depth = guessed_depth(np.full((40, 30, 3), 0.5, np.float32))
    assert depth.min() == 0 and depth.max() == 1 and (np.diff(depth[:, 15]) > 0).all()


@pytest.mark.parametrize("kind", ["canny", "soft-edge", "depth", "none"])
def test_every_kind_is_a_picture_of_the_same_size(kind: str) -> None:
    shown = annotate(step(), kind, "", CPU)
    assert shown.shape == step().shape and shown.dtype == np.float32 and 0 <= shown.min() <= shown.max() <= 1


def test_a_depth_estimator_of_transformers(tmp_path: Path) -> None:
    folder = str(tiny_models.depth_estimator(tmp_path / "depth"))
    shown = annotate(step(), "depth", folder, CPU)
    assert shown.shape == step().shape and shown.min() == 0 and shown.max() > 0.9
    assert np.array_equal(shown, annotate(step(), "depth", folder, CPU))
    assert not np.allclose(shown, annotate(step(), "depth", "", CPU))
    with pytest.raises(InputError, match="without a model"):
        annotate(step(), "canny", folder, CPU)
    with pytest.raises(InputError, match="cannot be loaded"):
        annotate(step(), "depth", str(tmp_path), CPU)


def test_a_segmenter_of_transformers(tmp_path: Path) -> None:
    folder = str(tiny_models.segmenter(tmp_path / "segmenter"))
    area = segment(np.random.default_rng(0).random((50, 70, 3), np.float32), "Swan", folder, CPU)
    assert area.shape == (50, 70) and area.dtype == bool and area.any()
    with pytest.raises(InputError, match="knows nothing called 'dog'"):
        segment(step(), "dog", folder, CPU)
    assert not segment(step(), "water", folder, CPU).any()


def test_what_is_at_a_point(tmp_path: Path) -> None:
    folder = str(tiny_models.segment_anything(tmp_path / "sam"))
    picture = np.random.default_rng(0).random((50, 70, 3), np.float32)
    area = segment_at(picture, (30, 20), folder, CPU)
    assert area.shape == (50, 70) and area.dtype == bool and area.any()
    assert np.array_equal(area, segment_at(picture, (30, 20), folder, CPU))
    with pytest.raises(InputError, match="70,20 is outside of the canvas, which is 70x50"):
        segment_at(picture, (70, 20), folder, CPU)


def test_a_guess_at_depth_does_not_depend_on_the_size() -> None:
    small = cv2.GaussianBlur(np.random.default_rng(0).random((192, 384, 3), np.float32), (0, 0), 6)
    small = (small - small.min()) / np.ptp(small)
    large = cv2.resize(small, (1536, 768), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    found = cv2.resize(guessed_depth(large), (384, 192), interpolation=cv2.INTER_AREA)
    assert guessed_depth(large).shape == (768, 1536) and np.abs(found - guessed_depth(small)).mean() < 0.02
