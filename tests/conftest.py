"""For all tests: OpenMP's threads sleep while they wait, as on the command line; spinning ones cost ten times more."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
