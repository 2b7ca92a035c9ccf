"""Labels and annotations of our objects in a cluster. They are stored there, so never rename one."""

MANAGER = "airflow-deploy"
ANNOTATION_PREFIX = MANAGER
NAME, VERSION, MANAGED_BY = (f"app.kubernetes.io/{key}" for key in ("name", "version", "managed-by"))
DEPLOYMENT = f"{ANNOTATION_PREFIX}/deployment"
"""Annotation: the id of the deployment that created the object."""
WITHDRAWN = f"{ANNOTATION_PREFIX}/withdrawn"
"""Annotation of a version's Deployment: whether its pods have been stopped for good (``yes`` or ``no``)."""
