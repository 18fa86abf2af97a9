"""The stages of feature extraction: plain classes, a table in and a table out, usable without Ray.

Ray makes actors of them (`pipeline.engine.graph`); a process pool can run the very same objects, and
``benchmarks/overhead.py`` does. Nothing is imported here: an actor that decodes needs no torch.
"""
