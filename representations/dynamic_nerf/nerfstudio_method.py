"""Our background as a method of nerfstudio: ``ns-train canon-dynamic-nerf`` trains it on nerfstudio's own rays.

This is the one module that cannot be imported without nerfstudio, which finds it by its entry point. What nerfstudio
brings a scene to, cameras within -1..1, is the frame of the field; people who move are for ``canon fit``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor

from canon.representations.dynamic_nerf.fields import Frame, SceneField
from canon.representations.dynamic_nerf.rays import Rays
from canon.representations.dynamic_nerf.sizes import SIZES
from canon.representations.dynamic_nerf.world import World

NAME = "canon-dynamic-nerf"
_TRUSTED = 0.25
"""Share of the steps after which the proposal is trusted wholly."""
_RATES = {"tables": 1e-2, "networks": 5e-3}


@dataclass
class CanonModelConfig(ModelConfig):
    """A background of canon."""

    _target: type = field(default_factory=lambda: CanonModel)
    enable_collider: bool = False
    """The field is of the whole unbounded world; its own spacing says where rays begin and end."""
    preset: str = "quality"
    """How large it is: fast, balanced or quality."""
    backend: str = "auto"
    """What computes hash grids: auto, torch, triton or tiny-cuda-nn."""
    view_dependent: bool = True
    """Let colour depend on where it is seen from."""
    steps: int = 30000
    """Steps of the training, by which the sampling opens."""
    seed: int = 0
    """Of the first values and the sampling."""


class CanonModel(Model):
    """A :class:`canon.representations.dynamic_nerf.world.World` without a person, as nerfstudio asks its models."""

    config: CanonModelConfig

    def populate_modules(self) -> None:
        """See nerfstudio's ``Model``."""
        super().populate_modules()
        own = self.config
        background = SceneField(SIZES[own.preset], Frame((0, 0, 0), 1.0), own.backend, own.seed, own.view_dependent)
        self.world = World(SIZES[own.preset], background, None, None)
        self.trust = 0.0
        self._generator = torch.Generator().manual_seed(own.seed)

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Hash grids and networks, which learn at different rates."""
        groups: dict[str, list[torch.nn.Parameter]] = {name: [] for name in _RATES}
        for name, parameter in self.world.named_parameters():
            groups["tables" if name.endswith("table") else "networks"].append(parameter)
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Trust in the proposal grows with the steps."""

        def opened(step: int) -> None:
            self.trust = min(step / (_TRUSTED * self.config.steps), 1.0)

        where = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        return [TrainingCallback(where_to_run=where, update_every_num_iters=1, func=opened)]

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """``rgb`` [..., 3], ``depth`` and ``accumulation`` [..., 1] of rays [...]."""
        shape = ray_bundle.origins.shape[:-1]
        rays = Rays(ray_bundle.origins.reshape(-1, 3), ray_bundle.directions.reshape(-1, 3))
        if self.training:
            seen = self.world(rays, None, self._generator, trust=self.trust)
        else:
            seen = self.world(rays, None)
        # The last sample of a ray is as far as anything, so that all rays end somewhere.
        found = {"rgb": seen.rgb, "depth": seen.depth[:, None], "accumulation": torch.ones_like(seen.depth[:, None])}
        outputs = {name: value.reshape(*shape, value.shape[-1]) for name, value in found.items()}
        return {**outputs, "sampling_loss": seen.loss} if self.training else outputs

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """``psnr`` in dB."""
        error = F.mse_loss(outputs["rgb"].detach(), batch["image"].to(self.device)[..., :3])
        return {"psnr": -10 * torch.log10(error)}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Mean squared error of the colours, and what the sampling asks for."""
        losses = {"rgb_loss": F.mse_loss(outputs["rgb"], batch["image"].to(self.device)[..., :3])}
        return {**losses, "sampling_loss": outputs["sampling_loss"]} if "sampling_loss" in outputs else losses

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR of a picture [H, W, 3]; the truth beside the rendering; and depth, near is bright."""
        truth = batch["image"].to(self.device)[..., :3]
        psnr = float(-10 * torch.log10(F.mse_loss(outputs["rgb"], truth)))
        near = 1 / (1 + outputs["depth"])
        return {"psnr": psnr}, {"img": torch.cat([truth, outputs["rgb"]], dim=1), "depth": near.expand_as(truth)}


def __getattr__(name: str) -> Any:
    """``method``, the specification: made when it is asked for, as the trainer that it names imports far more."""
    if name != "method":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return _specification()


def _specification() -> Any:
    from nerfstudio.configs.base_config import ViewerConfig
    from nerfstudio.data.datamanagers.parallel_datamanager import ParallelDataManagerConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.engine.optimizers import AdamOptimizerConfig
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
    from nerfstudio.engine.trainer import TrainerConfig
    from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
    from nerfstudio.plugins.types import MethodSpecification

    model = CanonModelConfig(eval_num_rays_per_chunk=1 << 14)
    rays = SIZES[model.preset].rays
    data = ParallelDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=rays, eval_num_rays_per_batch=rays
    )
    optimizers = {
        name: {
            "optimizer": AdamOptimizerConfig(lr=rate, eps=1e-12),
            "scheduler": ExponentialDecaySchedulerConfig(lr_final=0.05 * rate, max_steps=model.steps),
        }
        for name, rate in _RATES.items()
    }
    config = TrainerConfig(
        method_name=NAME,
        max_num_iterations=model.steps,
        steps_per_eval_batch=500,
        steps_per_save=2000,
        pipeline=VanillaPipelineConfig(datamanager=data, model=model),
        optimizers=optimizers,
        viewer=ViewerConfig(num_rays_per_chunk=1 << 14),
        vis="viewer",
    )
    return MethodSpecification(config=config, description="The background field of canon's dynamic-nerf.")
