"""Turn a prediction into what a pipeline does with its input."""

from math import floor

from softrisk_client.errors import InvalidArgumentError, UndecidedError
from softrisk_client.types import Decision, Prediction, Risk


def gate(prediction: Prediction, *, alpha_review: float | None = None, alpha_reject: float | None = None) -> Decision:
    """Decide whether the answer may be used, must be looked at, or is turned away.

    Without levels the service's own policy decides. A level that is given replaces the service's for that step:
    an input is rejected where p ≤ `alpha_reject`, else sent to review where p ≤ `alpha_review`. On clean traffic
    like the calibration data no more than a share alpha is then stopped at that step.

    ```python
    match gate(prediction):
        case Decision.ACCEPT: ...
        case Decision.REVIEW: ...
        case Decision.REJECT: ...
    ```

    Raises:
        UndecidedError: The service discloses neither its decision nor the p-value that a level needs. Nothing is
            accepted for want of information.
        InvalidArgumentError: A level is outside (0, 1), below what the calibration can resolve (1/(n+1), where it
            would never stop anything), or the two are the wrong way round.
    """
    for alpha in (alpha_review, alpha_reject):
        if alpha is not None and not 0 < alpha < 1:
            raise InvalidArgumentError(f"a level is a share of clean traffic between 0 and 1, not {alpha}")
    if alpha_review is not None and alpha_reject is not None and alpha_reject > alpha_review:
        raise InvalidArgumentError(
            f"alpha_reject = {alpha_reject} is above alpha_review = {alpha_review}; rejection is the stricter step"
        )
    risk = prediction.risk
    if risk is None:
        raise UndecidedError("the service does not disclose its decision to this caller; ask its operator")
    rejected = risk.decision is Decision.REJECT if alpha_reject is None else _at_most(risk, alpha_reject)
    accepted = risk.decision is Decision.ACCEPT if alpha_review is None else not _at_most(risk, alpha_review)
    if rejected:
        return Decision.REJECT
    return Decision.ACCEPT if accepted else Decision.REVIEW


def _at_most(risk: Risk, alpha: float) -> bool:
    if risk.p_value is None:
        raise UndecidedError(
            "the service does not disclose p-values to this caller; gate on its decision, without levels of your own"
        )
    if risk.rank is None:
        return risk.p_value <= alpha
    steps = round(risk.rank / risk.p_value)
    # The service's own rule: integers, with an allowance for products such as 0.07 · 100.
    largest = floor(alpha * steps + 1e-9)
    if largest < 1:
        raise InvalidArgumentError(
            f"alpha = {alpha} can never stop anything: the calibration holds {steps - 1} inputs, "
            f"which resolve 1/{steps}; at least {1 / alpha - 1:.0f} are needed"
        )
    return risk.rank <= largest
