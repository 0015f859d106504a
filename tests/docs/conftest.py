"""The run that commands of the pages read."""

from tests.parity.conftest import judged

__all__ = ["judged"]
