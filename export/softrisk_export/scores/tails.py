"""Which tail belongs to which score."""

from softrisk_core.scores.diagnostic import OneSided, TwoSided
from softrisk_core.scores.doctor import Doctor
from softrisk_core.scores.gen import GEN
from softrisk_core.scores.kl_matching import KLMatching
from softrisk_core.scores.msp import MSP
from softrisk_core.scores.profile import LogitProfile
from softrisk_core.scores.score import Score
from softrisk_export.scores.diagnostic import one_sided, two_sided
from softrisk_export.scores.doctor import doctor
from softrisk_export.scores.gen import gen
from softrisk_export.scores.kl_matching import kl_matching
from softrisk_export.scores.msp import msp
from softrisk_export.scores.profile import logit_profile
from softrisk_export.scores.tail import Tail


def tail_of(score: Score, classes: int) -> Tail:
    """The tail that computes a score in a graph with diagnostics.

    Args:
        score: One of `softrisk_core.scores`.
        classes: Number of classes of the graph.

    Raises:
        TypeError: If there is no tail for it.
    """
    match score:
        case OneSided():
            return one_sided(score)
        case TwoSided():
            return two_sided(score)
        case MSP():
            return msp(score)
        case Doctor():
            return doctor(score)
        case GEN():
            return gen(score, classes)
        case KLMatching():
            return kl_matching(score)
        case LogitProfile():
            return logit_profile(score)
    raise TypeError(f"no tail computes {score.name}")
