"""What ControlNets are shown of a picture, and objects found in it: plain stand-ins, or transformers models."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from canon.editors.diffusion.models import UNREADABLE, import_diffusers, offline
from canon.errors import InputError, first_line
from canon.storage import to_uint8

_CANNY = (100, 200)
_EDGE_SCALES = (1.0, 2.0, 4.0)
_GUESSED = 384  # pixels along the longer side at which depth is guessed


def annotate(picture: np.ndarray, kind: str, model: str, device: torch.device) -> np.ndarray:
    """What a ControlNet of a kind is shown.

    Args:
        picture: float32 [h, w, 3] in 0..1.
        kind: canny, soft-edge, depth, or none for the picture itself.
        model: hub id or folder of a transformers model for depth; "" = a stand-in without weights.

    Returns:
        float32 [h, w, 3] in 0..1.

    Raises:
        InputError: the model cannot be loaded, or there is none of this kind.
    """
    if kind == "none":
        return picture
    if model and kind != "depth":
        raise InputError(f"Edges of the kind '{kind}' are found without a model; leave --annotator out.")
    if kind == "canny":
        found = canny(picture)
    elif kind == "soft-edge":
        found = soft_edges(picture)
    else:
        found = learned_depth(picture, model, device) if model else guessed_depth(picture)
    return np.repeat(found[..., None], 3, axis=2)


def canny(picture: np.ndarray, low: float = _CANNY[0], high: float = _CANNY[1]) -> np.ndarray:
    """Edges of one pixel (Canny, 1986), float32 [h, w], 0 or 1."""
    found = cv2.Canny(cv2.cvtColor(to_uint8(picture), cv2.COLOR_RGB2GRAY), low, high)
    return (found > 0).astype(np.float32)


def soft_edges(picture: np.ndarray) -> np.ndarray:
    """Strength of edges over several scales, float32 [h, w] in 0..1: a stand-in for HED that needs no weights."""
    gray = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2GRAY)
    total = np.zeros_like(gray)
    for scale in _EDGE_SCALES:
        smooth = cv2.GaussianBlur(gray, (0, 0), scale)
        across, down = (cv2.Scharr(smooth, cv2.CV_32F, *way) for way in ((1, 0), (0, 1)))
        total = total + np.hypot(across, down) * scale
    return np.asarray(np.tanh(total / max(2.5 * float(total.mean()), 1e-6) / 2), np.float32)


def guessed_depth(picture: np.ndarray) -> np.ndarray:
    """Nearness without a model, float32 [h, w] in 0..1: what is lower, and in sharper focus, counts as nearer.

    A stand-in that keeps a picture's large parts apart; it measures nothing.
    """
    gray = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2GRAY)
    scale = min(_GUESSED / max(gray.shape), 1.0)
    gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    reach = max(min(gray.shape) / 16, 1.0)
    sharp = cv2.GaussianBlur(np.abs(gray - cv2.GaussianBlur(gray, (0, 0), 2)), (0, 0), reach)
    tone = cv2.bilateralFilter(cv2.GaussianBlur(gray, (0, 0), 1), 0, 0.15, reach)
    low = np.linspace(0, 1, gray.shape[0], dtype=np.float32)[:, None]
    found = 0.5 * low + 0.3 * sharp / max(float(sharp.max()), 1e-6) + 0.2 * tone
    found = (found - found.min()) / max(float(np.ptp(found)), 1e-6)
    return np.asarray(cv2.resize(found, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)


@torch.no_grad()
def learned_depth(picture: np.ndarray, model: str, device: torch.device) -> np.ndarray:
    """Nearness by MiDaS (DPT), Depth Anything or another depth estimator of transformers, float32 [h, w] in 0..1."""
    processor, network = _loaded(model, "AutoModelForDepthEstimation", device)
    given = processor(images=Image.fromarray(to_uint8(picture)), return_tensors="pt").to(device)
    found = network(**given).predicted_depth.float()
    full = torch.nn.functional.interpolate(found[:, None], picture.shape[:2], mode="bicubic")[0, 0].cpu().numpy()
    return np.asarray(((full - full.min()) / max(float(np.ptp(full)), 1e-12)).clip(0, 1), np.float32)


@torch.no_grad()
def segment(picture: np.ndarray, label: str, model: str, device: torch.device) -> np.ndarray:
    """Where a picture shows something, by Mask2Former or another universal segmenter of transformers, bool [h, w].

    Raises:
        InputError: the model cannot be loaded, or does not know the label.
    """
    processor, network = _loaded(model, "AutoModelForUniversalSegmentation", device)
    known = {str(name).lower(): int(number) for number, name in network.config.id2label.items()}
    if label.lower() not in known:
        some = ", ".join(sorted(known)[:8])
        raise InputError(f"'{model}' knows nothing called '{label}'; it knows {some} and so on.")
    given = processor(images=Image.fromarray(to_uint8(picture)), return_tensors="pt").to(device)
    size = [picture.shape[:2]]
    found = processor.post_process_panoptic_segmentation(network(**given), target_sizes=size)[0]
    numbers = [part["id"] for part in found["segments_info"] if part["label_id"] == known[label.lower()]]
    return np.isin(found["segmentation"].cpu().numpy(), numbers) if numbers else np.zeros(picture.shape[:2], bool)


@torch.no_grad()
def segment_at(picture: np.ndarray, point: tuple[int, int], model: str, device: torch.device) -> np.ndarray:
    """What a picture shows at a point (x, y), by SAM or SAM 2 of transformers, bool [h, w].

    Raises:
        InputError: the model cannot be loaded, or the point is outside.
    """
    height, width = picture.shape[:2]
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise InputError(f"The point {point[0]},{point[1]} is outside of the canvas, which is {width}x{height}.")
    processor, network = _loaded(model, "AutoModelForMaskGeneration", device, "AutoProcessor")
    second = "Sam2" in type(network).__name__
    points = [[[[float(point[0]), float(point[1])]]]]
    labels = {"input_labels": [[[1]]]} if second else {}
    image = Image.fromarray(to_uint8(picture))
    given = processor(images=image, input_points=points if second else points[0], return_tensors="pt", **labels)
    found = network(**given.to(device))
    sizes = [given["original_sizes"].cpu()] + ([] if second else [given["reshaped_input_sizes"].cpu()])
    masks = processor.post_process_masks(found.pred_masks.cpu(), *sizes)[0][0]
    area = masks[int(found.iou_scores.flatten().argmax())].numpy() > 0
    if not area.any():
        raise InputError(f"'{model}' finds nothing at {point[0]},{point[1]}; draw a mask instead.")
    return np.asarray(area)


@lru_cache(maxsize=2)
def _loaded(model: str, kind: str, device: torch.device, reader: str = "AutoImageProcessor") -> tuple[Any, Any]:
    import_diffusers()
    import transformers

    local = offline(model)
    try:
        processor = getattr(transformers, reader).from_pretrained(model, local_files_only=local)
        network = getattr(transformers, kind).from_pretrained(model, local_files_only=local, use_safetensors=True)
    except UNREADABLE as error:
        raise InputError(f"The annotator '{model}' cannot be loaded: {first_line(error)}.") from error
    return processor, network.to(device).eval()
