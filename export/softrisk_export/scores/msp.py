"""Maximum softmax probability."""

from softrisk_core.scores.msp import MSP
from softrisk_export.scores.tail import Tail, of_diagnostics


def msp(score: MSP) -> Tail:
    """log((1 − p₍₁₎) / p₍₁₎), which the diagnostics have on their way."""
    return Tail(
        """
        score (float[batch] log_x) => (float[batch] nonconformity) {
            nonconformity = Identity (log_x)
        }
        """,
        sources=of_diagnostics("log_x"),
    )
