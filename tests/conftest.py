"""For all tests: OpenMP's threads sleep while they wait, as on the command line; spinning ones cost ten times more."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import hypothesis
import pytest
from truth import true_fit

from canon.fits import Fit
from canon.scenes import Scene

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("canon", deadline=None)
hypothesis.settings.load_profile("canon")


@pytest.fixture(scope="module")
def fit(scene: Scene) -> Fit:
    """The perfect fit of a module's own ``scene``; not to be changed."""
    return true_fit(scene)
