"""How good a karaoke instrumental is, told from the mix and the instrumental alone."""
