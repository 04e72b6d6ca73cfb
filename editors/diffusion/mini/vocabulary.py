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
OTHER_PATTERNS = {
    "stripes": ("striped", "stripes", "stripe"),
    "dots": ("polka dots", "dotted", "spots"),
    "checks": ("checkered", "checkerboard", "checked"),
    "zigzag": ("zigzags", "chevron"),
}
"""Other ways to say the two-coloured ones."""
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
    "a texture of {}",
    "a close-up of {}",
    "{} background",
)
_INSTRUCTIONS = (
    "make it {}",
    "turn it into {}",
    "change it to {}",
    "make it look like {}",
    "cover it with {}",
    "as {}",
    "turn the {thing} into {}",
    "make the {thing} {}",
)
"""Ways to ask for a look of what is there."""
_OF_THINGS = ("a {} {thing}", "{} {thing}", "a {thing} made of {}", "the {thing} in {}")
_THINGS = (
    "swan", "bird", "car", "dog", "cat", "horse", "dancer", "man", "woman",
    "person", "house", "tree", "shirt", "dress", "boat", "ball", "wall", "floor",
)  # fmt: skip
"""Things that are not drawn as such, only lit like things. Captions name them, or words that do not exist."""
_UNDRAWN = 0.12


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
        lit: whether the surface is that of a thing, with light and dark of its own.
    """

    caption: str
    look: Look
    shape: str | None = None
    ground: Look | None = None
    lit: bool = False


def random_picture(rng: np.random.Generator) -> Picture:
    """A surface (three in four) or an object on a plain or patterned ground, with a caption."""
    words, look = random_look(rng)
    if rng.random() < 0.75:
        if rng.random() < _UNDRAWN:
            template = str(rng.choice([*_INSTRUCTIONS, *_OF_THINGS]))
            return Picture(template.format(words, thing=_thing(rng)), look, lit=True)
        return Picture(str(rng.choice(_TEMPLATES)).format(words), look)
    shape = str(rng.choice(SHAPES))
    while True:
        behind, ground = random_look(rng, simple=rng.random() < 0.6)
        if ground.colours[0] not in look.colours:
            break
    words, look = random_look(rng, simple=True) if rng.random() < 0.5 and ground.pattern != "plain" else (words, look)
    if ground.colours[0] in look.colours:
        return random_picture(rng)
    article = "" if rng.random() < 0.3 else "a "
    where = str(rng.choice(["on {}", "on {}", "on a {} background", "over {}", "in front of {}"])).format(behind)
    return Picture(f"{article}{words} {shape} {where}", look, shape, ground)


def instruction(look: str, rng: np.random.Generator, thing: str = "") -> str:
    """A way to ask for a look in words, of a thing that is drawn, or of all that is there."""
    ways = [way for way in _INSTRUCTIONS if not thing or "{thing}" in way]
    return str(rng.choice(ways)).format(look, thing=thing or _thing(rng))


def _thing(rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return str(rng.choice(_THINGS))
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(3, 9)))


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
        called = str(rng.choice(OTHER_PATTERNS[pattern])) if rng.random() < 0.3 else pattern
        ways = ("{0} {1} on {2}", "{0} {1} on a {2} background", "{0} and {2} {1}", "{1} in {0} and {2}")
        return str(rng.choice(ways)).format(spoken, called, said), Look(pattern, (colour, other))
    material = str(rng.choice(list(MATERIALS)))
    usual, others, colourable = MATERIALS[material]
    if colourable and rng.random() < 0.5:
        return f"{spoken} {material}", Look(material, (colour,))
    return (material if rng.random() < 0.6 else str(rng.choice(others))), Look(material, (usual,))


def _spoken(colour: str, rng: np.random.Generator) -> str:
    names = [other for other, name in OTHER_NAMES.items() if name == colour]
    return str(rng.choice(names)) if names and rng.random() < 0.25 else colour


def words() -> set[str]:
    """Every word that a caption may have and a picture shows."""
    small = ("a", "the", "on", "in", "and", "of", "over", "front", "background")
    found = {*COLOURS, *OTHER_NAMES, *PATTERNS, *SHAPES, *small}
    for _, others, _ in MATERIALS.values():
        found |= {word for phrase in others for word in phrase.split()}
    for phrases in OTHER_PATTERNS.values():
        found |= {word for phrase in phrases for word in phrase.split()}
    told = " ".join([*_TEMPLATES, *_INSTRUCTIONS, *_OF_THINGS]).replace("{thing}", "").replace("{}", "")
    return found | set(told.split())
