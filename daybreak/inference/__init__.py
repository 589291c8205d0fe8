"""How a model writes: sampling and generation."""
