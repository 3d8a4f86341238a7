"""Cells are computed once, whatever happens in between, and found again wherever the working folder is."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.experiments.study import Cell, Kept, Study, slug

scalars = st.integers(0, 2) | st.sampled_from(["", "1", "ce", "τ"]) | st.booleans()
plain_values = scalars | st.lists(scalars, max_size=3)
some_arguments = st.dictionaries(st.sampled_from(["task", "arm", "seed"]), plain_values)


@dataclass(frozen=True)
class Recipe:
    width: int
    settings: dict[str, float]


COMPUTED: list[int] = []


def doubled(work: Path, number: int) -> Kept:
    COMPUTED.append(number)
    return {"value": np.array(2 * number), "names": np.array(["a", "b"])}


def interrupted(work: Path, after: list[str]) -> Kept:
    """As Ctrl-C does it, once those before are kept."""
    limit = time.monotonic() + 10
    while not all((work / file).exists() for file in after):
        assert time.monotonic() < limit
        time.sleep(0.01)
    raise KeyboardInterrupt


def cells_of(*numbers: int) -> list[Cell]:
    return [Cell(f"group/{number}", doubled, {"number": number}) for number in numbers]


def values(study: Study, *numbers: int) -> list[int]:
    return [int(each["value"]) for each in study.results("doubling", cells_of(*numbers))]


@pytest.fixture(autouse=True)
def _nothing_computed() -> None:
    COMPUTED.clear()


def test_results_come_in_the_order_of_the_cells(kept: Study) -> None:
    assert values(kept, 2) == [4]
    assert values(kept, 3, 2, 1) == [6, 4, 2]


def test_a_finished_cell_is_not_computed_again(kept: Study) -> None:
    first = kept.results("doubling", cells_of(1, 2))
    again = kept.results("doubling", cells_of(1, 2, 3))
    assert sorted(COMPUTED) == [1, 2, 3]
    assert again[0].keys() == first[0].keys()
    np.testing.assert_array_equal(again[0]["names"], ["a", "b"])


def test_experiments_share_cells(kept: Study) -> None:
    values(kept, 1)
    assert values(replace(kept, jobs=1), 1) == [2]
    assert COMPUTED == [1]


def test_an_interrupted_study_keeps_what_was_finished_and_goes_on(kept: Study) -> None:
    finished = cells_of(1, 2)
    stop = Cell("group/stop", interrupted, {"after": [cell.file for cell in finished]})
    with pytest.raises(KeyboardInterrupt):
        kept.results("doubling", [*finished, stop, *cells_of(3)])
    assert COMPUTED[:2] == [1, 2]
    COMPUTED.clear()
    assert values(kept, 1, 2, 3) == [2, 4, 6]
    assert not {1, 2} & set(COMPUTED)


def test_nothing_half_written_is_taken_for_a_result(kept: Study) -> None:
    (cell,) = cells_of(5)
    draft = (kept.work / cell.file).with_suffix(".tmp")
    draft.parent.mkdir(parents=True)
    draft.write_bytes(b"an interrupted write")
    assert values(kept, 5) == [10]
    assert not draft.exists()


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "overwritten"])
def test_a_damaged_file_is_named_with_what_to_do(kept: Study, damage: str) -> None:
    values(kept, 7)
    (cell,) = cells_of(7)
    file = kept.work / cell.file
    whole = file.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"value: 14",
        "cut": whole[: len(whole) // 2],
        # Behind the header of the first array.
        "overwritten": whole[:64] + bytes(16) + whole[80:],
    }
    file.write_bytes(damaged[damage])
    with pytest.raises(EvaluationError, match=rf"{cell.name}.*delete it"):
        values(kept, 7)
    file.unlink()
    assert values(kept, 7) == [14]


def test_the_place_of_the_working_folder_does_not_matter(kept: Study, tmp_path: Path) -> None:
    values(kept, 1, 2)
    kept.work.rename(tmp_path / "elsewhere")
    assert values(replace(kept, work=tmp_path / "elsewhere"), 2, 1) == [4, 2]
    assert sorted(COMPUTED) == [1, 2]


@given(some_arguments, some_arguments)
def test_the_file_is_decided_by_the_arguments(first: dict[str, Any], second: dict[str, Any]) -> None:
    def file(arguments: dict[str, Any]) -> str:
        return Cell("name", doubled, arguments).file

    # As text, where True is not 1.
    assert (file(first) == file(second)) == (repr(sorted(first.items())) == repr(sorted(second.items())))
    assert file(first) == file(dict(reversed(first.items())))


def test_the_file_is_decided_by_dataclasses_and_function_too() -> None:
    recipe = Recipe(4, {"tau": 0.1})
    cell = Cell("name", doubled, {"recipe": recipe})
    assert replace(cell, arguments={"recipe": Recipe(4, {"tau": 0.1})}).file == cell.file
    assert replace(cell, arguments={"recipe": Recipe(4, {"tau": 0.2})}).file != cell.file
    assert replace(cell, function=interrupted).file != cell.file


def test_arguments_that_say_nothing_of_their_value_are_refused() -> None:
    with pytest.raises(TypeError, match="plain values, got object"):
        _ = Cell("name", doubled, {"what": object()}).file


@given(st.text("aB9τ·=. /\\\\%", max_size=12))
def test_a_slug_is_one_part_of_a_path(name: str) -> None:
    assert all(letter.isalnum() or letter in ".=-" for letter in slug(name))
