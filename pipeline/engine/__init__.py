"""The only floor that imports Ray: stages as plain classes, the graph of their actors, resources, progress."""
