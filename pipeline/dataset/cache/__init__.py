"""The result cache: what was computed of a content, kept for later runs."""
