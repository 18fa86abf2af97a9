"""The tables of an output: schemas, parts that are merged and rewritten, and reading them."""
