"""The layered atlas."""

from canon.representations.atlas.atlas import Atlas
from canon.representations.atlas.config import AtlasConfig

__all__ = ["Atlas", "AtlasConfig"]
