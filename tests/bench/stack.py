"""What the measurements on the stack that is up have in common: where their figures go, and how they end."""

import sys
from collections.abc import Callable

from tests.stack.errors import StackError
from tests.stack.info import StackInfo
from tests.stack.layout import CHECKOUT

BENCH = CHECKOUT / ".bench"


def measure(run: Callable[[StackInfo], int | None]) -> int:
    """Run it, and return the exit code: 1 if it could not, or returned that something is broken."""
    try:
        return 1 if run(StackInfo.load()) else 0
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
