"""Diffusion models of the real classes at a tiny size with random weights: what loads and calls them can be tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from canon.editors.diffusion.mini.tokens import load_tokenizer, text_config

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

VIEW_EMBEDDED, VIEW_TOLD = 24, 32
"""Numbers that a picture's encoder gives, and that the network of a model of views is told."""
_SMALL = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}


def _tokenizer() -> Any:
    return load_tokenizer(Path("none"))


def _text(tokenizer: Any, projected: bool = False) -> Any:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    config = text_config(tokenizer, width=32, inner=37, layers=2)
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _t5(tokenizer: Any, width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    )


def _vae(channels: int = 4, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=32,
        **more,
    )


def unet(channels: int = 4, **more: Any) -> Any:
    """The denoiser of :func:`stable_diffusion`."""
    from diffusers import UNet2DConditionModel

    own = {"cross_attention_dim": 32, "attention_head_dim": 4, **more}
    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        **own,
    )


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )


def clip(folder: Path) -> Path:
    """CLIP with both towers, as a hub folder has it: model, tokenizer, and how images are prepared."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    vision = {**_SMALL, "image_size": 32, "patch_size": 8, "projection_dim": 32}
    CLIPModel(
        CLIPConfig(text_config=_text(tokenizer).config.to_dict(), vision_config=vision, projection_dim=32)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    prepared = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "resample": 3,
        **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), True),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


def stable_diffusion(folder: Path, beside: int = 0, kind: str = "StableDiffusionPipeline") -> Path:
    """Stable Diffusion 1.5, or one of its kind whose UNet sees ``beside`` channels more."""
    import diffusers

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    getattr(diffusers, kind)(
        vae=_vae(),
        text_encoder=_text(tokenizer),
        tokenizer=tokenizer,
        unet=unet(4 + beside),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def instruct_pix2pix(folder: Path) -> Path:
    """InstructPix2Pix, which sees the latents of a picture besides."""
    return stable_diffusion(folder, 4, "StableDiffusionInstructPix2PixPipeline")


def inpainting(folder: Path) -> Path:
    """Stable Diffusion for inpainting, which sees a mask and the latents of what is not masked besides."""
    return stable_diffusion(folder, 5, "StableDiffusionInpaintPipeline")


def unconditional(folder: Path) -> Path:
    """A model of pixels that takes no prompt."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder)
    return folder


def controlnet(folder: Path) -> Path:
    """A ControlNet for :func:`stable_diffusion` that is not without effect, as new ones are."""
    from diffusers import ControlNetModel

    torch.manual_seed(1)
    network = ControlNetModel.from_unet(unet(), conditioning_channels=3)
    network = ControlNetModel.from_config(
        network.config, conditioning_embedding_out_channels=(8, 16), global_pool_conditions=False
    )
    for value in network.parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.1)
    network.save_pretrained(folder)
    return folder


def stable_diffusion_xl(folder: Path) -> Path:
    """Stable Diffusion XL."""
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    network = unet(
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80,
    )
    StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_text(tokenizer),
        text_encoder_2=_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=network,
        scheduler=_ddim(),
    ).save_pretrained(folder)
    return folder


def stable_diffusion_3(folder: Path) -> Path:
    """Stable Diffusion 3."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4, shift_factor=0.0, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=_text(tokenizer, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5(tokenizer, 64),
        tokenizer_3=tokenizer,
    ).save_pretrained(folder)
    return folder


def _flux_parts(channels: int = 16) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=channels,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": _vae(4, shift_factor=0.0, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": _text(tokenizer),
        "tokenizer": tokenizer,
        "text_encoder_2": _t5(tokenizer, 32),
        "tokenizer_2": tokenizer,
        "transformer": transformer,
    }


def flux(folder: Path) -> Path:
    """FLUX.1."""
    from diffusers import FluxPipeline

    FluxPipeline(**_flux_parts()).save_pretrained(folder)
    return folder


def flux_kontext(folder: Path) -> Path:
    """FLUX.1 Kontext, which follows instructions."""
    from diffusers import FluxKontextPipeline

    FluxKontextPipeline(**_flux_parts()).save_pretrained(folder)
    return folder


def flux_fill(folder: Path) -> Path:
    """FLUX.1 Fill: its transformer sees the masked picture, and the mask's pixels, besides."""
    from diffusers import FluxFillPipeline

    FluxFillPipeline(**_flux_parts(16 + 16 + 4 * 2 * 2)).save_pretrained(folder)
    return folder


def qwen_image_edit(folder: Path) -> Path:
    """Qwen-Image-Edit, which follows instructions; its processor needs torchvision."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageTransformer2DModel,
    )
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2Tokenizer,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    own = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    shown = ["<|image_pad|>", "<|video_pad|>"]
    vocabulary = {token: k for k, token in enumerate([*sorted(ByteLevel.alphabet()), *own, *shown])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=[*own[1:], *shown])
    pixels = {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(**pixels), tokenizer, Qwen2VLVideoProcessor(**pixels), "")
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 37, "num_heads": 2, "out_hidden_size": 32}
    ids = dict(zip(("vision_start_token_id", "vision_end_token_id"), map(vocabulary.get, own[3:]), strict=True))
    ids |= dict(zip(("image_token_id", "video_token_id"), map(vocabulary.get, shown), strict=True))
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    QwenImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        ),
        tokenizer=tokenizer,
        processor=processor,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def depth_estimator(folder: Path) -> Path:
    """MiDaS as transformers has it (DPT)."""
    from transformers import DPTConfig, DPTForDepthEstimation

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        reassemble_factors=[4, 2, 1, 0.5],
        is_hybrid=False,
    )
    DPTForDepthEstimation(config).save_pretrained(folder)
    prepared = {"image_processor_type": "DPTImageProcessor", "size": {"height": 32, "width": 32}, **_PREPARED}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


def segmenter(folder: Path) -> Path:
    """Mask2Former that calls all that it finds a swan."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        id2label={0: "swan", 1: "water"},
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        encoder_layers=1,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=4,
    )
    network = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        network.class_predictor.bias[0] = 20.0
    network.save_pretrained(folder)
    prepared = {"image_processor_type": "Mask2FormerImageProcessor", "size": {"height": 64, "width": 64}, **_PREPARED}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


def segment_anything(folder: Path) -> Path:
    """SAM with one block of each kind."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        mlp_dim=16,
        window_size=2,
        global_attn_indexes=[0],
        num_pos_feats=8,
    )
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    ).save_pretrained(folder)
    prepared = {
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "size": {"longest_edge": 64},
        "pad_size": {"height": 64, "width": 64},
        "do_pad": True,
        **_PREPARED,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


_PREPARED = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), True),
}


def ip_adapter(folder: Path) -> Path:
    """An IP-Adapter for :func:`stable_diffusion`, with its image encoder beside it; the file itself is given back."""
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    vision = CLIPVisionConfig(**_SMALL, image_size=224, patch_size=56, projection_dim=24)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    weights = {
        "image_proj.proj.weight": torch.randn(4 * 32, 24),
        "image_proj.proj.bias": torch.zeros(4 * 32),
        "image_proj.norm.weight": torch.ones(32),
        "image_proj.norm.bias": torch.zeros(32),
    }
    across = [name for name in unet().attn_processors if "attn2" in name]
    for k, name in enumerate(across):
        width = 32 if "mid_block" in name or "1.attentions" in name or "up_blocks.0" in name else 16
        for part in ("to_k_ip", "to_v_ip"):
            weights[f"ip_adapter.{2 * k + 1}.{part}.weight"] = torch.randn(width, 32)
    save_file(weights, folder / "ip-adapter.safetensors")
    return folder / "ip-adapter.safetensors"


def lora(folder: Path, seed: int = 0) -> Path:
    """A LoRA for the UNet of :func:`stable_diffusion`, with an effect."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(seed)
    network = unet()
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(network))
    return folder


def zero123(folder: Path, projection: str = "clip_camera_projection", names: str = "proj") -> Path:
    """A model of views in diffusers' layout."""
    from diffusers import DDIMScheduler
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    vision = CLIPVisionConfig(**_SMALL, image_size=32, patch_size=8, projection_dim=VIEW_EMBEDDED)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    unet(8).save_pretrained(folder / "unet")
    _vae().save_pretrained(folder / "vae")
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    (folder / "feature_extractor").mkdir()
    told = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(told))
    (folder / projection).mkdir()
    weights = {
        f"{names}.weight": torch.randn(VIEW_TOLD, VIEW_EMBEDDED + 4) * 0.2,
        f"{names}.bias": torch.randn(VIEW_TOLD) * 0.1,
    }
    save_file(weights, folder / projection / "diffusion_pytorch_model.safetensors")
    return folder
