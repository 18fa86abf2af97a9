"""How good a song without its vocals is, and which way of removing them it gets."""
