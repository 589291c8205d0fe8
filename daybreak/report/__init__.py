"""A run as a page that opens from disk."""
