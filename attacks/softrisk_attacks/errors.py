"""The exception of attacks: `AttackError`, below `SoftriskError`."""

from softrisk_core.errors import SoftriskError


class AttackError(SoftriskError):
    """An attack cannot be run as asked."""
