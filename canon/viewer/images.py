"""Pictures to and from a browser: checked before they are decoded, encoded quickly."""

from __future__ import annotations

import io

import cv2
import numpy as np

from canon.errors import InputError

MOST_PIXELS = 64_000_000
"""Uploaded pictures with more pixels than this (8000 x 8000) are refused before they are decoded."""


def picture_size(data: bytes, most: int = MOST_PIXELS) -> tuple[int, int]:
    """(height, width) of an uploaded picture, from its header alone.

    Raises:
        InputError: it is no image that is known here, or has more than ``most`` pixels.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise InputError("The picture is too large to be opened safely; make it smaller.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError("The file is not a picture that can be read; use PNG, JPEG or WebP.") from error
    if width * height > most:
        raise InputError(f"The picture has {width}x{height} pixels; use one of at most {most / 1e6:.0f} megapixels.")
    return height, width


def decoded_rgba(data: bytes, most: int = MOST_PIXELS) -> np.ndarray:
    """An uploaded picture, uint8 [h, w, 4], straight alpha.

    Raises:
        InputError: see :func:`picture_size`, or its pixels are damaged.
    """
    picture_size(data, most)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return _decoded_otherwise(data)
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        return _decoded_otherwise(data)
    if image.ndim == 2:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGBA))
    code = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}.get(image.shape[2])
    return _decoded_otherwise(data) if code is None else np.asarray(cv2.cvtColor(image, code))


def _decoded_otherwise(data: bytes) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError("The picture is damaged: its pixels cannot be decoded.") from error


def encoded(image: np.ndarray, kind: str = "jpeg", quality: int = 90) -> bytes:
    """uint8 [H, W, 3 or 4] as the bytes of a JPEG (opacity dropped), WebP or PNG."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    if kind == "jpeg":
        order = cv2.COLOR_RGBA2BGR if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    elif kind == "webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    elif kind == "png":
        options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    else:
        raise InputError(f"Pictures are sent as jpeg, webp or png, not as '{kind}'.")
    done, data = cv2.imencode(f".{kind}", cv2.cvtColor(image, order), options)
    if not done:
        raise InputError(f"The picture cannot be encoded as {kind}.")
    return bytes(data.tobytes())


def fitted(image: np.ndarray, width: int | None) -> np.ndarray:
    """An image shrunk to a width; as it is where it is no wider."""
    if width is None or width >= image.shape[1]:
        return image
    height = max(round(image.shape[0] * width / image.shape[1]), 1)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
