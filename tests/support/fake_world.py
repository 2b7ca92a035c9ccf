"""The names of ``tests.support.world``, for modules that import them from here still."""

from tests.support.world import *  # noqa: F403
