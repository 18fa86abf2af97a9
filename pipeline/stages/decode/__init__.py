"""Fetching, hashing and decoding: the first stage of every job."""
