"""`report.json`, format 4: every number of an evaluation with the settings that made it.

The same command on the same files writes the same report: no times, no machine. The format is an integer, raised
whenever a field is added, removed or changes its meaning.
"""

from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from softrisk_attacks.attack import Family
from softrisk_core.conformal import Guarantee
from softrisk_core.manifest import Sha256
from softrisk_evaluation.directions import Strange
from softrisk_evaluation.statistics import Bounds, clopper_pearson

FORMAT: Final = "softrisk-report"
FORMAT_VERSION: Final = 4

Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Proportion(_Part):
    """A share with its exact 95 % confidence interval (Clopper–Pearson)."""

    successes: Count
    trials: Count
    rate: Rate
    interval: Bounds

    @classmethod
    def of(cls, successes: int, trials: int) -> "Proportion":
        """From counts, trials ≥ 1."""
        return cls(
            successes=successes,
            trials=trials,
            rate=successes / trials,
            interval=clopper_pearson(successes, trials),
        )

    @classmethod
    def where(cls, true: NDArray[np.bool_]) -> "Proportion":
        """The share that is true, shape (trials,), trials ≥ 1."""
        return cls.of(int(true.sum()), true.size)


class Subject(_Part):
    """What was evaluated."""

    name: str
    version: int
    model_sha256: Sha256
    """Of `model.onnx`."""
    checkpoint_sha256: Sha256 | None
    """Of the checkpoint whose gradients the attacks use; None if there was none, and nothing was attacked."""
    nonconformity: str
    calibration_id: str
    calibration_rows: Count
    logits_difference: float | None
    """Largest absolute difference between the logits of checkpoint and bundle on test inputs."""


class DataFacts(_Part):
    """Which clean inputs."""

    source: str
    rows: Count
    """How many are judged."""
    dropped: Count
    """Test rows left out because their content is among the training, selection or calibration rows."""
    training_known: bool = True
    """Whether the training rows are known; if not, there may be some among those that are judged."""


class Settings(_Part):
    """What was asked for."""

    command: str
    epsilons: tuple[float, ...]
    """ℓ∞ radii, in the model's input units."""
    steps: int
    restarts: int
    limit: int | None
    """How many test rows are attacked, drawn at random by the seed; None for all. None are without a checkpoint."""
    seed: int
    resplits: int
    sanity_images: int
    """On how many of the attacked rows the attacks themselves are checked; 0 for no checks."""
    adaptive: bool
    """Whether attackers who know the score were tried, too."""


class OperatingPoint(_Part):
    """True-positive rate at a false-alarm rate."""

    false_alarms: Rate
    threshold: Literal["calibration", "clean test images"]
    """`calibration`: the bundle's own flag, rank ≤ ⌊α(n + 1)⌋ in its group; `clean test images`: the lowest threshold
    that flags at most this share of them. No attacked input has a say in either."""
    detected: Proportion | None
    """None if nothing is to be detected, or the calibration is too small for this rate."""


class Detection(_Part):
    """How well one score tells attacked inputs from clean ones."""

    score: str
    strange: Strange
    auroc: Rate | None
    """Against all clean test images; None if there are no attacked inputs to tell apart."""
    auroc_on_originals: Rate | None
    """Against what these attacked inputs were before the attack; None likewise."""
    points: tuple[OperatingPoint, ...]
    """With thresholds from the clean test images, so that all scores can be compared."""
    flags: tuple[OperatingPoint, ...] = ()
    """Of the risk score: the bundle's own flags, with thresholds from its calibration."""


class AttackResult(_Part):
    """One attack at one radius, judged by the outputs of `model.onnx`."""

    label: str
    """For tables: `PGD-20 ε=0.1 ×5`."""
    name: str
    """Such as `PGD`."""
    family: Family
    epsilon: float
    """ℓ∞ radius, in the model's input units."""
    settings: dict[str, float | int | str]
    """All of them."""
    robust: Proportion
    """Right on the clean and on the attacked image, of all attacked images."""
    successful: Count
    """Right on the clean image, wrong on the attacked one."""
    on_successful: tuple[Detection, ...]
    """Positives: successful attacks only."""
    on_all: tuple[Detection, ...]
    """Positives: all attacked images."""


class WorstCase(_Part):
    """Right on the clean image and under every attack at one radius."""

    epsilon: float
    robust: Proportion


class FalseAlarms(_Part):
    """Flags on clean test inputs at one level."""

    alpha: Rate
    guarantee: Guarantee
    rank_limit: int | None
    """None where each calibration group has its own."""
    realised: Proportion
    law: Bounds
    """Central 95 % interval of the Beta-binomial law for the realised rate."""


class Resplits(_Part):
    """The false-alarm law on random splits of calibration and test rows at one level."""

    alpha: Rate
    splits: Count
    marginal_rank: int | None
    """None where each calibration group has its own, like `confident_rank`."""
    law: Bounds
    """Central 95 % interval of the Beta-binomial law for the realised rate at the marginal level."""
    inside: Proportion
    """Splits whose realised rate lies in `law`."""
    expected_inside: Rate
    """The law's own probability of its interval."""
    confident_rank: int | None
    """0 if the calibration is too small for one; then nothing is flagged and nothing exceeds α."""
    confident_above: Proportion
    """Splits whose realised rate at the confident level exceeds α."""
    expected_above: Rate
    """The law's probability of that; > 0.05 is possible, as the test rows are finite."""


class Gap(_Part):
    """An attack that should not win, and what it wins nevertheless."""

    attack: str
    """Its label."""
    against: tuple[str, ...]
    """The labels of attacks that together should fool whatever it fools."""
    only: Proportion
    """Images that it fools and none of the others does, of the images that all of them attacked."""


class Convergence(_Part):
    """How much an attack still gained when it stopped."""

    attack: str
    standing: Count
    """Images that it did not fool."""
    last_gain: Rate
    """Mean over these of the share of the whole gain in its best objective that came in its last ten steps."""


class Soundness(_Part):
    """What can be measured about the attacks of one radius, rather than about the model: do they work at all?"""

    epsilon: float
    images: Count
    """How many the attacks of this measurement ran on."""
    zero_gradients: Proportion
    """Images at which the input gradient of the cross entropy is exactly zero in float32."""
    non_finite_gradients: Proportion
    """Images at which it is not finite."""
    repeat_difference: float
    """Largest ℓ2 distance between the logits of two passes over the same batch, each scaled to length 1."""
    batch_difference: float
    """The same, between passes in a batch and one at a time."""
    loss_variability: Rate
    """Mean relative change of the margin under random noise in a box of ±ε/2."""
    unbounded: Proportion | None
    """Images that an attack within the whole of [0, 1] fools, of those that are right without; None if none is."""
    single_step: tuple[Gap, ...]
    """Single-step attacks against all iterative ones."""
    gradient_free: tuple[Gap, ...]
    """Attacks by scores, decisions, transfer or chance against all that use the model's own gradients, `stronger` ones
    included."""
    stronger: tuple[Gap, ...]
    """White-box attacks of more effort against those that were made."""
    convergence: Convergence | None
    """Of the strongest attack that tells; None if it fooled all images."""


class Check(_Part):
    """A check that was made, whatever came of it."""

    sign: str
    """What was looked at."""
    found: str
    limit: str
    """What a sound evaluation keeps to."""
    red_flag: bool
    """Whether it did not: a sign that the evaluation, not the model, is at fault, or that a score misleads."""
    advice: str
    """What to do about it."""

    @property
    def finding(self) -> str:
        """Sign and figures in one line."""
        return f"{self.sign}: {self.found}"


class Undetected(_Part):
    """What an attack got past a flag: wrong and not flagged."""

    alpha: Rate
    of_all: Proportion
    """Of all attacked images."""
    of_successful: Proportion | None
    """Of those that are right on the clean and wrong on the attacked image; None if none is."""


class AdaptiveResult(_Part):
    """One attack by someone who knows the score."""

    label: str
    name: str
    epsilon: float
    """ℓ∞ radius, in the model's input units."""
    settings: dict[str, float | int | str]
    successful: Count
    """Right on the clean image, wrong on the attacked one, flagged or not."""
    undetected: tuple[Undetected, ...]


class WithRejection(_Part):
    """Robust accuracy of classifier and flag together: a flag counts as a refusal to answer."""

    epsilon: float
    alpha: Rate
    clean: Proportion
    """Right and not flagged without an attack."""
    robust: Proportion
    """That, and right or flagged under every attack of this radius, whether it knows the score or not."""


class Flooded(_Part):
    """Alarms that an attacker raises on honest inputs without changing their label."""

    label: str
    epsilon: float
    alpha: Rate
    before: Proportion
    """Flagged without an attack, of the attacked images that are right without."""
    after: Proportion
    """Flagged under attack and still right, of the same."""


class Adaptive(_Part):
    """What attackers reach who know model, score and calibration."""

    attacks: tuple[AdaptiveResult, ...]
    worst_case: tuple[WithRejection, ...]
    flooding: tuple[Flooded, ...]
    """Empty if no attacked image is right without an attack."""


class Report(_Part):
    """The whole of `report.json`."""

    format: Literal["softrisk-report"] = FORMAT
    format_version: Literal[4] = FORMAT_VERSION
    subject: Subject
    settings: Settings
    data: DataFacts
    clean_accuracy: Proportion
    attacks: tuple[AttackResult, ...]
    """Empty without a checkpoint, as are `worst_case` and `soundness`."""
    worst_case: tuple[WorstCase, ...]
    adaptive: Adaptive | None
    """None unless it was asked for."""
    soundness: tuple[Soundness, ...]
    """One for each radius; empty if `sanity_images` is 0."""
    false_alarms: tuple[FalseAlarms, ...]
    resplits: tuple[Resplits, ...]
    checks: tuple[Check, ...]
    versions: dict[str, str]

    @property
    def red_flags(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.red_flag)
