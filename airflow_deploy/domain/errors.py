"""Every error that airflow-deploy raises on purpose.

    DeployError
    ├── PermanentError          trying again cannot help: the task fails at once
    │   ├── RefusedError        bad input or a policy; nothing has been written anywhere
    │   ├── FencedError         another owner, a brake or a promotion has overtaken this task
    │   ├── DeclinedError       a person said no, or nobody answered in time
    │   ├── HarmError           the version was judged and must not stay
    │   ├── CapacityError       the pods that a share needs, or the way back, are not there in time
    │   ├── UndeliveredError    the gateway was not seen to bring a request to the candidate
    │   ├── IllegalTransition   the recorded states do not form a path of the state machine
    │   └── NotSettledError     the system could not return to a whole state by itself
    └── TemporaryError          a server did not answer, or lost a race: the task is tried again

Operators map the two branches to Airflow's retries in one place, ``airflow_deploy.tasks.base``.
"""


class DeployError(Exception):
    """Root of the tree. Its text is one sentence for a person."""


class PermanentError(DeployError):
    """Trying again cannot help."""


class RefusedError(PermanentError):
    """The request, the spec or the surroundings do not permit this deployment."""


class FencedError(PermanentError):
    """The route has another owner or another phase than this task was sent for; it must touch nothing more."""


class DeclinedError(PermanentError):
    """A person said no, or nobody answered in time."""


class HarmError(PermanentError):
    """The candidate was judged harmful, or not shown to be healthy in time."""


class CapacityError(PermanentError):
    """A share is not given: its pods, or those that could take everything back, are not ready in time."""


class ProbeFailedError(PermanentError):
    """A share is not given: the gateway was not seen to bring a request to the candidate."""


class IllegalTransitionError(PermanentError):
    """A recorded transition is no edge of the state machine."""


class NotFinalizedError(PermanentError):
    """A person is needed: the route or the workloads are not in a whole state."""


class TemporaryError(DeployError):
    """The same call may succeed later."""
