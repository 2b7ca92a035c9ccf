"""The generator of Dockerfiles for repositories that have none."""
