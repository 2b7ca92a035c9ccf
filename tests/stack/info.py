"""Where a running stack is and how to get in, for people, tests and the demo."""

import json
from dataclasses import asdict, dataclass

from tests.stack import airflow, gateway, images, prometheus
from tests.stack.errors import StackError
from tests.stack.layout import (
    ADDRESS,
    ADMIN_KUBECONFIG,
    AIRFLOW_KUBECONFIG,
    ARTIFACTS,
    DEMO,
    DOCKER_SOCKET,
    INFO,
    LOG,
    NAMESPACE,
    REGISTRY,
    STATE,
)
from tests.stack.tls import write_secret


@dataclass(frozen=True)
class StackInfo:
    """Addresses, logins and paths of the stack that is up; all URLs work on the host.

    :param gateway_url: the gateway, from the host and from inside the network namespace alike.
    :param users: Airflow user -> password; the users are `admin`, `deployer` (role op) and `viewer`.
    :param registry: the registry's name in images.
    :param registry_url: the registry's HTTP API.
    :param netns: name of the network namespace; `tests.stack.in_netns` enters it.
    """

    airflow_url: str
    users: dict[str, str]
    gateway_url: str
    prometheus_url: str
    registry: str
    registry_url: str
    admin_kubeconfig: str
    airflow_kubeconfig: str
    docker_socket: str
    netns: str
    state: str
    artifacts: str
    demo: str
    logs: str

    @classmethod
    def current(cls) -> "StackInfo":
        """Describe the stack as this checkout starts it."""
        return cls(
            airflow_url=airflow.url(),
            users=airflow.passwords(),
            gateway_url=f"http://{ADDRESS}:{gateway.PORT}",
            prometheus_url=prometheus.URL,
            registry=REGISTRY,
            registry_url=images.REGISTRY_URL,
            admin_kubeconfig=str(ADMIN_KUBECONFIG),
            airflow_kubeconfig=str(AIRFLOW_KUBECONFIG),
            docker_socket=str(DOCKER_SOCKET),
            netns=NAMESPACE,
            state=str(STATE),
            artifacts=str(ARTIFACTS),
            demo=str(DEMO),
            logs=str(LOG),
        )

    @classmethod
    def load(cls) -> "StackInfo":
        """Read what `up` left for others.

        :raises StackError: when the stack is not up.
        """
        try:
            return cls(**json.loads(INFO.read_text()))
        except FileNotFoundError:
            raise StackError("The stack is not up: run `make up`.") from None
        except PermissionError:
            raise StackError(f"{INFO} holds passwords and is root's: call it by sudo.") from None

    def save(self) -> None:
        """Tell others that the stack is up, and where; supervisors go by the file's presence."""
        draft = INFO.with_suffix(".draft")
        write_secret(draft, json.dumps(asdict(self), indent=2))
        draft.rename(INFO)
