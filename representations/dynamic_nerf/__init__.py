"""A dynamic human and the background behind it, in three dimensions."""
