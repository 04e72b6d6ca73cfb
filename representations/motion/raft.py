"""Optical flow by torchvision's RAFT (Teed and Deng, ECCV 2020), where the user has its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from canon.errors import InputError
from canon.representations.motion.flow import PairFlow

_MULTIPLE = 8
_SMALLEST = 128
"""RAFT's correlation pyramid needs sides of at least this many pixels."""


def load_raft(weights: Path, device: torch.device) -> PairFlow:
    """A function from two uint8 RGB frames [H, W, 3] to the flow between them, float32 [H, W, 2] in pixels.

    Args:
        weights: torchvision's raft_large or raft_small, as .safetensors or .pth (read without unpickling code).

    Raises:
        InputError: torchvision is missing, or the file is not RAFT's weights.
    """
    if not weights.is_file():
        raise InputError(f"There are no RAFT weights at '{weights}'.")
    try:
        from torchvision.models.optical_flow import raft_large, raft_small
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"--raft needs a torchvision that fits your torch ({error}); see pytorch.org, or leave --raft out."
        ) from error
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        model = raft_large(weights=None, progress=False)
        if set(state) != set(model.state_dict()):
            model = raft_small(weights=None, progress=False)
        model.load_state_dict(state)
    except Exception as error:  # whatever a foreign file makes the readers say
        raise InputError(f"'{weights}' does not hold the weights of torchvision's RAFT.") from error
    model = model.to(device).eval()

    @torch.inference_mode()
    def flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        height, width = a.shape[:2]
        down, right = (max(-(-n // _MULTIPLE) * _MULTIPLE, _SMALLEST) - n for n in (height, width))
        pair = torch.from_numpy(np.stack([a, b])).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        padded = torch.nn.functional.pad(pair, (0, right, 0, down), mode="replicate")
        found = model(padded[:1], padded[1:])[-1]
        return found[0, :, :height, :width].permute(1, 2, 0).cpu().numpy()

    return flow
