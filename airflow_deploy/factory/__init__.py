"""The DAGs: one for each service's YAML, and the scheduled verification."""
