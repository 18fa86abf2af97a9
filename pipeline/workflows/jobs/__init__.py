"""The jobs: a file each."""
