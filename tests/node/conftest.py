"""The same gateway as for the client of Python."""

from tests.conformance.conftest import served

__all__ = ["served"]
