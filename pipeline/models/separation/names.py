"""Names that processes without torch need too: those that only write tables."""

STEMS = ("vocals", "drums", "bass", "other", "guitar", "piano", "accompaniment")
"""Every stem that has columns in ``tracks``."""
