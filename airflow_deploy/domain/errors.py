"""The errors of airflow-deploy.

    DeployError
    ├── PermanentError              a retry cannot help: the task fails at once
    │   ├── RefusedError            input or policy does not permit the deployment; nothing has been written
    │   ├── FencedError             the route has another owner or phase than the task expects
    │   ├── DeclinedError           a person rejected, or no answer came in time
    │   ├── HarmError               the candidate is harmful, or not shown to be healthy in time
    │   ├── CapacityError           the pods for a share, or for a rollback, are not ready in time
    │   ├── ProbeFailedError        the probe of the candidate through the gateway failed
    │   ├── IllegalTransitionError  the recorded states are not a path of the state machine
    │   └── NotFinalizedError       route or workloads are not in a whole state; a person is needed
    └── TemporaryError              a server does not answer, or a write lost a race: the task is retried

``airflow_deploy.tasks.base`` maps the two branches to Airflow's retries, and is the only place that does.
"""


class DeployError(Exception):
    """The root of the tree. Its message is one sentence for a person."""


class PermanentError(DeployError):
    """A retry cannot help."""


class RefusedError(PermanentError):
    """The request, the spec, a policy or the environment does not permit this deployment."""


class FencedError(PermanentError):
    """The route has another owner or phase than this task expects, so the task must change nothing more."""


class DeclinedError(PermanentError):
    """A person rejected the deployment, or no answer came in time."""


class HarmError(PermanentError):
    """The candidate is harmful, or was not shown to be healthy in time."""


class CapacityError(PermanentError):
    """No shift: the pods for the share, or the pods for a rollback, are not ready in time."""


class ProbeFailedError(PermanentError):
    """No shift: the probe did not reach the candidate through the gateway."""


class IllegalTransitionError(PermanentError):
    """A recorded transition is not an edge of the state machine."""


class NotFinalizedError(PermanentError):
    """The route or the workloads are not in a whole state, and a person is needed."""


class TemporaryError(DeployError):
    """The same call may succeed later, so the task is retried."""
