"""Text becomes tokens on disk, and tokens on disk become batches."""
