"""The pure core: what a deployment is and how it is judged. It imports no Airflow, Kubernetes, Docker or HTTP."""
