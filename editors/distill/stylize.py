"""A layer in the style of a picture, by nearest-neighbour feature matching (NNFM; Zhang et al., ARF, ECCV 2022)."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import MINI
from canon.editors.distill.editor import DistillConfig
from canon.errors import InputError

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit
    from canon.registry import Frames

OPTIONS = (
    *("image", "layer", "steps", "rate", "content", "colours", "scale", "smooth", "vgg", "model"),
    *("views", "view", "frames", "frame_views", "size", "mask", "feather", "segment", "seed"),
)
"""What a result depends on."""
_OTHERS = ("device", "checkpoints")


@dataclass
class StylizeConfig(DistillConfig):
    """Give a layer, by default the background, the style of a picture: its strokes and colours, by matched features."""

    image: str = ""
    """Picture whose style is taken over."""
    layer: str | None = None
    """Layer to edit; none takes the last one, the background."""
    content: float = 0.03
    """Weight of the layer's own features: how much of what it shows stays readable; 0.4 changes hardly more than the
    colours."""
    colours: bool = True
    """Take over the picture's colours, too; if not, the layer keeps its own palette."""
    scale: float | None = None
    """Texels, of what is worked on, that a pixel of the picture takes: 2 makes its strokes twice as large; none = the
    picture's longer side is half as long as the canvas's, as in ARF."""
    vgg: str = ""
    """VGG-16 by whose features styles are compared, as ARF does: a .safetensors file with torchvision's names; none =
    those of canon-mini's denoiser, which follow strokes and hatching and know no things."""
    model: str = MINI
    """A diffusers model, hub id or folder, whose autoencoder's features are compared in their place."""
    steps: int = 100
    """Steps of optimisation."""
    rate: float = 0.04
    """How far a step goes, in shares of the range of colours."""
    view: int = 192
    """Pixels along a side of a view."""
    size: int = 512
    """Pixels along a side of what is worked on, as a square of the same area, at most; smaller canvases keep theirs."""
    smooth: float = 0.2
    """Weight of the total variation of the picture."""

    needs_prompt: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.image:
            raise InputError("A picture is needed: say with --image whose style the layer is to take.")
        for field in fields(self):
            given = field.default is not MISSING and getattr(self, field.name) != field.default
            if given and field.name not in OPTIONS and field.name not in _OTHERS:
                name = field.name.replace("_", "-")
                raise InputError(f"The option --{name} means nothing to a style that a picture gives; leave it out.")
        super().__post_init__()
        if self.vgg and self.model != MINI:
            raise InputError("Styles are compared by one network; give --vgg or --model.")
        if self.content < 0:
            raise InputError(f"The weight {self.content:g} of the content is out of range; choose at least 0.")
        if self.scale is not None and not 0 < self.scale <= 32:
            raise InputError(f"The scale {self.scale:g} is out of range; choose above 0, up to 32.")
        if min(self.view, self.size) < 1:
            raise InputError("The sizes of a view and of what is worked on must be at least 1.")

    @property
    def features(self) -> str:
        """What styles are compared by."""
        if self.vgg:
            return f"VGG-16 of {self.vgg}, relu3_1 to relu3_3"
        return "canon-mini's denoiser" if self.model == MINI else f"the autoencoder of {self.model}"


class Stylize(DiffusionEditor):
    """Gives a layer the style of a picture; see :class:`StylizeConfig`."""

    Config = StylizeConfig
    name = "stylize"
    painter = "StylePainter"

    def edited(self, fit: Fit, config: StylizeConfig) -> Edit:
        """See :meth:`DiffusionEditor.edited`."""
        from canon.editors.distill import styling

        return styling.stylize(fit, _placed(fit, config))

    def framewise(self, fit: Fit, config: StylizeConfig) -> Frames:
        """Every frame in the style by itself, which takes as many runs as there are frames; see the base class."""
        from canon.editors.distill import styling

        return styling.StyledFrames(fit, _placed(fit, config), styling.StylePainter)


def _placed(fit: Fit, config: StylizeConfig) -> StylizeConfig:
    """The options with the layer that they mean."""
    return replace(config, layer=fit.layer(config.layer or fit.layers[-1]).name)


def provenance_options(config: StylizeConfig) -> dict[str, Any]:
    """What an edit says of how it was made."""
    own = asdict(config)
    return {**{name: own[name] for name in OPTIONS}, "features": config.features}
