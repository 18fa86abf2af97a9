"""What lies on disk: sources, schemas, tables, blobs, the manifest. Knows nothing of Ray or Hydra."""
