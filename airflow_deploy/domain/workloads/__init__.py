"""What runs in the cluster for a version: manifests, retention, drift, mirror, autoscaling."""
