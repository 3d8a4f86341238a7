"""What a classifier says about clean and attacked inputs under every probe, kept on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.detection.attacks import test_rows
from numpy.typing import NDArray

from softrisk_core.probes import Probe, draw_noise, make_probes
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_evaluation.experiments.study import Kept
from softrisk_export.checkpoint_source import checkpoint_source
from softrisk_export.choose import Attacked, Trial
from softrisk_export.errors import ExportError
from softrisk_export.find_features import feature_tensor
from softrisk_export.fit import Wanted, opened, run_trial, set_apart, usual_probes
from softrisk_export.source import CleanRows, Source
from softrisk_training.checkpoint import load_checkpoint, training_data


@dataclass(frozen=True)
class Classifier:
    """An exported checkpoint.

    Attributes:
        source: The export.
        rows: Its calibration rows.
        probes: Those that an export uses by default, with the noise of seed 0.
        ask: From inputs to evidence under these probes, with features where they are found.
    """

    source: Source
    rows: CleanRows
    probes: tuple[Probe, ...]
    ask: Callable[[NDArray[np.float32]], Evidence]


def classifier(checkpoint: str) -> Classifier:
    """Export a checkpoint in memory."""
    source, rows = checkpoint_source(Path(checkpoint), None)
    probes = make_probes(usual_probes(source), draw_noise(source.input.instance_shape, seed=0))
    try:
        tensor = feature_tensor(source.model, None, rows.input)
    except ExportError:
        tensor = None
    logits, features = opened(source, tensor)
    return Classifier(source, rows, probes, lambda inputs: observe(logits, inputs, probes, features))


def calibration(work: Path, checkpoint: str, sha256: str, epsilons: Sequence[float]) -> Kept:
    """A cell: what an export does before it seals — set rows apart, attack them — and what is left to calibrate on.

    Returns:
        The trial, and the evidence about the calibration rows, as `packed` leaves them.
    """
    asked = classifier(checkpoint)
    shown, left = set_apart("a score", asked.source, asked.rows)
    trial = run_trial(Wanted("auto", "always", epsilons=tuple(epsilons)), asked.source, shown)
    kept = packed("calibration", asked.ask(left.input))
    kept["features"] = np.array(trial.features or "")
    for part, evidence, attacks in (
        ("fit", trial.fit, trial.fit_attacks),
        ("judge", trial.judge, trial.judge_attacks),
    ):
        kept |= packed(part, evidence)
        kept |= {f"{part}:labels": np.array([each.label for each in attacks])}
        kept |= {f"{part}:families": np.array([each.family for each in attacks])}
        for index, each in enumerate(attacks):
            kept |= packed(f"{part}:{index}", each.evidence)
    return kept


def clean(work: Path, checkpoint: str, sha256: str, images: int) -> Kept:
    """A cell: evidence about all clean test rows, the attacked ones first; with their labels."""
    path = Path(checkpoint)
    loaded = load_checkpoint(path)
    data = training_data(loaded, path, "the data it was trained on")
    first = test_rows(loaded.splits.test, images)
    rows = np.concatenate([first, np.setdiff1d(loaded.splits.test, first)])
    return {**packed("test", classifier(checkpoint).ask(data.inputs(rows))), "labels": data.labels[rows]}


def under_attack(work: Path, checkpoint: str, sha256: str, attacked: Sequence[str]) -> Kept:
    """A cell: evidence about the inputs that other cells, of these files, attacked, one after the other."""
    ask, kept = classifier(checkpoint).ask, Kept()
    for index, file in enumerate(attacked):
        with np.load(work / file, allow_pickle=False) as archive:
            kept |= packed(f"attacked:{index}", ask(archive["inputs"]))
    return kept


def packed(name: str, evidence: Evidence) -> Kept:
    """Evidence as arrays."""
    arrays: dict[str, NDArray[np.floating]] = {
        "logits": evidence.logits,
        "inputs": evidence.inputs,
        "probed": evidence.probed,
    }
    if evidence.features is not None:
        arrays["features"] = evidence.features
    return {f"{name}.{part}": array.astype(np.float32) for part, array in arrays.items()}


def unpacked(name: str, kept: Kept) -> Evidence:
    """Evidence from arrays."""
    logits, inputs, probed = (kept[f"{name}.{part}"] for part in ("logits", "inputs", "probed"))
    features = kept.get(f"{name}.features")
    return Evidence(
        logits.astype(np.float64),
        inputs,
        probed.astype(np.float64),
        None if features is None else features.astype(np.float64),
    )


def unpacked_trial(kept: Kept, probes: tuple[Probe, ...]) -> Trial:
    """The trial of `calibration`."""

    def attacks(part: str) -> tuple[Attacked, ...]:
        labels, families = kept[f"{part}:labels"].tolist(), kept[f"{part}:families"].tolist()
        return tuple(
            Attacked(label, family, unpacked(f"{part}:{index}", kept))
            for index, (label, family) in enumerate(zip(labels, families, strict=True))
        )

    tensor = str(kept["features"]) or None
    return Trial(unpacked("fit", kept), attacks("fit"), unpacked("judge", kept), attacks("judge"), probes, tensor)
