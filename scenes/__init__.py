"""Scene descriptions: synthetic scenes with ground truth, and the folder layout of known clips.

``make("bend", width=320, height=180, frames=24, seed=3)`` builds a :class:`Scene`; its frames are rendered on demand.
"""

from canon.scenes.config import PRESETS, SceneConfig, preset
from canon.scenes.edits import TrueEdit
from canon.scenes.known import KNOWN_CLIPS, KnownClip, known_clip
from canon.scenes.scene import Scene

__all__ = ["KNOWN_CLIPS", "PRESETS", "KnownClip", "Scene", "SceneConfig", "TrueEdit", "known_clip", "make", "preset"]


def make(name: str = "pan", **overrides: object) -> Scene:
    """The scene of a named preset (see :data:`PRESETS`), with any field of :class:`SceneConfig` overridden.

    Raises:
        InputError: the preset or a field is not known, or a value is out of range.
    """
    return Scene(preset(name, **overrides))
