"""Maximum softmax probability."""

from softrisk_core.scores.msp import MSP
from softrisk_export.scores.tail import Tail, of_diagnostics


def msp(score: MSP) -> Tail:
    """−log p₍₁₎, which the diagnostics have on their way."""
    return Tail(
        """
        score (float[batch] log_partition) => (float[batch] nonconformity) {
            nonconformity = Identity (log_partition)
        }
        """,
        sources=of_diagnostics("log_partition"),
    )
