"""Clean rows that had no part in making a version: they neither trained, selected nor fitted anything."""

import numpy as np

from softrisk_core.bundle import Bundle
from softrisk_evaluation.errors import EvaluationError
from softrisk_export.source import CleanRows, check_shape
from softrisk_training.data import load_images


class CleanData:
    """Data from which each version gets the rows that it has not seen.

    Calibration rows are among them: a version ranks with them, but was not fitted to them.

    Args:
        location: As for `softrisk calibrate`.

    Raises:
        DataError: If it cannot be read.
    """

    def __init__(self, location: str) -> None:
        self._data = load_images(location)
        self._digests = self._data.digests(np.arange(len(self._data.images)))
        _, first = np.unique(self._digests, return_index=True)
        self._distinct = np.sort(first)

    def unseen(self, bundle: Bundle) -> CleanRows:
        """The first row of each content that the version knows from neither training, selection nor fits.

        Raises:
            CalibrationError: If the rows have another shape than the version's input.
            EvaluationError: If it is not known what trained the version, or no row is left.
        """
        calibration = bundle.calibration()
        if not calibration.training_rows.size:
            raise EvaluationError(f"{bundle.folder} does not know which rows trained it, so none can be called unseen")
        seen = np.concatenate([calibration.training_rows, calibration.fit_rows])
        rows = self._distinct[~np.isin(self._digests[self._distinct], seen)]
        if not rows.size:
            raise EvaluationError(f"all rows of {self._data.location} trained, selected or fitted {bundle.folder}")
        clean = CleanRows.of(
            self._data,
            bundle.manifest.inputs[0].name,
            rows,
            part="rows that neither trained, selected nor fitted anything",
        )
        check_shape(clean, bundle.manifest.inputs)
        return clean
