"""Functions of space and time that are optimised: multilayer perceptrons and encodings of their inputs."""
