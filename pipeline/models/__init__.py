"""Pretrained networks: the weights store, the device policy, CLAP, separation. No Ray, no Hydra, no fsspec."""
