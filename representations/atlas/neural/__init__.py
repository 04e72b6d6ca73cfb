"""Layered Neural Atlases as published (Kasten et al., SIGGRAPH Asia 2021), for N layers, baked like any other fit.

Networks map every pixel of every frame to an atlas position, decide which layer it shows, and paint the atlas; all
are trained at once on random pixels. Slow, and kept for fidelity and as the baseline of the default solver.
"""

from canon.representations.atlas.neural.options import NeuralOptions
from canon.representations.atlas.neural.solver import solve_neural

__all__ = ["NeuralOptions", "solve_neural"]
