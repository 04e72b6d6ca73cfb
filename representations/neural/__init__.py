"""Training of the published, network-based solvers: samples, the run and its checkpoints, baking."""
