"""The stages: a folder each, with the declaration in ``spec.py`` (no torch) and the worker in ``worker.py``."""
