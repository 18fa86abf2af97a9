"""The instrumental of a song as a file: the mix without its vocals, encoded with its tags and cover."""
