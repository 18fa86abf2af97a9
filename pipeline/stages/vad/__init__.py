"""Where somebody speaks: regions of speech in source time."""
