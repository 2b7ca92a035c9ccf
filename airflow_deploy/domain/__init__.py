"""The pure core: what a deployment is and how it is judged. No Airflow, Kubernetes, Docker or HTTP in here."""
