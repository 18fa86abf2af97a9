"""LAION CLAP's audio tower: checkpoints, windows, batched embedding, aggregation."""
