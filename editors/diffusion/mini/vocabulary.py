"""What canon-mini knows: colours, patterns and materials, shapes, and how people ask for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 32, 38),
    "orange": (240, 128, 28),
    "yellow": (247, 215, 45),
    "green": (46, 150, 62),
    "turquoise": (46, 190, 186),
    "blue": (38, 84, 205),
    "purple": (126, 52, 168),
    "pink": (242, 138, 180),
    "brown": (116, 72, 40),
    "beige": (222, 202, 164),
    "grey": (128, 128, 128),
    "black": (24, 24, 26),
    "white": (243, 243, 240),
}
"""Name -> sRGB in the middle of what goes by it."""

OTHER_NAMES = {"gray": "grey", "cyan": "turquoise", "teal": "turquoise", "violet": "purple", "magenta": "pink"}
"""Other words for the same colours."""

TWO_COLOURED = ("stripes", "dots", "checks", "zigzag")
"""Patterns of one colour on another."""

MATERIALS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "brick": ("red", ("bricks", "a brick wall"), True),
    "wood": ("brown", ("wooden planks", "wooden"), True),
    "marble": ("white", ("polished marble",), True),
    "grass": ("green", ("a lawn", "grassy"), True),
    "sand": ("beige", ("sandy", "desert sand"), True),
    "water": ("blue", ("rippling water", "the sea"), True),
    "gold": ("yellow", ("golden", "shiny gold", "metallic gold"), False),
    "silver": ("grey", ("shiny silver", "metallic silver", "chrome"), False),
    "fabric": ("grey", ("woven cloth", "knitted wool"), True),
    "snow": ("white", ("snowy", "fresh snow"), False),
    "stone": ("grey", ("cobblestones", "rock"), True),
    "clouds": ("blue", ("a cloudy sky",), False),
    "fire": ("orange", ("flames", "lava"), False),
    "leaves": ("green", ("foliage",), True),
    "fur": ("brown", ("furry", "soft fur"), True),
}
"""Name -> its usual colour, other ways to say it, and whether it comes in other colours."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
PATTERNS = ("plain", *TWO_COLOURED, *MATERIALS)
_TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "{} texture",
    "{} pattern",
    "a photo of {}",
    "made of {}",
    "covered in {}",
    "{} surface",
)


@dataclass(frozen=True)
class Look:
    """What a surface looks like: a pattern, and one or two colours by name."""

    pattern: str
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """What a picture shows, and the caption that says so.

    Attributes:
        look: of the surface, or of the object.
        shape: of the object, or None.
        ground: what the object lies on.
    """

    caption: str
    look: Look
    shape: str | None = None
    ground: Look | None = None


def random_picture(rng: np.random.Generator) -> Picture:
    """A surface (three in four) or an object on a plain or patterned ground, with a caption."""
    words, look = random_look(rng)
    if rng.random() < 0.75:
        return Picture(str(rng.choice(_TEMPLATES)).format(words), look)
    shape = str(rng.choice(SHAPES))
    while True:
        behind, ground = random_look(rng, simple=rng.random() < 0.6)
        if ground.colours[0] not in look.colours:
            break
    words, look = random_look(rng, simple=True) if rng.random() < 0.5 and ground.pattern != "plain" else (words, look)
    if ground.colours[0] in look.colours:
        return random_picture(rng)
    return Picture(f"a {words} {shape} on {behind}", look, shape, ground)


def random_look(rng: np.random.Generator, simple: bool = False) -> tuple[str, Look]:
    """Words for a look, and the look.

    Args:
        simple: one colour, no pattern.
    """
    colour, other = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
    spoken, said = _spoken(colour, rng), _spoken(other, rng)
    kind = 0.0 if simple else rng.random()
    if kind < 0.15:
        return (spoken if simple or rng.random() < 0.5 else f"plain {spoken}"), Look("plain", (colour,))
    if kind < 0.5:
        pattern = str(rng.choice(TWO_COLOURED))
        if rng.random() < 0.25:  # one colour is said: the other is white, or black where white would not show
            other = "black" if colour in ("white", "beige", "yellow") else "white"
            return f"{spoken} {pattern}", Look(pattern, (colour, other))
        joined = f"{spoken} {pattern} on {said}" if rng.random() < 0.7 else f"{spoken} and {said} {pattern}"
        return joined, Look(pattern, (colour, other))
    material = str(rng.choice(list(MATERIALS)))
    usual, others, colourable = MATERIALS[material]
    if colourable and rng.random() < 0.5:
        return f"{spoken} {material}", Look(material, (colour,))
    return (material if rng.random() < 0.6 else str(rng.choice(others))), Look(material, (usual,))


def _spoken(colour: str, rng: np.random.Generator) -> str:
    names = [other for other, name in OTHER_NAMES.items() if name == colour]
    return str(rng.choice(names)) if names and rng.random() < 0.25 else colour


def words() -> set[str]:
    """Every word that a caption may have."""
    found = {*COLOURS, *OTHER_NAMES, *PATTERNS, *SHAPES, "a", "on", "and"}
    for _, others, _ in MATERIALS.values():
        found |= {word for phrase in others for word in phrase.split()}
    return found | {word for template in _TEMPLATES for word in template.replace("{}", "").split()}
