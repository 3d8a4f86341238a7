"""Which tail belongs to which score."""

from collections.abc import Iterable

import onnx

from softrisk_core.scores.combined import Combination
from softrisk_core.scores.diagnostic import OneSided, TwoSided
from softrisk_core.scores.doctor import Doctor
from softrisk_core.scores.gen import GEN
from softrisk_core.scores.kl_matching import KLMatching
from softrisk_core.scores.knn import KNN
from softrisk_core.scores.mahalanobis import Mahalanobis
from softrisk_core.scores.msp import MSP
from softrisk_core.scores.profile import LogitProfile
from softrisk_core.scores.score import Score
from softrisk_export.scores.combined import combined
from softrisk_export.scores.diagnostic import one_sided, two_sided
from softrisk_export.scores.doctor import doctor
from softrisk_export.scores.gen import gen
from softrisk_export.scores.kl_matching import kl_matching
from softrisk_export.scores.knn import knn
from softrisk_export.scores.mahalanobis import mahalanobis
from softrisk_export.scores.msp import msp
from softrisk_export.scores.profile import logit_profile
from softrisk_export.scores.tail import Tail


def tail_of(score: Score, graph: onnx.GraphProto) -> Tail:
    """The tail that computes a score in a graph with diagnostics.

    Args:
        score: One of `softrisk_core.scores`, without probes.
        graph: With its input and the output `probabilities`, and `FEATURES` for a score of these.

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
            return gen(score, _sizes(_named(graph.output, "probabilities"))[0])
        case KLMatching():
            return kl_matching(score)
        case LogitProfile():
            return logit_profile(score)
        case Mahalanobis():
            return mahalanobis(score)
        case KNN():
            return knn(score)
        case Combination():
            return combined(score, _sizes(graph.input[0]), graph.input[0].name)
    raise TypeError(f"no tail computes {score.name}")


def _named(values: Iterable[onnx.ValueInfoProto], name: str) -> onnx.ValueInfoProto:
    return next(value for value in values if value.name == name)


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Of the axes after the batch."""
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])
