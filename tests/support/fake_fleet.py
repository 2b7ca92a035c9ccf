"""The names of ``tests.support.fleet`` and ``verification_pass``, for modules that import them from here still."""

from tests.support.fleet import *  # noqa: F403
from tests.support.verification_pass import *  # noqa: F403
