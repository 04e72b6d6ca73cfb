"""Self-attention that looks at the features of other pictures: Pix2Video (Ceylan et al., ICCV 2023), section 3.1."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from canon.editors.diffusion.options import BOTH, NONE

log = logging.getLogger("canon")

Moment = tuple[int, float, int]
"""When a network was asked: which run over the noise levels, at which of them, and the how manieth time there."""


class Features:
    """What the self-attention of a network saw of one picture while that was drawn."""

    def __init__(self, device: torch.device | None = None) -> None:
        """Keep none yet; ``device`` is where to keep them, None = where they are."""
        self._device = device
        self._kept: dict[tuple[str, Moment], Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, layer: str, moment: Moment, hidden: Tensor) -> None:
        """Remember the input [B, n, d] of a layer."""
        self._kept[layer, moment] = hidden.detach() if self._device is None else hidden.detach().to(self._device)

    def at(self, layer: str, moment: Moment) -> Tensor | None:
        """What a layer saw [B, n, d] at a moment; a picture of fewer windows shows its first one."""
        first = (*moment[:2], 0)
        return self._kept.get((layer, moment), self._kept.get((layer, first)))


class Chain:
    """Pictures drawn one after another, each in the light of the first one's and the previous one's features."""

    def __init__(self, unet: nn.Module, attention: str, device: torch.device | None = None) -> None:
        """Begin a chain.

        Args:
            attention: none, anchor (the first picture's features) or both.
            device: where features are kept; None = where they are.
        """
        self._unet, self._attention, self._device = unet, attention, device
        self._kept: list[Features] = []

    @contextmanager
    def next(self) -> Iterator[None]:
        """Draw the next picture meanwhile."""
        if self._attention == NONE:
            yield
            return
        with attending(self._unet, self._kept, self._device) as own:
            yield
        anchor = self._kept[:1]
        self._kept = [*anchor, own] if self._attention == BOTH else anchor or [own]


@contextmanager
def attending(unet: nn.Module, others: Sequence[Features], device: torch.device | None = None) -> Iterator[Features]:
    """Let a network's self-attention take keys and values from the features of others, queries from its own.

    It is that of the decoder, or, in a network that has none there, of the middle block. Without others, and at moments
    that they do not have, attention is as it ever was.

    Args:
        unet: a diffusers UNet2DConditionModel, or one of its kind.
        device: where the features are kept.

    Yields:
        the features of what is drawn meanwhile.
    """
    own, clock = Features(device), _Clock()
    layers = decoder_self_attention(unet)
    before = {name: layer.processor for name, layer in layers.items()}
    hook = unet.register_forward_pre_hook(clock.tick, with_kwargs=True)
    try:
        for name, layer in layers.items():
            layer.set_processor(_Attending(name, layer.processor, clock, others, own))
        yield own
    finally:
        hook.remove()
        for name, layer in layers.items():
            layer.set_processor(before[name])


def decoder_self_attention(unet: nn.Module) -> dict[str, Any]:
    """The self-attention layers of a UNet's decoder by name, or, if it has none there, those of its middle block."""
    found = {
        name: module
        for name, module in unet.named_modules()
        if name.endswith("attn1") and not getattr(module, "is_cross_attention", True)
    }
    decoder = {name: module for name, module in found.items() if name.startswith("up_blocks.")}
    return decoder or {name: module for name, module in found.items() if name.startswith("mid_block.")}


def tell_what_attends(unet: nn.Module) -> None:
    """Say where a network has self-attention if it is not in the decoder, where features are meant to be shared."""
    names = list(decoder_self_attention(unet))
    if not names:
        log.warning("the model has no self-attention in its decoder or middle block, so pictures share no features")
    elif not names[0].startswith("up_blocks."):
        log.warning("the model has no self-attention in its decoder; features are shared in its middle block alone")


class _Clock:
    """Which moment it is in a network; it is told before every call."""

    def __init__(self) -> None:
        self.now: Moment = (0, float("inf"), 0)

    def tick(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run, last, count = self.now
        level = float(args[1] if len(args) > 1 else kwargs["timestep"])
        # Levels fall while a picture is drawn: where they rise, it is gone over once more.
        self.now = (run, level, count + 1) if level == last else (run + (level > last), level, 0)


class _Attending:
    """An attention processor around another one."""

    def __init__(self, layer: str, inner: Any, clock: _Clock, others: Sequence[Features], own: Features) -> None:
        self.layer, self.inner, self.clock, self.others, self.own = layer, inner, clock, others, own

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **more: Any,
    ) -> Tensor:
        now = self.clock.now
        self.own.keep(self.layer, now, hidden_states)
        seen = [found for other in self.others if (found := other.at(self.layer, now)) is not None]
        if seen:
            encoder_hidden_states = torch.cat([found.to(hidden_states) for found in seen], dim=1)
        return self.inner(attn, hidden_states, encoder_hidden_states, *args, **more)  # type: ignore[no-any-return]
