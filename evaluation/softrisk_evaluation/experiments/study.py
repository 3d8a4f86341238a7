"""Cells: the pieces of an experiment, each computed once, kept on disk, and spread over processes.

A cell is a function of this package with plain arguments. What it returns is kept under the working folder, named by
the cell and by a digest of its arguments, so that an interrupted experiment goes on where it was, and experiments that
need the same cell share it.
"""

import hashlib
import json
import multiprocessing
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from softrisk_evaluation.errors import EvaluationError

Kept = dict[str, NDArray[Any]]
"""What a cell returns: arrays by name; single figures are arrays without axes."""

_DIGEST: Final = 12


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        name: For people and for the file, such as `suite/ce-0`.
        function: Module-level, called with the working folder and the arguments; what it draws at random, it draws
            from them.
        arguments: Plain values and dataclasses of plain values, which decide the result.
    """

    name: str
    function: Callable[..., Kept]
    arguments: Mapping[str, Any]

    @property
    def file(self) -> str:
        """Name of the file below the working folder."""
        what = [self.function.__module__, self.function.__qualname__, self.arguments]
        return f"{self.name}-{digest(what)}.npz"


def digest(what: object) -> str:
    """A short digest of plain values and dataclasses of plain values."""
    text = json.dumps(what, default=_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]


def slug(name: str) -> str:
    """A name as part of a file name."""
    return "-".join("".join(letter if letter.isalnum() or letter in ".=" else " " for letter in name).split())


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"a cell's arguments are plain values, got {type(value).__name__}")


@dataclass(frozen=True)
class Study:
    """Where cells are kept, and how many are computed at a time.

    Attributes:
        work: The working folder.
        jobs: Processes, each with one thread of torch.
        progress: Gets one task for each group of cells.
    """

    work: Path
    jobs: int
    progress: Progress

    def results(self, title: str, cells: Sequence[Cell]) -> list[Kept]:
        """The results of all cells, in their order; those that are not kept yet are computed.

        Args:
            title: Of the progress task.
            cells: None of which needs another one of them.

        Raises:
            EvaluationError: If a kept result cannot be read.
        """
        missing = [cell for cell in cells if not (self.work / cell.file).exists()]
        task = self.progress.add_task(title, total=len(cells), completed=len(cells) - len(missing))
        if missing:
            self._compute(missing, lambda: self.progress.advance(task))
        return [self._read(cell) for cell in cells]

    def _compute(self, cells: Sequence[Cell], advance: Callable[[], None]) -> None:
        # Spawned, not forked: threads of torch do not survive a fork.
        context = multiprocessing.get_context("spawn")
        workers = min(self.jobs, len(cells))
        with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            cell_of = {pool.submit(cell.function, self.work, **cell.arguments): cell for cell in cells}
            try:
                for future in as_completed(cell_of):
                    self._keep(cell_of[future], future.result())
                    advance()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _keep(self, cell: Cell, kept: Kept) -> None:
        path = self.work / cell.file
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        with draft.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **kept)
        os.replace(draft, path)

    def _read(self, cell: Cell) -> Kept:
        path = self.work / cell.file
        try:
            # Opened here: np.load leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise EvaluationError(f"{path} cannot be read ({error}); delete it, and it is computed again") from error
