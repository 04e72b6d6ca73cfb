"""For all tests: OpenMP's threads sleep while they wait, as on the command line; spinning ones cost ten times more."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # several processes share the cores
    _SHARE = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(_SHARE, 1)))

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

import shutil
from collections.abc import Iterator
from typing import Any

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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Headless Chromium, where there is one."""
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if path is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()
