"""Our own kernels for decoding on a CPU, in C, and what brings them into a model."""
