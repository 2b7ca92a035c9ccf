"""Connections to clusters: from an Airflow connection, or from where the guard runs. Retries are decided here."""

from __future__ import annotations

from copy import copy
from typing import Any

from urllib3 import Retry

from airflow_deploy.clients.client_cache import POOL_SIZE, shared
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT, Timeout, usable_connection
from airflow_deploy.domain.errors import RefusedError

REQUEST_RETRIES = Retry(
    total=6,
    read=2,
    # Not 409: what was read before is old by then, so the caller must read again.
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,  # each of our writes states the result, or tests what was read: it may be sent twice
    backoff_factor=0.25,
    backoff_jitter=0.25,
    backoff_max=4.0,
    retry_after_max=10,
    raise_on_status=False,
)
"""How often a task's request is sent again if the server is busy, fails, resets the connection or does not answer.

About 15 s in all, a minute at most; after that, Airflow retries the task.
"""


def connect(connection: str, purpose: str = "", timeout: Timeout = REQUEST_TIMEOUT) -> KubernetesClient:
    """Return a client for an Airflow connection.

    :param purpose: clients of one purpose share their connections to the server. With a purpose, a request is sent
        once: a look, a renewal or the brake repeats by itself.
    :raises RefusedError: the connection is not usable.
    """
    with usable_connection(connection):
        return KubernetesClient(_api_client(connection, purpose), timeout)


def connect_from_here() -> KubernetesClient:
    """Return a client for the cluster of KUBECONFIG, or else of the pod that this runs in.

    :raises RefusedError: there is neither.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        config.load_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise RefusedError(
            f"no cluster to guard ({error}); set KUBECONFIG, or run it in a pod with a ServiceAccount"
        ) from error
    configuration.retries = False  # the next pass is the next try
    return KubernetesClient(client.ApiClient(configuration))


@shared
def _api_client(connection: str, purpose: str) -> Any:
    """Return a client that opens a connection if all others are in use, so that no request waits for another."""
    # Both imports cost seconds, and DAG files import this module whenever they are parsed.
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from kubernetes import client

    configuration = copy(KubernetesHook(conn_id=connection).api_client.configuration)
    configuration.retries = False if purpose else REQUEST_RETRIES
    configuration.connection_pool_maxsize = POOL_SIZE
    return client.ApiClient(configuration)
