"""Training of canon-mini from scratch, in stages that can be stopped and go on: ``python -m`` this module ``--help``.

The result is an ordinary Stable Diffusion folder. Pictures are drawn as they are needed; nothing is downloaded. The
stages are ``vae``, ``base``, ``controlnet`` and ``instruct``, in this order; ``pack`` then writes all of it, in half
precision, where the package keeps its model. To improve what the package has, begin with a copy of that folder.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from canon.editors.diffusion.annotators import canny
from canon.editors.diffusion.mini.heads import (
    has_instructions,
    instructed_unet,
    load_part,
    mini_weights,
    save_instructed,
)
from canon.editors.diffusion.mini.pictures import draw, draw_leaves, draw_lit, draw_made_over
from canon.editors.diffusion.mini.tokens import load_tokenizer, text_config, tokenized
from canon.editors.diffusion.mini.vocabulary import Picture, instruction, random_look, random_picture
from canon.runtime import cores, map_frames, tune_allocator
from canon.storage import write_bytes

SIZE = 64
"""Pixels along a side of what it is trained on."""
_LATENTS = 4
_DROPPED = 0.1
"""Share of captions left out, so that guidance has something to compare with."""
_DECAY = 0.999
_CHUNK = 1024
"""Pictures drawn and encoded at a time."""
_STATE = "training"
_PACK = "pack"


def main() -> None:
    """Train a stage for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=(*_STAGES, _PACK))
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; one that is there is improved")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate at its highest")
    parser.add_argument("--steps", type=int, default=20_000, help="at which the learning rate has sunk to its lowest")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=_fast_bfloat16())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", type=Path, default=mini_weights(), help="where pack writes to")
    options = parser.parse_args()
    if options.stage == _PACK:
        pack(options.out, options.into)
        return
    torch.set_num_threads(cores())
    tune_allocator()
    _STAGES[options.stage](options).run()


class Stage(ABC):
    """Networks that are trained together: their steps, their state on disk, and the curve of their loss."""

    name: str

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder, self.device = options, Path(options.out), torch.device(options.device)
        self.networks = {name: network.to(self.device) for name, network in self.build().items()}
        self.parameters = {
            f"{name}.{key}": value
            for name, net in self.networks.items()
            for key, value in net.named_parameters()
            if value.requires_grad
        }
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=options.rate, weight_decay=1e-3)
        self.averages = {key: value.detach().clone() for key, value in self.parameters.items()}
        self.step, self.seconds, self.curve = 0, 0.0, list[list[float]]()
        self._resume()

    @abstractmethod
    def build(self) -> dict[str, nn.Module]:
        """The networks by name, as they are on disk or new."""

    @abstractmethod
    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch."""

    @abstractmethod
    def save_model(self) -> None:
        """Write the networks, with averaged weights, where diffusers finds them."""

    def run(self) -> None:
        """Train until the time is up, saving every few minutes."""
        options, begin, saved = self.options, time.perf_counter(), time.perf_counter()
        before, recent = self.seconds, []
        while time.perf_counter() - begin < 60 * options.minutes:
            for group in self.optimizer.param_groups:
                group["lr"] = options.rate * self._schedule()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=options.bfloat16):
                loss = self.loss(np.random.default_rng([options.seed, self.step]))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
            self.optimizer.step()
            decay = min(_DECAY, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.averages.values()), list(self.parameters.values()), 1 - decay)
            self.step, self.seconds = self.step + 1, before + time.perf_counter() - begin
            recent.append(float(loss.detach()))
            if self.step % 50 == 0:
                self.curve.append([self.step, round(self.seconds, 1), float(np.mean(recent))])
                print(f"{self.name} step {self.step}  {self.seconds:.0f} s  loss {np.mean(recent):.4f}", flush=True)
                recent = []
            if time.perf_counter() - saved > 180:
                self.save()
                saved = time.perf_counter()
        self.save()

    def _schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / 200)
        return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(self.step / self.options.steps, 1.0))))

    def save(self) -> None:
        """Write the model, and what the next run goes on from."""
        own = {key: value.detach().clone() for key, value in self.parameters.items()}
        with torch.no_grad():
            for key, value in self.parameters.items():
                value.copy_(self.averages[key])
            self.save_model()
            for key, value in self.parameters.items():
                value.copy_(own[key])
        tensors = {f"now/{key}": value for key, value in own.items()}
        tensors |= {f"average/{key}": value for key, value in self.averages.items()}
        for key, value in self.parameters.items():
            state = self.optimizer.state.get(value, {})
            tensors |= {f"{k}/{key}": state[k] for k in ("exp_avg", "exp_avg_sq") if k in state}
        folder = self.folder / _STATE
        folder.mkdir(parents=True, exist_ok=True)
        contiguous = {key: value.contiguous().cpu() for key, value in tensors.items()}
        new = folder / f"{self.name}.new.safetensors"
        save_file(contiguous, new, {"step": str(self.step), "seconds": str(self.seconds)})
        new.replace(folder / f"{self.name}.safetensors")
        write_bytes(folder / f"{self.name}-curve.json", json.dumps(self.curve).encode())

    def _resume(self) -> None:
        path = self.folder / _STATE / f"{self.name}.safetensors"
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file, torch.no_grad():
            metadata, there = file.metadata(), set(file.keys())
            for key, value in self.parameters.items():
                value.copy_(file.get_tensor(f"now/{key}"))
                self.averages[key].copy_(file.get_tensor(f"average/{key}"))
                if f"exp_avg/{key}" in there:
                    moments = {k: file.get_tensor(f"{k}/{key}").to(self.device) for k in ("exp_avg", "exp_avg_sq")}
                    self.optimizer.state[value] = {"step": torch.tensor(float(metadata["step"])), **moments}
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self.curve = json.loads((self.folder / _STATE / f"{self.name}-curve.json").read_text())


def _fast_bfloat16() -> bool:
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def drawn(count: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Random pictures: captions, and float32 [count, SIZE, SIZE, 3] in 0..1."""

    def one(own: np.random.Generator) -> tuple[str, np.ndarray]:
        picture: Picture = random_picture(own)
        return picture.caption, draw(picture, SIZE, own)

    captions, images = zip(*each(one, count, rng), strict=True)
    return list(captions), np.stack(images)


def to_latent_range(images: np.ndarray, device: torch.device) -> Tensor:
    """Pictures [N, h, w, 3] in 0..1 -> [N, 3, h, w] in -1..1."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous() * 2 - 1


class VaeStage(Stage):
    """The autoencoder: pictures at a quarter of the size, four channels."""

    name = "vae"

    def build(self) -> dict[str, nn.Module]:
        """See :meth:`Stage.build`."""
        from diffusers import AutoencoderKL

        path = self.folder / "vae"
        if path.exists():
            return {"vae": load_part("AutoencoderKL", path)}
        return {
            "vae": AutoencoderKL(
                block_out_channels=(32, 64, 96),
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                layers_per_block=1,
                latent_channels=_LATENTS,
                norm_num_groups=16,
                sample_size=SIZE,
                mid_block_add_attention=False,
            )
        }

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Differences of colours and of their gradients, and a little of the divergence from a normal distribution."""
        count = self.options.batch // 2
        scenes = each(lambda own: draw_leaves(SIZE, own), self.options.batch - count, rng)
        x = to_latent_range(np.concatenate([drawn(count, rng)[1], np.stack(scenes)]), self.device)
        vae: Any = self.networks["vae"]
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample.float()
        edges = sum(
            F.l1_loss(torch.diff(F.avg_pool2d(y, s), dim=d), torch.diff(F.avg_pool2d(x, s), dim=d))
            for s in (1, 2)
            for d in (2, 3)
        )
        return F.l1_loss(y, x) + F.mse_loss(y, x) + 0.5 * edges + 1e-5 * posterior.kl().mean() / (_LATENTS * 256)

    def save_model(self) -> None:
        """See :meth:`Stage.save_model`; scaled so that latents have unit variance."""
        vae: Any = self.networks["vae"]
        _, images = drawn(128, np.random.default_rng([1, self.options.seed]))
        x = to_latent_range(images, self.device)
        vae.register_to_config(scaling_factor=float(1 / vae.encode(x).latent_dist.mean.std()))
        vae.save_pretrained(self.folder / "vae")


class DenoisingStage(Stage):
    """Networks that take noise from latents; what the pictures are and what is known of them, the stages say."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.vae = load_part("AutoencoderKL", Path(options.out) / "vae").to(options.device).requires_grad_(False)
        self.tokenizer = load_tokenizer(Path(options.out) / "tokenizer")
        self.scheduler = make_scheduler()
        self.alphas = self.scheduler.alphas_cumprod.to(options.device)
        super().__init__(options)
        self._pool: tuple[Tensor, ...] = ()
        self._batches: Iterator[tuple[Tensor, ...]] = iter(())

    @abstractmethod
    def drawn(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """A chunk to learn from: latents and tokens [N, LONGEST], and what is known besides."""

    @abstractmethod
    def denoised(self, noisy: Tensor, t: Tensor, tokens: Tensor, known: Sequence[Tensor]) -> Tensor:
        """The velocity that the networks find."""

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of the velocity, weighted so that no noise level drowns the others (min-SNR; Hang et al., ICCV 2023)."""
        latents, tokens, *known = self._next(rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        t = torch.randint(0, len(self.alphas), (len(latents),), generator=generator).to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        noisy = self.scheduler.add_noise(latents, noise, t)
        velocity = self.scheduler.get_velocity(latents, noise, t)
        found = self.denoised(noisy, t, tokens, known)
        snr = self.alphas[t] / (1 - self.alphas[t]).clamp_min(1e-6)
        weight = snr.clamp_max(5.0) / (snr + 1) + 0.05
        return ((found.float() - velocity).square().mean(dim=(1, 2, 3)) * weight).mean() / weight.mean()

    def _next(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        batch = next(self._batches, None)
        if batch is None:
            self._refill(rng)
            batch = next(self._batches)
        return batch

    @torch.no_grad()
    def _refill(self, rng: np.random.Generator) -> None:
        """Draw and encode a chunk more, and go over some of all that was kept once."""
        fresh = self.drawn(rng)
        if self._pool:
            fresh = tuple(torch.cat(pair)[: 16 * _CHUNK] for pair in zip(fresh, self._pool, strict=True))
        self._pool = fresh
        order = torch.from_numpy(rng.permutation(len(fresh[0])))[: 4 * _CHUNK].to(self.device)
        self._batches = zip(*(part[order].split(self.options.batch) for part in fresh), strict=True)

    def encoded(self, images: np.ndarray, scaled: bool = True) -> Tensor:
        """Latents of pictures [N, SIZE, SIZE, 3] in 0..1."""
        parts = (images[k : k + 64] for k in range(0, len(images), 64))
        latents = [self.vae.encode(to_latent_range(part, self.device)).latent_dist.mean for part in parts]
        found = torch.cat(latents).float()
        return found * self.vae.config.scaling_factor if scaled else found

    def tokens(self, captions: list[str], rng: np.random.Generator) -> Tensor:
        """Of captions, some of which are left out."""
        kept = [caption if rng.random() >= _DROPPED else "" for caption in captions]
        return tokenized(self.tokenizer, kept).to(self.device)


class BaseStage(DenoisingStage):
    """The text encoder and the denoiser, together."""

    name = "base"

    def build(self) -> dict[str, nn.Module]:
        """See :meth:`Stage.build`."""
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel

        torch.manual_seed(self.options.seed)
        if (self.folder / "unet").exists():
            return {
                "unet": load_part("UNet2DConditionModel", self.folder / "unet"),
                "text_encoder": load_part("CLIPTextModel", self.folder / "text_encoder"),
            }
        text = text_config(self.tokenizer, width=128, inner=384, layers=3)
        unet = UNet2DConditionModel(
            sample_size=SIZE // 4,
            in_channels=_LATENTS,
            out_channels=_LATENTS,
            block_out_channels=(64, 96, 128),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=128,
            attention_head_dim=(2, 3, 4),
            norm_num_groups=16,
            only_cross_attention=True,  # no texel looks at all others: any size of canvas costs what its area does
        )
        return {"unet": unet, "text_encoder": CLIPTextModel(text)}

    def drawn(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """See :meth:`DenoisingStage.drawn`."""
        captions, images = drawn(_CHUNK, rng)
        return self.encoded(images), self.tokens(captions, rng)

    def denoised(self, noisy: Tensor, t: Tensor, tokens: Tensor, known: Sequence[Tensor]) -> Tensor:
        """See :meth:`DenoisingStage.denoised`."""
        return self.networks["unet"](noisy, t, self.networks["text_encoder"](tokens)[0]).sample  # type: ignore[no-any-return]

    def save_model(self) -> None:
        """See :meth:`Stage.save_model`."""
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.networks["text_encoder"],
            tokenizer=self.tokenizer,
            unet=self.networks["unet"],
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(self.folder)


class HeadStage(DenoisingStage):
    """Something learned on top of the base, which stays as it is."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder = Path(options.out)
        self.text = load_part("CLIPTextModel", folder / "text_encoder").to(options.device).requires_grad_(False)
        self.base = load_part("UNet2DConditionModel", folder / "unet").to(options.device).requires_grad_(False)
        super().__init__(options)


class ControlStage(HeadStage):
    """A ControlNet for canny edges (Zhang et al., ICCV 2023)."""

    name = "controlnet"

    def build(self) -> dict[str, nn.Module]:
        """See :meth:`Stage.build`."""
        from diffusers import ControlNetModel

        torch.manual_seed(self.options.seed)
        path = self.folder / "controlnet"
        if path.exists():
            return {"controlnet": load_part("ControlNetModel", path)}
        # Edges are brought down to the latents' size, a quarter, in two steps.
        own = ControlNetModel.from_unet(self.base, conditioning_embedding_out_channels=(16, 32, 64))
        return {"controlnet": own.requires_grad_(True)}

    def drawn(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """See :meth:`DenoisingStage.drawn`: pictures and their edges, or surfaces in the light of a scene and its."""
        pairs = each(_with_edges, _CHUNK, rng)
        captions, images, edges = ([pair[k] for pair in pairs] for k in range(3))
        shown = torch.from_numpy(np.stack(edges))[:, None].to(self.device)
        return self.encoded(np.stack(images)), self.tokens(captions, rng), shown

    def denoised(self, noisy: Tensor, t: Tensor, tokens: Tensor, known: Sequence[Tensor]) -> Tensor:
        """See :meth:`DenoisingStage.denoised`."""
        context = self.text(tokens)[0]
        edges = known[0].expand(-1, 3, -1, -1)
        down, middle = self.networks["controlnet"](noisy, t, context, controlnet_cond=edges, return_dict=False)
        return self.base(  # type: ignore[no-any-return]
            noisy, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample

    def save_model(self) -> None:
        """See :meth:`Stage.save_model`."""
        self.networks["controlnet"].save_pretrained(self.folder / "controlnet")  # type: ignore[operator]


class InstructStage(HeadStage):
    """The base as one that follows instructions about a picture that it sees (Brooks et al., CVPR 2023)."""

    name = "instruct"

    def build(self) -> dict[str, nn.Module]:
        """See :meth:`Stage.build`."""
        torch.manual_seed(self.options.seed)
        return {"unet": instructed_unet(self.base, self.folder / "instruct", trained=True)}

    def drawn(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """See :meth:`DenoisingStage.drawn`: pictures made over, and what they were before; some are not shown."""
        pairs = each(_made_over, _CHUNK, rng)
        captions, before, after = ([pair[k] for pair in pairs] for k in range(3))
        shown = self.encoded(np.stack(before), scaled=False)
        shown = shown * torch.from_numpy(rng.random(len(shown)) >= _DROPPED).to(shown)[:, None, None, None]
        return self.encoded(np.stack(after)), self.tokens(captions, rng), shown

    def denoised(self, noisy: Tensor, t: Tensor, tokens: Tensor, known: Sequence[Tensor]) -> Tensor:
        """See :meth:`DenoisingStage.denoised`."""
        return self.networks["unet"](torch.cat([noisy, known[0]], dim=1), t, self.text(tokens)[0]).sample  # type: ignore[no-any-return]

    def save_model(self) -> None:
        """See :meth:`Stage.save_model`."""
        save_instructed(self.networks["unet"], self.folder / "instruct")


_STAGES: dict[str, type[Stage]] = {stage.name: stage for stage in (VaeStage, BaseStage, ControlStage, InstructStage)}


def pack(folder: Path, into: Path) -> None:
    """Write a model, and what was learned on top of it, in half precision."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(
        folder, dtype=torch.float16, local_files_only=True, use_safetensors=True
    )
    pipeline.save_pretrained(into)
    if (folder / "controlnet").exists():
        load_part("ControlNetModel", folder / "controlnet", torch.float16).save_pretrained(into / "controlnet")
    if has_instructions(folder):
        unet = instructed_unet(load_part("UNet2DConditionModel", folder / "unet"), folder / "instruct", trained=True)
        save_instructed(unet, into / "instruct", torch.float16)
    for file in into.rglob("*.safetensors"):
        file.chmod(0o644)
    # transformers would compute in the precision of the file, and the other networks in single.
    settings = into / "text_encoder" / "config.json"
    write_bytes(
        settings, (json.dumps({**json.loads(settings.read_text()), "dtype": "float32"}, indent=2) + "\n").encode()
    )


def each(make: Callable[[np.random.Generator], Any], count: int, rng: np.random.Generator) -> list[Any]:
    """``make`` called so many times, each with a generator of its own."""
    return list(map_frames(lambda seed: make(np.random.default_rng(seed)), rng.integers(0, 2**62, count).tolist()))


def _with_edges(rng: np.random.Generator) -> tuple[str, np.ndarray, np.ndarray]:
    """A caption, a picture, and the edges that a ControlNet is shown of it."""
    picture = random_picture(rng)
    if picture.shape is None and rng.random() < 0.7:
        scene = draw_leaves(SIZE, rng)
        return picture.caption, draw_lit(picture.look, scene, rng), canny(scene)
    image = draw(picture, SIZE, rng)
    return picture.caption, image, canny(image)


def _made_over(rng: np.random.Generator) -> tuple[str, np.ndarray, np.ndarray]:
    """An instruction, a picture, and what it is to become."""
    words, look = random_look(rng)
    if rng.random() < 0.65:
        scene = draw_leaves(SIZE, rng) if rng.random() < 0.7 else draw(random_picture(rng), SIZE, rng)
        return instruction(words, rng), scene, draw_lit(look, scene, rng)
    while (picture := random_picture(rng)).shape is None:
        pass
    before, after = draw_made_over(picture, look, SIZE, rng)
    return instruction(words, rng, str(picture.shape)), before, after


def make_scheduler() -> Any:
    """DDIM on velocities whose last step is pure noise, so that black and white come out as such (Lin et al., 2024)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
    )


if __name__ == "__main__":
    main()
