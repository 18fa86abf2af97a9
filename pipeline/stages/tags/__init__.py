"""Tags of music, and an embedding that goes with them."""
