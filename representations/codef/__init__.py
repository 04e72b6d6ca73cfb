"""CoDeF: a canonical image and a temporal deformation field for every mask group."""

from canon.representations.codef.codef import Codef
from canon.representations.codef.config import CodefConfig

__all__ = ["Codef", "CodefConfig"]
