"""Nerfstudio's own field as the background: what Nerfacto (Tancik et al., SIGGRAPH 2023) has in the place of ours.

It fills the same contracted world and is asked the same questions as
:class:`canon.representations.dynamic_nerf.fields.SceneField`. Nerfstudio is imported only when such a field is made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from canon.errors import InputError, first_line
from canon.representations.dynamic_nerf.fields import Frame
from canon.representations.dynamic_nerf.sizes import Sizes

_PROPOSED = 5
_PROPOSED_FINEST = 128
"""Levels of the proposal's table, and how fine the last one is: Nerfacto's first proposal network."""
_THIN = 0.01
"""Density before anything is learned, of the contracted world: so that the light of the first steps comes from afar."""


class _InFrame(nn.Module):
    """One of nerfstudio's fields, asked about places of the world."""

    def __init__(self, field: nn.Module, frame: Frame) -> None:
        super().__init__()
        self.field, self.frame = field, frame

    def samples(self, points: Tensor, directions: Tensor | None = None):  # type: ignore[no-untyped-def]
        """Places [N, 3] as samples of rays that are no longer than a point, in the frame's units."""
        from nerfstudio.cameras.rays import Frustums, RaySamples

        moved = (points - points.new_tensor(self.frame.centre)) * self.frame.scale
        none = torch.zeros_like(moved[:, :1])
        ways = torch.zeros_like(moved) if directions is None else directions
        frustums = Frustums(origins=moved, directions=ways, starts=none, ends=none, pixel_area=none)
        return RaySamples(frustums=frustums, camera_indices=torch.zeros_like(none, dtype=torch.int64))

    def density(self, points: Tensor) -> Tensor:
        """[..., 3] -> [...], per metre."""
        found, _ = self.field.get_density(self.samples(points.reshape(-1, 3)))  # type: ignore[operator]
        return self._per_metre(found).reshape(points.shape[:-1])

    def _per_metre(self, density: Tensor) -> Tensor:
        return density[..., 0] * self.frame.scale


class NerfactoBackground(_InFrame):
    """The background as Nerfacto has it: density, and colour that depends on the direction.

    Its embedding of each picture's own exposure is left out: what is rendered must be one world for all frames.
    """

    view_dependent = True

    def __init__(self, field: nn.Module, proposal: nn.Module, frame: Frame) -> None:
        """Take nerfstudio's ``NerfactoField`` and ``HashMLPDensityField``; see :func:`nerfacto_background`."""
        super().__init__(field, frame)
        self.proposal = _InFrame(proposal, frame)

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density [...] per metre and colour [..., 3] of places [..., 3] seen in directions [..., 3] of length 1."""
        from nerfstudio.field_components.field_heads import FieldHeadNames

        shape = points.shape[:-1]
        samples = self.samples(points.reshape(-1, 3), directions.expand(points.shape).reshape(-1, 3))
        density, embedding = self.field.get_density(samples)  # type: ignore[operator]
        colour = self.field.get_outputs(samples, density_embedding=embedding)[FieldHeadNames.RGB]  # type: ignore[operator]
        return self._per_metre(density).reshape(shape), colour.reshape(points.shape)


def nerfacto_background(sizes: Sizes, frame: Frame, seed: int, implementation: str = "torch") -> NerfactoBackground:
    """A background of nerfstudio that knows nothing yet.

    Args:
        sizes: of its hash grid and networks.
        frame: what part of the world it fills.
        seed: of its first values; those of PyTorch's own generator stay as they are.
        implementation: "torch", which works anywhere, or "tcnn" with tiny-cuda-nn; weights of one do not fit the other.

    Raises:
        InputError: nerfstudio is not installed, or cannot be imported.
    """
    try:
        from nerfstudio.field_components.spatial_distortions import SceneContraction
        from nerfstudio.fields.density_fields import HashMLPDensityField
        from nerfstudio.fields.nerfacto_field import NerfactoField
    except ImportError as error:
        raise InputError(
            f"The background 'nerfacto' needs nerfstudio, which cannot be imported here ({first_line(error)}); run: "
            "pip install nerfstudio, or take the background 'hashgrid'."
        ) from error
    cube = torch.tensor([[-1.0] * 3, [1.0] * 3])  # of no say where space is contracted
    common = {"spatial_distortion": SceneContraction(order=float("inf")), "implementation": implementation}
    common |= {"average_init_density": _THIN, "base_res": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        field = NerfactoField(
            cube,
            num_images=1,
            hidden_dim=sizes.width,
            hidden_dim_color=sizes.width,
            num_levels=sizes.levels,
            max_res=sizes.finest,
            log2_hashmap_size=sizes.log2_size,
            appearance_embedding_dim=0,
            **common,
        )
        proposal = HashMLPDensityField(
            cube,
            hidden_dim=16,
            num_levels=_PROPOSED,
            max_res=_PROPOSED_FINEST,
            log2_hashmap_size=min(sizes.log2_size, 17),
            **common,
        )
    return NerfactoBackground(field, proposal, frame)
