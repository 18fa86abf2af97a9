"""CLAP embeddings of windows."""
