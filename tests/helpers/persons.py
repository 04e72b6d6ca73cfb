"""Fits of a synthetic person that take seconds."""

from __future__ import annotations

import canon
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.scenes.human import HumanScene, HumanSceneConfig

STEPS = {"scene_steps": 5, "human_steps": 3, "joint_steps": 2}


def small_person(frames: int = 3, size: tuple[int, int] = (64, 52), orbit: float = 40.0) -> HumanScene:
    """A person who walks, in frames of ``size`` (height, width)."""
    return HumanScene(HumanSceneConfig(width=size[1], height=size[0], frames=frames, orbit=orbit))


def rough_fit(scene: HumanScene) -> NerfFit:
    """After very few steps colours are wrong, but the person has the shape of the body, which is the true one."""
    found = canon.fit(scene.clip(), "dynamic-nerf", preset="fast", device="cpu", **STEPS)
    assert isinstance(found, NerfFit)
    return found
