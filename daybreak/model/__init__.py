"""The transformer: tokens to logits, and nothing else."""
