"""Score distillation: a canvas optimised so that a diffusion model finds what is seen of it likely."""
