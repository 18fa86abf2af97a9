"""The descriptors of `pipeline.features`."""
