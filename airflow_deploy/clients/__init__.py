"""Thin clients of the outside world: the cluster, Prometheus, Docker, Git and the artifact store."""
