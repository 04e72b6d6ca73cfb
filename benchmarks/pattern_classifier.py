"""A small network that says what a picture of canon-mini's vocabulary shows: the judge of ``prompts.py``.

It learns from drawings of its own, with seeds that canon-mini never trains on, and is kept in a cache. The drawings are
blurred, bent, made noisy and tinted a little, so that it judges the pattern and not how crisp the pixels are.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from canon.editors.diffusion.mini.pictures import draw
from canon.editors.diffusion.mini.vocabulary import COLOURS, MATERIALS, PATTERNS, SHAPES, TWO_COLOURED, Look, Picture
from canon.runtime import map_frames
from canon.storage import atomic_path, content_hash, to_float, to_uint8

SIZE = 64
"""Pixels along a side of what it looks at."""
PICTURES, EPOCHS, BATCH, RATE = 25_000, 4, 64, 3e-3
HELD_OUT = 2_000
LEARNED, UNSEEN, BLEMISHES = 7_000_000, 7_000_001, 7_000_002
"""First numbers of the seeds. Training of canon-mini has small ones there, so its drawings are others."""
_NONE = "none"
_HEADS = {"look": PATTERNS, "ground": (*PATTERNS, _NONE), "shape": (*SHAPES, _NONE)}


class Seen(NamedTuple):
    """What a picture shows: the pattern of the surface or object, and an object's ground and shape, else ``none``."""

    look: str
    ground: str
    shape: str


class Classifier(nn.Module):
    """Convolutions, averaged over the picture and over its parts, and one linear layer; 0.4 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _convolution(3, 24),
            _convolution(24, 48, stride=2),
            _convolution(48, 64, stride=2),
            _convolution(64, 64),
            _convolution(64, 128, stride=2),
            _convolution(128, 128),
        )
        self.heads = nn.Linear(128 * 17, sum(map(len, _HEADS.values())))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pictures [N, 3, SIZE, SIZE] in 0..1 -> logits of look, ground and shape, each [N, answers]."""
        found = self.trunk(images.contiguous(memory_format=torch.channels_last) * 2 - 1)
        means = [F.adaptive_avg_pool2d(found, parts).flatten(1) for parts in (1, 4)]
        logits = self.heads(F.dropout(torch.cat(means, dim=1), 0.2, self.training))
        return tuple(logits.split([len(answers) for answers in _HEADS.values()], dim=1))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def load_or_train(cache: Path) -> Classifier:
    """The classifier for the drawings as they are now: from the cache, or trained (some minutes) and kept there."""
    network = Classifier().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = cache / f"pattern-classifier-{_fingerprint()}.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    _train(network)
    with atomic_path(path) as temporary:
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, temporary)
    return network.eval()


def recognise(network: Classifier, images: np.ndarray) -> list[Seen]:
    """What pictures show, float [N, h, w, 3] in 0..1."""
    found = []
    with torch.inference_mode():
        for part in np.array_split(images, max(len(images) // 64, 1)):
            answers = [logits.argmax(1).tolist() for logits in network(_tensor(part))]
            found += [_spoken(numbers) for numbers in zip(*answers, strict=True)]
    return found


def truth(picture: Picture) -> Seen:
    """What a picture should show."""
    return Seen(picture.look.pattern, picture.ground.pattern if picture.ground else _NONE, picture.shape or _NONE)


def held_out() -> tuple[list[Picture], np.ndarray]:
    """Pictures that it has not learned from, float32 [HELD_OUT, SIZE, SIZE, 3] in 0..1; every pattern as often."""
    pictures, images = _drawn(UNSEEN, HELD_OUT)
    return pictures, to_float(images)


def soften(images: np.ndarray) -> np.ndarray:
    """Pictures as a so-so generator might give them: blurred by 0.8 pixels, with noise of 0.01."""
    rng = np.random.default_rng([BLEMISHES, UNSEEN])
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 0.8) for image in images])
    return np.clip(blurred + rng.normal(0, 0.01, images.shape), 0, 1).astype(np.float32)


def balanced_picture(rng: np.random.Generator) -> Picture:
    """Two surfaces for each object; every pattern as often, in any colour; no caption."""
    look = _balanced_look(rng)
    if rng.random() < 2 / 3:
        return Picture("", look)
    while True:
        ground = _balanced_look(rng, plain=0.5)
        if ground.colours[0] not in look.colours:
            break
    if ground.pattern != "plain" and rng.random() < 0.5:
        look = Look("plain", look.colours[:1])
    return Picture("", look, str(rng.choice(SHAPES)), ground)


def _balanced_look(rng: np.random.Generator, plain: float = 0.0) -> Look:
    pattern = "plain" if rng.random() < plain else str(rng.choice(PATTERNS))
    colours = tuple(str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
    if pattern in TWO_COLOURED:
        return Look(pattern, colours)
    if pattern in MATERIALS and (not MATERIALS[pattern][2] or rng.random() < 0.3):
        return Look(pattern, (MATERIALS[pattern][0],))
    return Look(pattern, colours[:1])


def blemished(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture bent, blurred, tinted, made noisy and compressed a little, float32 [SIZE, SIZE, 3]."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    bend = cv2.resize(rng.normal(0, rng.uniform(0, 0.7), (9, 9, 2)).astype(np.float32), (SIZE, SIZE))
    image = cv2.remap(image, x + bend[..., 0], y + bend[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if (blur := rng.uniform(0, 1)) > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = image * rng.uniform(0.93, 1.07, 3) + rng.uniform(-0.03, 0.03, 3)
    image = np.clip(image + rng.normal(0, rng.uniform(0, 0.03), image.shape), 0, 1)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
        _, data = cv2.imencode(".jpg", (image * 255).astype(np.uint8), quality)
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32) / 255
    return np.asarray(image[:, :: int(rng.choice([-1, 1]))], np.float32)


def _train(network: Classifier) -> None:
    begin = time.perf_counter()
    pictures, images = _drawn(LEARNED, PICTURES)
    answers = _numbers(pictures)
    torch.manual_seed(LEARNED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    steps = EPOCHS * (PICTURES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    network.train()
    for epoch in range(EPOCHS):
        losses = []
        order = np.random.default_rng([BLEMISHES, epoch]).permutation(PICTURES)
        for chosen in order[: steps // EPOCHS * BATCH].reshape(-1, BATCH):
            batch = [blemished(to_float(images[k]), np.random.default_rng([BLEMISHES, epoch, int(k)])) for k in chosen]
            logits = network(_tensor(np.stack(batch)))
            loss = _loss(logits, answers[torch.from_numpy(chosen)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(f"classifier epoch {epoch}  {time.perf_counter() - begin:.0f} s  loss {np.mean(losses):.3f}", flush=True)


def _loss(logits: tuple[Tensor, ...], answers: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(each, answers[:, k]) for k, each in enumerate(logits)]).sum()


def _drawn(first: int, count: int) -> tuple[list[Picture], np.ndarray]:
    """Drawings by seeds that begin with ``first``, uint8 [count, SIZE, SIZE, 3]."""

    def one(number: int) -> tuple[Picture, np.ndarray]:
        rng = np.random.default_rng([first, number])
        picture = balanced_picture(rng)
        return picture, to_uint8(draw(picture, SIZE, rng))

    pictures, images = zip(*map_frames(one, range(count)), strict=True)
    return list(pictures), np.stack(images)


def _numbers(pictures: list[Picture]) -> Tensor:
    """Numbers of the right answers [N, 3]."""
    return torch.tensor(
        [
            [answers.index(word) for answers, word in zip(_HEADS.values(), truth(picture), strict=True)]
            for picture in pictures
        ]
    )


def _spoken(numbers: tuple[int, ...]) -> Seen:
    return Seen(*(answers[number] for answers, number in zip(_HEADS.values(), numbers, strict=True)))


def _tensor(images: np.ndarray) -> Tensor:
    """Pictures [N, h, w, 3] -> [N, 3, SIZE, SIZE]."""
    if images.shape[1:3] != (SIZE, SIZE):
        images = np.stack([cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for image in images])
    return torch.from_numpy(np.ascontiguousarray(images, np.float32)).permute(0, 3, 1, 2)


def _fingerprint() -> str:
    """Changes with the drawings, the vocabulary and this file."""
    rng = np.random.default_rng([LEARNED, PICTURES])
    looks = [Look(pattern, ("red", "blue") if pattern in TWO_COLOURED else ("green",)) for pattern in PATTERNS]
    surfaces = [draw(Picture("", look), 32, rng) for look in looks]
    objects = [draw(Picture("", looks[0], shape, looks[1]), 32, rng) for shape in SHAPES]
    return content_hash(to_uint8(np.stack(surfaces + objects)), list(COLOURS.items()), Path(__file__).read_bytes())
