"""Words of a recording with their times: backends, how speech is packed for them, and how word edges are mended."""
