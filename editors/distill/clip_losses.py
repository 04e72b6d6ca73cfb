"""Text2LIVE's losses by CLIP (Bar-Tal et al., ECCV 2022, section 3.1), of differentiable pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from canon.perceptual import ClipEncoder


@dataclass(frozen=True)
class Texts:
    """What the edited picture shows, what the edit layer shows alone, and what the source shows (or "")."""

    target: str
    screen: str
    source: str = ""


class ClipLosses(ClipEncoder):
    """CLIP as a judge of pictures [N, 3, h, w] in 0..1; every loss is a mean over them."""

    def __init__(self, model: str, texts: Texts, device: torch.device) -> None:
        """Load a CLIP model; see :class:`canon.perceptual.ClipEncoder`.

        Raises:
            InputError: it is not on this machine, or none.
        """
        super().__init__(model)
        self.device = device
        self.target = self._text(texts.target)
        self.over_screen = self._text(f"{texts.screen} over a green screen")
        self.of_source = self._text(texts.source) if texts.source else None
        self._model.to(device).requires_grad_(False)

    def composite(self, made: Tensor, shown: Tensor) -> Tensor:
        """Cosine distance of pictures and the text; and, with a source text, of the way from the one to the other."""
        found = self._embedded(made)
        loss = (1 - F.cosine_similarity(found, self.target)).mean()
        if self.of_source is None:
            return loss
        way, told = found - self._embedded(shown), self.target - self.of_source
        return loss + (1 - F.cosine_similarity(way, told)).mean()

    def screen(self, over_green: Tensor) -> Tensor:
        """Cosine distance of the edit layer over green and what is said of that."""
        return (1 - F.cosine_similarity(self._embedded(over_green), self.over_screen)).mean()

    def structure(self, made: Tensor, shown: Tensor) -> Tensor:
        """Difference of the self-similarities of the tokens of both pictures: mean square of the matrices."""
        return (self._alike(made) - self._alike(shown)).square().mean()

    def _text(self, text: str) -> Tensor:
        return torch.from_numpy(self.text(text))[None].to(self.device)

    def _embedded(self, pictures: Tensor) -> Tensor:
        pooled = self._model.vision_model(pixel_values=self._prepared(pictures)).pooler_output
        return self._model.visual_projection(pooled)  # type: ignore[no-any-return]

    def _alike(self, pictures: Tensor) -> Tensor:
        tokens = self._model.vision_model(pixel_values=self._prepared(pictures)).last_hidden_state[:, 1:]
        unit = F.normalize(tokens, dim=-1)
        return unit @ unit.transpose(1, 2)

    def _prepared(self, pictures: Tensor) -> Tensor:
        side = self._model.config.vision_config.image_size
        sized = F.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        mean, spread = (
            torch.tensor(values, device=sized.device)[None, :, None, None]
            for values in (self._processor.image_mean, self._processor.image_std)
        )
        return (sized - mean) / spread
