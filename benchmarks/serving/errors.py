"""What can go wrong while measuring."""

from softrisk_core.errors import SoftriskError


class BenchmarkError(SoftriskError):
    """Root of the errors of the benchmark."""


class UnavailableError(BenchmarkError):
    """A server cannot be installed or started here; the run goes on without it and says so."""


class WrongAnswerError(BenchmarkError):
    """An answer differs from the reference."""
