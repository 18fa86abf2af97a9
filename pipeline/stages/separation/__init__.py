"""Source separation."""
