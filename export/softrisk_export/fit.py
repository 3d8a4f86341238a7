"""From clean rows to a score: what has parameters is fitted on rows of its own.

A score whose parameters come from the rows that calibrate it ranks them differently from new ones, and the promise
needs both to be ranked alike. So the rows of the fit calibrate nothing.
"""

import secrets
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_core.errors import CalibrationError
from softrisk_core.manifest import FEATURES
from softrisk_core.probes import PROBES, Flip, draw_noise, make_probes
from softrisk_core.rows import Inputs
from softrisk_core.score_facts import Nonconformity, ProbeFacts
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.combined import GatedCombination
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_core.scores.score import Score
from softrisk_export.calibrate import refuse_broken
from softrisk_export.choose import FEWEST, FEWEST_JUDGES, SHARES, Attacked, Trial, choose, gate_limits, gates, knee
from softrisk_export.errors import ExportError
from softrisk_export.find_features import feature_tensor, with_features
from softrisk_export.runtime import Runner
from softrisk_export.source import Answers, CleanRows, Source

FIT_ROWS: Final = 2000
FIT_ROWS_A_CLASS: Final = 20
"""At most so many rows, the larger of both, and at most a fifth of all, fit a score."""

ATTACKED_ROWS: Final = 128
"""At most so many of them are attacked to fit a score to, and as many others to judge it by."""

JUDGING: Final = 3
"""Of the rows that are set apart every third one judges."""

CHOOSE: Final = "auto"
"""In place of the name of a score."""

ProbeMode = Literal["off", "auto", "always"]

_NOTHING: Final[Inputs] = MappingProxyType({})


@dataclass(frozen=True)
class Wanted:
    """What is to be ranked.

    Attributes:
        score: Its name, or `CHOOSE`.
        mode: When inputs are probed.
        probes: Which probes keep labels; empty for those that usually do.
        epsilons: ℓ∞ radii of attacks that scores are fitted to and chosen by; empty for the usual ones.
        sealed: The score of an older version, which stays as it is where there are no gradients to fit it again.
        features: The classifier's own name for the tensor of its penultimate features; None to look for it.
    """

    score: str
    mode: ProbeMode = "off"
    probes: tuple[str, ...] = ()
    epsilons: tuple[float, ...] = ()
    sealed: tuple[Score, Nonconformity] | None = None
    features: str | None = None


@dataclass(frozen=True)
class Fitted:
    """A score, and what is left to calibrate it.

    Attributes:
        score: With its parameters.
        facts: For the manifest.
        rows: Clean rows that fitted nothing.
    """

    score: Score
    facts: Nonconformity
    rows: CleanRows


def fit_score(wanted: Wanted, source: Source, rows: CleanRows) -> Fitted:
    """Fit a score, and choose it where none is named.

    Args:
        wanted: Which.
        source: The classifier.
        rows: Clean data that the classifier has not seen.

    Raises:
        CalibrationError: If there is no such score, it needs what is not there, or the rows are too few or too much
            alike for it.
        ExportError: If it needs features, and their tensor is not found or cannot be taken.
    """
    if wanted.sealed is not None:
        score, facts = wanted.sealed
        return Fitted(score, facts, rows)
    _refuse_several_inputs(wanted, source)
    if wanted.mode != "off" and wanted.score not in (CHOOSE, "combined", "probed"):
        raise CalibrationError(
            f"probes belong to a fitted combination, not to {wanted.score}: leave out --probes, or name another score"
        )
    if wanted.score == "probed" and wanted.mode == "off":
        raise CalibrationError("the score probed needs --probes auto or --probes always")
    if wanted.probes and wanted.mode == "off":
        raise CalibrationError("--probe says which probes to use, and they are off: add --probes auto or always")
    if wanted.epsilons and wanted.score != CHOOSE and find_score(wanted.score).needs != "attacks":
        raise CalibrationError(
            f"--epsilon is for a score that needs attacks, and {wanted.score} does not: leave it out"
        )
    if wanted.score != CHOOSE and find_score(wanted.score).needs != "attacks":
        return _fit_to_clean(wanted, source, rows)
    return _fit_to_attacks(wanted, source, rows)


def _refuse_several_inputs(wanted: Wanted, source: Source) -> None:
    if len(source.inputs) == 1:
        return
    needs = "attacks" if wanted.score == CHOOSE or wanted.mode != "off" else find_score(wanted.score).needs
    if needs in ("features", "attacks"):
        raise CalibrationError(
            f"{wanted.score if wanted.mode == 'off' else 'probing'} needs {needs}, which are known for models of one "
            f"image, and this one has the inputs {' and '.join(source.optional)}: name a score of the logits alone, "
            "such as logit_gap:low, gen or kl-matching"
        )


def _fit_to_clean(wanted: Wanted, source: Source, rows: CleanRows) -> Fitted:
    name, recipe = wanted.score, find_score(wanted.score)
    if recipe.needs == "nothing":
        return Fitted(recipe.load({}, ()), Nonconformity(score=name), rows)
    shown, left = set_apart(name, source, rows)
    tensor = feature_tensor(source.model, wanted.features, shown.input) if recipe.needs == "features" else None
    logits, features = opened(source, tensor, shown.inputs)
    clean = observe(logits, shown.input, (), features)
    refuse_broken(clean.logits)
    return Fitted(recipe.made_from(clean), Nonconformity(score=name, features=tensor), left)


def opened(source: Source, tensor: str | None, rows: Inputs = _NOTHING) -> tuple[Answers, Answers | None]:
    """The logits of any number of instances, and their features if the tensor of these is named.

    Args:
        source: The classifier.
        tensor: Of the features; None without.
        rows: The inputs of these instances beside the first, as which each answer takes what is given to it.
    """
    run = Runner(source.model if tensor is None else with_features(source.model, tensor))

    def output(name: str) -> Answers:
        return lambda values: run.over({**rows, source.input.name: values}, [name])[name]

    return output("logits"), None if tensor is None else output(FEATURES)


def _fit_to_attacks(wanted: Wanted, source: Source, rows: CleanRows) -> Fitted:
    _check_images(source)
    if source.attacker is None and (wanted.score != CHOOSE or wanted.mode != "off"):
        raise CalibrationError(
            "a combination is fitted to attacks, and they need the classifier's gradients, which an ONNX file does not "
            "have: export the checkpoint of softrisk train, recalibrate with --checkpoint, or name a score that needs "
            "no gradients"
        )
    shown, left = set_apart("a score" if wanted.score == CHOOSE else wanted.score, source, rows)
    chooses = wanted.score == CHOOSE or wanted.mode == "auto"
    fewest = JUDGING * (FEWEST_JUDGES if chooses else FEWEST)
    if len(shown) < fewest:
        purpose, advice = "attacks", "name a score that needs no attacks"
        if chooses:
            purpose, advice = "attacks to choose by", "choose nothing: name a score, and --probes off or always"
        raise CalibrationError(
            f"{purpose} need {fewest:,} clean rows, and of the {len(rows):,} a fifth is set apart for them: "
            f"give {5 * fewest:,} or more, or {advice}"
        )
    trial = run_trial(wanted, source, shown, noise_seed=secrets.randbits(64))
    score, facts = decide(wanted, trial)
    return Fitted(score, facts, left)


def decide(wanted: Wanted, trial: Trial) -> tuple[Score, Nonconformity]:
    """Fit a score to what attacks left, and choose it where none is named.

    Args:
        wanted: Which.
        trial: With probes if the mode is another than off.

    Raises:
        CalibrationError: If the attacks succeeded too rarely.
    """
    curve = gates(trial) if wanted.mode == "auto" and trial.families else ()
    share = SHARES[knee(curve)] if curve else 1.0
    choice, name = None, "combined" if wanted.mode == "off" else "probed"
    if wanted.score == CHOOSE:
        name, choice = choose(trial, share)
    recipe = find_score(name)
    if recipe.needs != "attacks":
        features = trial.features if recipe.needs == "features" else None
        return recipe.made_from(trial.fit), Nonconformity(score=name, choice=choice, features=features)
    gate, full = trial.combinations()
    if name == "combined" or wanted.mode == "off":
        return gate, Nonconformity(score=name, families=trial.families, choice=choice)
    facts = ProbeFacts(
        mode=wanted.mode,
        names=tuple(probe.name for probe in trial.probes),
        passes=1 + share * len(trial.probes),
        curve=curve,
    )
    gated = GatedCombination(gate, full, gate_limits(gate, trial.judge, share))
    return gated, Nonconformity(score=name, families=trial.families, probes=facts, choice=choice)


def set_apart(name: str, source: Source, rows: CleanRows) -> tuple[CleanRows, CleanRows]:
    """The rows that a score is fitted on, and the rest."""
    wanted = max(FIT_ROWS, FIT_ROWS_A_CLASS * len(source.classes))
    return rows.set_apart(min(wanted, len(rows) // 5), f"fit {name}")


def _check_images(source: Source) -> None:
    shape, domain = source.input.instance_shape, source.input.domain
    if domain != (0.0, 1.0) or len(shape) != 3 or min(shape[1:]) < 3:
        raise CalibrationError(
            f"attacks need images in [0, 1] of 3×3 pixels or more, and {source.input.name} has shape {shape} and "
            f"domain {domain}: name a score that needs no attacks"
        )


def usual_probes(source: Source) -> tuple[str, ...]:
    """Those that keep labels as a rule: mirroring only where the classifier was trained with it."""
    return tuple(name for name in PROBES if source.mirrors or name != Flip.name)


def usual_epsilons(channels: int) -> tuple[float, ...]:
    """ℓ∞ radii at which such images are usually attacked: of photographs up to 8/255, of drawings up to 0.2."""
    return (0.05, 0.1, 0.2) if channels == 1 else (1 / 255, 2 / 255, 4 / 255, 8 / 255)


def run_trial(wanted: Wanted, source: Source, rows: CleanRows, noise_seed: int = 0) -> Trial:
    """Attack some rows to fit scores to, and others to judge them by.

    What is attacked is the classifier's own answer, so that no labels are needed.

    Args:
        wanted: With probes and radii.
        source: The classifier.
        rows: Clean rows; one of `JUDGING` judges, the others fit.
        noise_seed: Of the noise that is stored with the score, ≥ 0.
    """
    from softrisk_export.attackers import AttackedRows, Attacker  # takes seconds to import

    shape = source.input.instance_shape
    tensor = _candidate_tensor(wanted, source, rows)
    logits, features = opened(source, tensor)
    names = wanted.probes or usual_probes(source)
    probes = () if wanted.mode == "off" else make_probes(names, draw_noise(shape, noise_seed))
    attacker = Attacker.by_queries(logits) if source.attacker is None else source.attacker()
    attacks = attacker.attacks(wanted.epsilons or usual_epsilons(shape[0]), len(source.classes))
    judging = np.arange(len(rows)) % JUDGING == JUDGING - 1
    parts = [rows.input[~judging], rows.input[judging]]
    with _progress() as progress:
        task = progress.add_task("asking about clean rows", total=None)
        clean = [observe(logits, part, probes, features) for part in parts]
        refuse_broken(np.concatenate([each.logits for each in clean]))
        progress.remove_task(task)

        def attack_all(part: NDArray[np.float32], evidence: Evidence, purpose: str) -> tuple[Attacked, ...]:
            chosen = np.unique(np.linspace(0, len(part) - 1, ATTACKED_ROWS).astype(np.int64))
            inputs, before = part[chosen], evidence.logits[chosen].argmax(axis=1)
            found = []
            for attack in attacks:
                task = progress.add_task(f"{attack.label}, {purpose}", total=len(inputs))

                def show(done: int, total: int, task: TaskID = task) -> None:
                    progress.update(task, completed=done)

                found.append(_successes(attacker.run(attack, inputs, before, show), before))
                progress.remove_task(task)
            return tuple(found)

        def _successes(attacked: AttackedRows, before: NDArray[np.int64]) -> Attacked:
            fooled = logits(attacked.inputs).argmax(axis=1) != before
            inputs = attacked.inputs[fooled]
            if len(inputs) == 0:
                return Attacked(attacked.label, attacked.family, clean[0].at(np.empty(0, np.int64)))
            return Attacked(attacked.label, attacked.family, observe(logits, inputs, probes, features))

        fit, judge = (
            attack_all(part, evidence, purpose)
            for part, evidence, purpose in zip(parts, clean, ("to fit to", "to judge by"), strict=True)
        )
    return Trial(clean[0], fit, clean[1], judge, probes, tensor)


def _candidate_tensor(wanted: Wanted, source: Source, rows: CleanRows) -> str | None:
    """Whose features scores can be made from, where one is to be chosen."""
    if wanted.score != CHOOSE:
        return None
    try:
        return feature_tensor(source.model, wanted.features, rows.input)
    except ExportError:
        if wanted.features is not None:
            raise
        return None


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
