"""`softrisk calibrate`."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
import typer
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.repository import Repository, resolve
from softrisk_core.scores.catalogue import KINDS, find_score
from softrisk_export.graph import classifier, with_diagnostics
from softrisk_export.runtime import Runner
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
        str,
        typer.Option(
            help="Your own clean data, which the model has not seen: what softrisk train takes as data, or the same "
            "without labels, such as a folder of PNG or JPEG files."
        ),
    ],
    alpha: Annotated[
        float | None, typer.Option(help="Default false-alarm rate of the flag. Default: that of BUNDLE.")
    ] = None,
    score: Annotated[str | None, typer.Option(help=f"What is ranked: {KINDS}. Default: as in BUNDLE.")] = None,
    precision: Annotated[
        Literal["fp16", "int8"] | None,
        typer.Option(help="Make a twin whose classifier computes in this precision. Default: as in BUNDLE."),
    ] = None,
) -> None:
    """Make the next version of a bundle, calibrated on your own clean data, without training."""
    old = load_bundle(resolve(bundle))
    score = find_score(old.manifest.nonconformity.score if score is None else score).name
    home = old.folder.resolve().parent
    source, rows, change = bundle_source(old), CleanRows.of(load_images(data)), None
    if source.facts.precision == "int8":
        # The ranges of an int8 twin were fitted on some of these.
        rows = rows.without(old.calibration().fit_rows, "fit the twin")
    if precision is not None:
        from softrisk_export.twin import twin  # the quantiser takes a second to import

        check_shape(rows, source.input)
        source, rows, change = twin(source, precision, rows)
    sealed = seal(
        Repository(home.parent),
        home.name,
        source,
        rows,
        score,
        old.manifest.calibration.alpha if alpha is None else alpha,
    )
    print_summary(sealed, change=change)


def bundle_source(bundle: Bundle) -> Source:
    """A sealed bundle, without its calibration, as the source of another version."""
    manifest = bundle.manifest
    run = Runner(bundle.model_path.read_bytes())

    def logits(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return run(inputs, ["logits"])["logits"].astype(np.float32)

    return Source(
        model=with_diagnostics(classifier(onnx.load(bundle.model_path)), len(manifest.classes)),
        logits=logits,
        input=manifest.inputs[0],
        classes=manifest.classes,
        facts=manifest.model,
        seen_rows=bundle.calibration().training_rows,
        tools=manifest.tools,
        difference=manifest.parity.source,
    )
