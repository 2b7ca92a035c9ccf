"""The Kubernetes API: objects in, objects out, and its answers as typed errors."""
