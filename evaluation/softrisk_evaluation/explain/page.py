"""Explanations on disk: a page for a browser, a picture, and the numbers.

```
explanation.html    one page that needs no other file and no network
explanation.png     the same at a glance
explanation.json    the same for programs
```
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from softrisk_core.manifest import Manifest
from softrisk_evaluation.explain.drawing import colour, draw_explanations
from softrisk_evaluation.explain.explanation import Explanation, what_flags
from softrisk_evaluation.explain.reference import BINS, Reading, Reference
from softrisk_evaluation.explain.saliency import coloured
from softrisk_evaluation.page import Bar, Depicted, depicted, softmax_bars
from softrisk_evaluation.pictures import picture
from softrisk_evaluation.rendering import render

PAGE: Final = "explanation.html"
PICTURE: Final = "explanation.png"
RECORD: Final = "explanation.json"

_HEIGHT: Final = 20.0
"""Of the drawn histograms, in the units of their drawing, which is 100 wide."""


@dataclass(frozen=True)
class Card:
    """An explanation, ready for the page."""

    explanation: Explanation
    colour: str
    shown: Depicted
    saliency: str
    bars: tuple[Bar, ...]
    probes: tuple[tuple[str, str, str, bool], ...]
    """Name, picture, answer, and whether it is the label."""


@dataclass(frozen=True)
class Histogram:
    """A diagnostic of all images.

    Attributes:
        readings: One for each image.
        outline: Of the clean data, points of a polygon.
        places: Where each image stands, from 0 to 100.
    """

    name: str
    readings: tuple[Reading, ...]
    outline: str
    places: tuple[float, ...]


@dataclass(frozen=True)
class Album:
    """Explanations with what they are compared with.

    Attributes:
        manifest: Of the bundle.
        explanations: At least one.
        usual: Values of clean data, by diagnostic.
        by_gradient: Whether what decides was found by gradients, or else by covering patches.
    """

    manifest: Manifest
    explanations: Sequence[Explanation]
    usual: Mapping[str, Reference]
    by_gradient: bool

    def write(self, folder: Path, command: str, versions: Mapping[str, str]) -> None:
        """Write the three files, over those of an earlier run.

        Args:
            folder: Made if need be.
            command: That makes them again.
            versions: Of the tools.
        """
        folder.mkdir(parents=True, exist_ok=True)
        figure = draw_explanations(self.explanations, self.usual, self.manifest)
        # Without the version of matplotlib, so that the same answers are the same file.
        figure.savefig(folder / PICTURE, dpi=110, metadata={"Software": None})
        (folder / PAGE).write_text(self._page(command, versions), encoding="utf-8")
        record = {"command": command, "versions": dict(versions), **self._record()}
        (folder / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _page(self, command: str, versions: Mapping[str, str]) -> str:
        return render(
            "explanation.html.j2",
            manifest=self.manifest,
            cards=[self._card(place) for place in range(len(self.explanations))],
            histograms=[self._histogram(name) for name in self.usual],
            by_gradient=self.by_gradient,
            decides=what_flags(self.manifest),
            command=command,
            versions=versions,
        )

    def _card(self, place: int) -> Card:
        explanation, classes = self.explanations[place], self.manifest.classes
        view = explanation.view
        return Card(
            explanation=explanation,
            colour=colour(place),
            shown=depicted(view, self.manifest),
            saliency=picture(coloured(explanation.saliency)),
            bars=softmax_bars(view, None, view.label, classes),
            probes=tuple(
                (
                    each.name,
                    picture(each.image),
                    f"“{classes[each.label]}” {each.confidence:.3f}",
                    each.label == view.label,
                )
                for each in explanation.probes
            ),
        )

    def _histogram(self, name: str) -> Histogram:
        readings = tuple(
            reading for explanation in self.explanations for reading in explanation.readings if reading.name == name
        )
        reference = self.usual[name]
        low, high = reference.span([reading.value for reading in readings])
        shares = reference.bars(low, high)
        heights = _HEIGHT * (1 - shares / max(shares.max(), 1e-12))
        edges = np.linspace(0, 100, BINS + 1)
        corners = [
            f"{x:.1f},{y:.1f}" for left, right, y in zip(edges, edges[1:], heights, strict=False) for x in (left, right)
        ]
        return Histogram(
            name=name,
            readings=readings,
            outline=" ".join((f"0,{_HEIGHT:g}", *corners, f"100,{_HEIGHT:g}")),
            places=tuple(100 * (reading.value - low) / (high - low) for reading in readings),
        )

    def _record(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "model": {"name": manifest.name, "version": manifest.version, "alpha": manifest.calibration.alpha},
            "images": [
                {
                    "name": each.request.name,
                    "label": manifest.classes[each.view.label],
                    "runner_up": manifest.classes[each.runner_up],
                    "confidence": each.confidence,
                    "p_value": depicted(each.view, manifest).p_value,
                    "rank": each.view.rank,
                    "nonconformity": each.nonconformity,
                    "flagged": each.flagged,
                    "probabilities": each.view.probabilities.tolist(),
                    "diagnostics": [asdict(reading) | {"tail": reading.tail} for reading in each.readings],
                    "was_probed": each.was_probed,
                    "probes": [
                        {"name": probe.name, "label": manifest.classes[probe.label], "confidence": probe.confidence}
                        for probe in each.probes
                    ],
                }
                for each in self.explanations
            ],
        }
