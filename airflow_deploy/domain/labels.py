"""Labels and annotations that mark our own objects in a cluster. They are stored there: never rename one."""

MANAGER = "airflow-deploy"
ANNOTATION_PREFIX = MANAGER
NAME, VERSION, MANAGED_BY = (f"app.kubernetes.io/{key}" for key in ("name", "version", "managed-by"))
DEPLOYMENT = f"{ANNOTATION_PREFIX}/deployment"
"""The annotation with the id of the deployment that made an object."""
WITHDRAWN = f"{ANNOTATION_PREFIX}/withdrawn"
"""The annotation of a version's Deployment that says whether its pods were taken away for good."""
