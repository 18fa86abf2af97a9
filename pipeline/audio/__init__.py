"""PCM in, PCM out: decoding, resampling, windows and overlap-add. Knows nothing of Ray, Hydra or fsspec."""
