"""Text2LIVE (Bar-Tal et al., ECCV 2022): a network, trained for the clip, that makes a layer to lay over the canvas."""

from __future__ import annotations

from dataclasses import dataclass

from canon.editors.distill.editor import Distill, DistillConfig
from canon.errors import InputError


@dataclass
class Text2LiveConfig(DistillConfig):
    """Train a small network that lays colours over a layer, by CLIP, or by a diffusion model where there is no CLIP."""

    clip_model: str = ""
    """CLIP model to train by: a folder, or a hub id that was downloaded before; none = the diffusion model."""
    screen_prompt: str = ""
    """What the edit layer alone shows over a green screen; none = the prompt."""
    rate: float = 0.02
    """How far a step goes: the network's learning rate."""
    width: int = 16
    """Channels of the network's first layer."""
    screen: float = 1.0
    """Weight of what CLIP sees of the edit layer over green."""
    structure: float = 2.0
    """Weight of the self-similarity of CLIP's tokens, which holds shapes where they are."""
    sparse: float = 0.0005
    """Weight of the layer's opacity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise InputError(f"The network cannot have {self.width} channels; choose at least 1.")
        if self.screen < 0 or self.structure < 0:
            raise InputError("The weights screen and structure must be at least 0.")


class Text2Live(Distill):
    """Trains a generator of an edit layer; see :class:`Text2LiveConfig`."""

    Config = Text2LiveConfig
    name = "text2live"
    painter = "Text2LivePainter"
