"""Segments of speech, without a network: their algebra, words and turns, parts and clips, and their texts."""
