"""Activating images on disk: a contact sheet for people, the pixels, and how they were made and what they are worth.

```
activations.png     a row for each target, a column for each seed
activations.npz     `images`, float32 in [0, 1], shape (T, S, C, H, W); `targets`, shape (T,); `seeds`, shape (S,)
activations.json    command, settings, versions, and for each image its figures
```
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_evaluation.activations.maximise import Settings
from softrisk_evaluation.activations.quality import Floats, Quality
from softrisk_evaluation.activations.sheet import contact_sheet
from softrisk_evaluation.activations.targets import Target

SHEET: Final = "activations.png"
PIXELS: Final = "activations.npz"
RECORD: Final = "activations.json"


@dataclass(frozen=True)
class Album:
    """Images of T targets with S seeds each, and all that is known of them.

    Attributes:
        checkpoint: The network that they were made with.
        classes: Its classes.
        settings: How they were made.
        targets: T of them.
        seeds: S of them.
        images: Shape (T, S, C, H, W), in [0, 1].
        quality: Their figures.
        transfer: For each held-out network, by name, the probability of the class, shape (T, S).
    """

    checkpoint: Path
    classes: Sequence[str]
    settings: Settings
    targets: Sequence[Target]
    seeds: Sequence[int]
    images: NDArray[np.float32]
    quality: Quality
    transfer: Mapping[str, Floats]

    def write(self, folder: Path, command: str, versions: Mapping[str, str]) -> None:
        """Write the three files, over those of an earlier run.

        Args:
            folder: Made if need be.
            command: That makes them again.
            versions: Of the tools.
        """
        folder.mkdir(parents=True, exist_ok=True)
        figure = contact_sheet(
            self.images,
            [target.name for target in self.targets],
            [f"seed {seed}" for seed in self.seeds],
            [[self._caption(row, column) for column in range(len(self.seeds))] for row in range(len(self.targets))],
        )
        # Without the version of matplotlib, so that the same images are the same file.
        figure.savefig(folder / SHEET, dpi=110, metadata={"Software": None})
        names = np.array([target.name for target in self.targets])
        np.savez_compressed(folder / PIXELS, images=self.images, targets=names, seeds=np.array(self.seeds))
        record = {
            "command": command,
            "versions": dict(versions),
            "checkpoint": str(self.checkpoint),
            "settings": asdict(self.settings),
            "targets": [self._target(row) for row in range(len(self.targets))],
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _caption(self, row: int, column: int) -> str:
        score, probability = self.quality.score[row, column], self.quality.probability[row, column]
        return f"{score:.1f}" + ("" if math.isnan(probability) else f", p = {probability:.2f}")

    def _target(self, row: int) -> dict[str, Any]:
        return {
            "name": self.targets[row].name,
            "likeness": _number(self.quality.likeness[row]),
            "images": [self._image(row, column) for column in range(len(self.seeds))],
        }

    def _image(self, row: int, column: int) -> dict[str, Any]:
        figures = ("score", "probability", "kept", "kept_at_worst", "fine_energy", "total_variation")
        return {
            "seed": self.seeds[column],
            "predicted": self.classes[self.quality.predicted[row, column]],
            **{name: _number(getattr(self.quality, name)[row, column]) for name in figures},
            "held_out": {name: _number(values[row, column]) for name, values in self.transfer.items()},
        }


def _number(value: float) -> float | None:
    """As JSON has it, which knows no NaN."""
    return float(value) if math.isfinite(value) else None
