"""Scene descriptions: synthetic scenes with ground truth."""
