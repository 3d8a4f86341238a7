"""KServe V1: what an answer looks like."""

from typing import Any, NamedTuple

import numpy as np
import orjson

from softrisk_core.conformal import p_value
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import RadiusFacts
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs.envelope import Answer
from softrisk_service.disclosure import Disclosure
from softrisk_service.outcome import Outputs, Rows
from softrisk_service.policy import risk_decile, risk_score


class Wishes(NamedTuple):
    """What the parameters of a request ask for.

    Attributes:
        alpha: False-alarm rate of the flag.
        limits: For each label the largest flagged rank at that α.
        probabilities: Whether the answer lists all of them.
        disclosure: What the caller may see, whatever it asks for.
    """

    alpha: float
    limits: tuple[int, ...]
    probabilities: bool
    disclosure: Disclosure


def write(wishes: Wishes, rows: Rows, served: ServedVersion) -> Answer:
    """The answer: for each instance label, diagnostics and risk, as far as the caller may see them."""
    # One by one: in one piece the interpreter would be held until the last is done.
    predictions = [
        orjson.Fragment(orjson.dumps(_prediction(row, wishes, rows, served), option=orjson.OPT_SERIALIZE_NUMPY))
        for row in range(rows.start, rows.stop)
    ]
    answer = {"model_name": served.name, "model_version": served.version, "predictions": predictions}
    return Answer(orjson.dumps(answer))


def _prediction(row: int, wishes: Wishes, rows: Rows, served: ServedVersion) -> dict[str, Any]:
    # numpy's float32 scalars stay as they are: orjson writes them with the digits that float32 has.
    outputs, policy, manifest = rows.batch.outputs, served.policy, served.manifest
    rank, label = rows.batch.ranks[row], rows.batch.labels[row]
    n, flagged = policy.sizes[label], rank <= wishes.limits[label]
    prediction: dict[str, Any] = {"label": label, "class_name": manifest.classes[label]}
    if wishes.disclosure == "none":
        return prediction
    if wishes.disclosure == "coarse":
        prediction["risk"] = {
            "decision": policy.decide(rank, label),
            "flagged": flagged,
            "decile": risk_decile(rank, n),
        }
        return prediction
    probabilities = outputs["probabilities"][row]
    prediction["confidence"] = probabilities[label]
    if wishes.probabilities:
        prediction["probabilities"] = np.ascontiguousarray(probabilities)
    prediction["diagnostics"] = {name: outputs[name][row] for name in DIAGNOSTICS}
    prediction["risk"] = {
        "decision": policy.decide(rank, label),
        "flagged": flagged,
        "alpha": wishes.alpha,
        "p_value": p_value(rank, n),
        "score": risk_score(rank, n),
        "rank": rank,
        "nonconformity": outputs["nonconformity"][row],
    }
    if manifest.radius is not None:
        prediction["radius"] = _radius(row, outputs, manifest.radius)
    return prediction


def _radius(row: int, outputs: Outputs, facts: RadiusFacts) -> dict[str, Any]:
    """The radii of an instance: that of all inputs together, and with several inputs that of each."""
    radius: dict[str, Any] = {kind: outputs[f"{kind}_radius"][row] for kind in facts.kinds}
    radius |= {"norm": facts.norm, "space": facts.spaces}
    if len(facts.spaces) > 1:
        radius["inputs"] = {
            name: {kind: outputs[f"{kind}_radius_{name}"][row] for kind in facts.kinds} for name in facts.spaces
        }
    return radius
