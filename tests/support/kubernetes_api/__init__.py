"""One Kubernetes API server in memory, under the real Python client.

``server.client()`` is a real ``ApiClient`` whose connections end in this process: paths, queries, headers, retries,
timeouts and errors are the client's own. What a test puts there, lets fail, or reads past the API is in
``KubernetesApi``; ``Workloads`` plays the controllers that make pods and EndpointSlices.
"""

from tests.support.kubernetes_api.journal import Request
from tests.support.kubernetes_api.kinds import Kind, Object
from tests.support.kubernetes_api.server import KubernetesApi
from tests.support.kubernetes_api.workloads import CRASH_LOOP, NEVER_READY, Behaviour, Workloads

__all__ = ["CRASH_LOOP", "NEVER_READY", "Behaviour", "Kind", "KubernetesApi", "Object", "Request", "Workloads"]
