"""The command ``airflow-deploy``: one module per command, ``main`` with the group, ``command`` with what they share."""
