"""What tells a model where semantic points are: VideoSwap (Gu et al., CVPR 2024), section 3.3.

A point is the model's own feature of it (DIFT; Tang et al., NeurIPS 2023). A small network makes of that what is drawn,
as a soft spot where the point lies, into the features of every scale of the UNet's encoder. It is trained on the clip's
own frames, where noise is high and around the points alone, so that it learns where things are and not what they look
like.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canon import progress
from canon.coordinates import resize_points
from canon.editors.diffusion.concepts import Example, denoising_loss, random_noise
from canon.editors.diffusion.latents import Guide, LatentModel, check_finite, to_tensor
from canon.editors.diffusion.swap_motion import FrameStack
from canon.editors.diffusion.windows import Window
from canon.sampling import remap_points

_HIDDEN = 64
_SPOT = 1 / 32
"""Radius (Gaussian sigma) of a point as a share of a picture's side, but at least that of a feature's cell."""
_LEAST_SPOT = 0.6
_PATCH = 3.0
"""Times that radius around a point where the loss is taken."""
_FEATURE_LEVEL, _FEATURE_DRAWS = 0.26, 4
"""Share of the timesteps at which features tell points apart best, and over how many draws of noise they are a mean."""
LEAST_NOISE = 0.5
"""Share of the timesteps from which the adapter is trained, and heard."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where points are in pictures of one size.

    Attributes:
        size: (height, width) of the pictures.
        at: float32 [F, K, 2], pixels (x, y) of each picture.
        seen: float32 [F, K], 1 where a point is to be seen.
    """

    size: tuple[int, int]
    at: Tensor
    seen: Tensor

    def of(self, frames: slice) -> Places:
        """Those of some pictures."""
        return Places(self.size, self.at[frames], self.seen[frames])

    @property
    def radius(self) -> float:
        """Of a point, in pixels."""
        return _SPOT * float(self.size[0] * self.size[1]) ** 0.5

    def spots(self, size: tuple[int, int], window: Window | None = None) -> Tensor:
        """How near to each point everything is, float32 [F, K, h, w]: 1 there, falling off around it.

        Args:
            size: (height, width) of the map.
            window: the part of the picture, in its pixels, that the map is of; None = all.
        """
        window = window or Window(0, 0, *self.size)
        corner = torch.tensor([window.left, window.top], device=self.at.device)
        at = resize_points(self.at - corner, (window.height, window.width), size)
        radius = max(self.radius * size[1] / window.width, _LEAST_SPOT)
        y, x = (torch.arange(n, device=self.at.device, dtype=torch.float32) for n in size)
        apart_y, apart_x = y - at[..., 1:], x - at[..., :1]
        square = apart_y[..., :, None] ** 2 + apart_x[..., None, :] ** 2
        return torch.exp(-square / (2 * radius**2)) * self.seen[..., None, None]


class PointAdapter(nn.Module):
    """Feature maps of points for every scale of an encoder; they are zero until it has learned."""

    def __init__(self, features: Tensor, channels: Sequence[int], seed: int = 0) -> None:
        """Begin.

        Args:
            features: float32 [K, d], what tells the points apart.
            channels: of every scale.
        """
        super().__init__()
        self.register_buffer("features", F.layer_norm(features, features.shape[-1:]))
        inner = (features.shape[-1], _HIDDEN, _HIDDEN)
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(inner))
        self.heads = nn.ModuleList(nn.Linear(_HIDDEN, width) for width in channels)
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            for name, value in self.named_parameters():
                inside = name.startswith("trunk") and value.ndim == 2
                begun = torch.randn(value.shape, generator=generator) / value.shape[-1] ** 0.5
                value.copy_(begun if inside else torch.zeros(value.shape))

    def forward(self, k: int, spots: Tensor) -> Tensor:
        """What is added to the features of scale ``k``, float32 [F, c, h, w], of :meth:`Places.spots` [F, K, h, w]."""
        found = self.features
        for layer in self.trunk:
            found = F.silu(layer(found))
        return torch.einsum("fkhw,kc->fchw", spots, self.heads[k](found))


@contextmanager
def shown(
    unet: Any, adapter: PointAdapter, places: Places, window: Window | None = None, scale: float = 1.0
) -> Iterator[None]:
    """Let a network see points meanwhile.

    They come in behind the last residual layer of each of the encoder's blocks, which a UNet with a motion module has,
    too; it takes no residuals of an adapter as others do.

    Args:
        unet: a diffusers UNet2DConditionModel or UNetMotionModel; it is given the pictures that ``places`` are of, any
            number of times.
        window: the part of the pictures, in their pixels, that it is given.
    """

    def add(k: int, _module: nn.Module, _inputs: Any, found: Tensor) -> Tensor:
        maps = adapter(k, places.spots((found.shape[-2], found.shape[-1]), window)) * scale
        return found + maps.repeat(found.shape[0] // maps.shape[0], 1, 1, 1).to(found.dtype)

    blocks = enumerate(unet.down_blocks)
    hooks = [block.resnets[-1].register_forward_hook(partial(add, k)) for k, block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class PointedModel(LatentModel):
    """A model that is shown points where noise is high, and that draws the pictures that they are of."""

    def __init__(self, model: LatentModel, adapter: PointAdapter | None, scale: float = 1.0, span: int = 1) -> None:
        """Take over a model.

        Args:
            adapter: None for no points.
            scale: how much the points count.
            span: pictures that the network is given at once; spans overlap by half, and are averaged there.
        """
        vars(self).update(vars(model))
        self._adapter, self._scale, self._span = adapter, scale, span
        self._places: Places | None = None

    def seeing(self, places: Places | None) -> PointedModel:
        """The same model before pictures with points elsewhere."""
        other = copy.copy(self)
        other._places = places
        return other

    def _predict(self, latents: Tensor, t: Tensor, guide: Guide, place: Window) -> Tensor:
        total = torch.zeros(*latents.shape[:2], place.height, place.width, device=latents.device)
        counts = torch.zeros(len(latents), 1, 1, 1, device=latents.device)
        for frames in spans(len(latents), self._span):
            if isinstance(self.unet, FrameStack):
                self.unet.frames = frames.stop - frames.start
            with self._shown(frames, t, place):
                total[frames] += super()._predict(latents[frames], t, guide, place).float()
            counts[frames] += 1
        return (total / counts).to(latents.dtype)

    def _shown(self, frames: slice, t: Tensor, place: Window) -> AbstractContextManager[None]:
        heard = float(t.max()) >= LEAST_NOISE * int(self.scheduler.config.num_train_timesteps)
        if self._adapter is None or self._places is None or not heard:
            return nullcontext()
        return shown(self.unet, self._adapter, self._places.of(frames), place.scaled(self.factor), self._scale)


def spans(count: int, length: int) -> list[slice]:
    """Stretches of at most ``length`` of ``count`` things, each half of which the next one covers, too."""
    if count <= length:
        return [slice(0, count)]
    stride = max(length // 2, 1)
    starts = [*range(0, count - length, stride), count - length]
    return [slice(start, start + length) for start in starts]


@torch.no_grad()
def point_features(model: LatentModel, picture: Tensor, places: Places, guide: Guide) -> Tensor:
    """What a network sees at points of a picture, float32 [K, d].

    Args:
        picture: [1, 3, h, w] in 0..1.
        places: of that picture.
        guide: its description, unguided.
    """
    latents = model.encode(picture)
    count = int(model.scheduler.config.num_train_timesteps)
    t = torch.tensor([int(_FEATURE_LEVEL * count)], device=latents.device)
    alpha = model.scheduler.alphas_cumprod.to(latents.device)[t].view(-1, 1, 1, 1)
    blocks, seen = model.unet.up_blocks, list[Tensor]()
    hook = blocks[(len(blocks) - 1) // 2].register_forward_hook(lambda _m, _i, found: seen.append(found.float()))
    generator = torch.Generator("cpu").manual_seed(0)
    try:
        for _ in range(_FEATURE_DRAWS):
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(latents.dtype)
            model.unet(noisy, t, encoder_hidden_states=guide.context, **_told(guide), return_dict=False)
    finally:
        hook.remove()
    found = torch.stack(seen).mean(dim=0)[0].permute(1, 2, 0).cpu().numpy()
    at = resize_points(places.at[0].cpu(), places.size, (found.shape[0], found.shape[1]))
    return torch.from_numpy(remap_points(found, at.numpy())).to(latents.device)


def _told(guide: Guide) -> dict[str, Any]:
    return {"added_cond_kwargs": guide.added} if guide.added else {}


def new_adapter(model: LatentModel, features: Tensor, seed: int = 0) -> PointAdapter:
    """An adapter for a model that has learned nothing yet."""
    return PointAdapter(features, model.unet.config.block_out_channels, seed).to(features.device)


def train_adapter(
    model: LatentModel,
    adapter: PointAdapter,
    pictures: Sequence[Any],
    places: Places,
    guide: Guide,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Teach an adapter what points say of pictures; the model's own weights must take no gradients.

    Args:
        model: with a scheduler that :func:`canon.editors.diffusion.painters.invertible` gives.
        pictures: float32 [h, w, 3] in 0..1 each, of one size.
        places: of all of them, in pixels of that size.
        guide: what they show, unguided.

    Raises:
        InputError: numbers ran over.
    """
    shown_to = PointedModel(model, adapter)
    with torch.no_grad():
        latents = [model.encode(to_tensor(picture)).float() for picture in pictures]
    wanted = patches(places, (latents[0].shape[-2], latents[0].shape[-1]))
    useful = [f for f in range(len(pictures)) if float(wanted[f].sum()) > 0]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=rate)
    generator = torch.Generator("cpu").manual_seed(seed)
    for _ in progress.parts(range(steps if useful else 0), "learning points"):
        f = useful[int(torch.randint(len(useful), (), generator=generator))]
        example = Example(latents[f], guide, wanted[f : f + 1])
        noise, t = random_noise(model, latents[f], LEAST_NOISE, 1.0, generator)
        loss = denoising_loss(shown_to.seeing(places.of(slice(f, f + 1))), example, noise, t)
        check_finite(bool(torch.isfinite(loss)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def patches(places: Places, size: tuple[int, int]) -> Tensor:
    """Latents around points that are to be seen, float32 [F, 1, h, w] of zeros and ones."""
    level = torch.exp(torch.tensor(-(_PATCH**2) / 2))
    return (places.spots(size).amax(dim=1, keepdim=True) >= level).float()
