"""`softrisk calibrate`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
import typer
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.repository import Repository, resolve
from softrisk_core.rows import Inputs
from softrisk_core.score_facts import Nonconformity, ProbeFacts
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.combined import ALWAYS, GatedCombination
from softrisk_export.bound import Bound
from softrisk_export.errors import ExportError
from softrisk_export.fit import ProbeMode, Wanted
from softrisk_export.graph import classifier, with_diagnostics
from softrisk_export.runtime import Runner
from softrisk_export.score_options import PROBES_HELP, SCORE_HELP, EpsilonOption, ProbeOption, wanted_score
from softrisk_export.seal import seal
from softrisk_export.source import CleanRows, Source, check_shape
from softrisk_export.summary import print_summary
from softrisk_training.data import load_images

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def calibrate_command(
    bundle: Annotated[
        Path, typer.Argument(help="<repository>/<model>/<version>, or <repository>/<model>: the highest.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Your own clean data, which the model has not seen: what softrisk train takes as data, or the same "
            "without labels, such as a folder of PNG or JPEG files. Default: the calibration rows of --checkpoint."
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Default false-alarm rate of the flag. Default: that of BUNDLE.")
    ] = None,
    per_class: Annotated[
        bool | None,
        typer.Option(
            "--per-class/--marginal",
            help="Keep the false-alarm rate for each predicted class that has enough rows, or on average over all of "
            "them. Default: as in BUNDLE.",
        ),
    ] = None,
    score: Annotated[str | None, typer.Option(help=f"{SCORE_HELP} Default: as in BUNDLE.")] = None,
    probes: Annotated[
        ProbeMode | None,
        typer.Option(
            help=f"{PROBES_HELP} What BUNDLE has of that is kept as it was fitted. A gate that it lacks, or other "
            "probes, take a new fit to attacks, with --checkpoint. Default: as in BUNDLE.",
            show_default=False,
        ),
    ] = None,
    probe: ProbeOption = [],  # noqa: B006 - typer wants a list, and copies it
    epsilon: EpsilonOption = [],  # noqa: B006 - the same
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The checkpoint behind BUNDLE: its gradients are needed to fit another combination."),
    ] = None,
    precision: Annotated[
        Literal["fp16", "int8"] | None,
        typer.Option(help="Make a twin whose classifier computes in this precision. Default: as in BUNDLE."),
    ] = None,
) -> None:
    """Make the next version of a bundle, calibrated on your own clean data, without training."""
    old = load_bundle(resolve(bundle))
    home = old.folder.resolve().parent
    source, rows, change = bundle_source(old), _clean_rows(old, data, checkpoint), None
    check_shape(rows, source.inputs)
    wanted = _wanted(old, score, probes, probe, epsilon)
    if wanted.sealed is not None or source.facts.precision == "int8":
        # The score that stays, and the ranges of an int8 twin, were fitted on some of these.
        rows = rows.without(old.calibration().fit_rows, "fit an earlier version")
    if wanted.sealed is None and checkpoint is not None and len(source.inputs) == 1:
        source = _with_gradients(source, old, checkpoint, rows)
    if precision is not None:
        from softrisk_export.twin import twin  # the quantiser takes a second to import

        source, rows, change = twin(source, precision, rows)
    sealed = seal(
        Repository(home.parent),
        home.name,
        source,
        rows,
        wanted,
        old.manifest.calibration.alpha if alpha is None else alpha,
        per_class=bool(old.manifest.calibration.groups) if per_class is None else per_class,
    )
    print_summary(sealed, change=change)


def _wanted(old: Bundle, score: str | None, mode: ProbeMode | None, probes: list[str], epsilons: list[float]) -> Wanted:
    """What is to be ranked: what BUNDLE ranks, or a part of it, as it is sealed there; else something to be fitted."""
    facts, sealed = old.manifest.nonconformity, old.score()
    sealed_mode: ProbeMode = "off" if facts.probes is None else facts.probes.mode
    unnamed = score is None or (score == "combined" and facts.probes is not None)
    if mode is None:
        mode = sealed_mode if score is None else "off"
    if unnamed and not probes and not epsilons:
        if mode == sealed_mode:
            fitted_to_attacks = find_score(facts.score).needs == "attacks"
            return Wanted(facts.score, sealed=(sealed, facts) if fitted_to_attacks else None, features=facts.features)
        if isinstance(sealed, GatedCombination) and mode == "off":
            return Wanted("combined", sealed=(sealed.gate, Nonconformity(score="combined", families=facts.families)))
        if isinstance(sealed, GatedCombination) and facts.probes is not None and mode == "always":
            always = ProbeFacts(mode="always", names=facts.probes.names, passes=1.0 + len(sealed.probes))
            named = Nonconformity(score="probed", families=facts.families, probes=always)
            return Wanted("probed", sealed=(replace(sealed, limits=ALWAYS), named))
    if score is None:
        score = facts.score if mode == "off" and facts.probes is None else "combined"
    return replace(wanted_score(score, mode, probes, epsilons), features=facts.features)


def _clean_rows(old: Bundle, data: str | None, checkpoint: Path | None) -> CleanRows:
    several = len(old.manifest.inputs) > 1
    if data is not None and several:
        raise ExportError(
            f"--data takes images, and BUNDLE takes {' and '.join(spec.name for spec in old.manifest.inputs)}: "
            "calibrate on the pairs of its --checkpoint"
        )
    if data is not None:
        return CleanRows.of(load_images(data), old.manifest.inputs[0].name)
    if checkpoint is None:
        raise ExportError("name held-out clean data with --data, or the checkpoint behind BUNDLE with --checkpoint")
    # torch takes seconds
    if several:
        from softrisk_export.multimodal_source import calibration_pairs

        return calibration_pairs(checkpoint, old.calibration().training_rows)
    from softrisk_export.checkpoint_source import calibration_rows

    return calibration_rows(checkpoint)


def _with_gradients(source: Source, old: Bundle, checkpoint: Path, rows: CleanRows) -> Source:
    from softrisk_export.checkpoint_source import checkpoint_gradients  # torch takes seconds

    return checkpoint_gradients(source, checkpoint, rows.input[:64], old.manifest.parity.tolerance)


def bundle_source(bundle: Bundle) -> Source:
    """A sealed bundle, without its calibration, as the source of another version."""
    manifest = bundle.manifest
    run = Runner(bundle.model_path.read_bytes())

    def logits(inputs: Inputs) -> NDArray[np.float32]:
        return run(inputs, ["logits"])["logits"].astype(np.float32)

    return Source(
        model=with_diagnostics(classifier(onnx.load(bundle.model_path)), len(manifest.classes)),
        logits=logits,
        inputs=manifest.inputs,
        classes=manifest.classes,
        facts=manifest.model,
        seen_rows=bundle.calibration().training_rows,
        tools=manifest.tools,
        difference=manifest.parity.source,
        bound=None
        if manifest.radius is None
        else Bound(manifest.radius.spaces, bundle.lipschitz(), manifest.radius.rounding),
    )
