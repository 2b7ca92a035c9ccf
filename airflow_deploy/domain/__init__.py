"""The domain: deployments and their analysis, as pure code without Airflow, Kubernetes, Docker or HTTP."""
