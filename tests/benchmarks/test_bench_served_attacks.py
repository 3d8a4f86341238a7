"""Attackers of a running service: what they see, what is counted, and the page about it."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from benchmarks.disclosure_page import Record
from benchmarks.served_attacks import ATTACKERS, main
from benchmarks.served_model import Caller, ServedModel
from benchmarks.serving.codecs import Answer, Images

from softrisk_attacks.rays import RayS
from softrisk_attacks.victim import Victim
from softrisk_core.repository import Repository
from softrisk_export.checkpoint_source import checkpoint_source
from softrisk_export.fit import Wanted
from softrisk_export.seal import seal


class Bright:
    """Answers 1 where the mean is above a half, else 0, and flags what is near a half."""

    def ask(self, images: Images) -> Answer:
        mean = images.reshape(len(images), -1).mean(axis=1)
        return {"label": (mean > 0.5).astype(np.int64), "flagged": np.abs(mean - 0.5) < 0.03}


def bright(*, avoid_flags: bool) -> tuple[ServedModel, torch.Tensor, torch.Tensor]:
    originals = torch.tensor([[0.4, 0.4, 0.4, 0.4], [0.74, 0.0, 0.74, 0.0], [0.9, 0.9, 0.9, 0.9]]).view(3, 1, 2, 2)
    labels = torch.tensor([0, 0, 1])
    caller = cast(Caller, Bright())
    return ServedModel(caller, originals, labels, classes=2, epsilon=0.15, avoid_flags=avoid_flags), originals, labels


def test_a_label_becomes_logits_and_a_flagged_answer_stands_for_no_class() -> None:
    for avoid_flags, second in ((False, [0.0, 1.0]), (True, [0.0, 0.0])):
        model, _, _ = bright(avoid_flags=avoid_flags)
        points = torch.tensor([0.2, 0.52])[:, None, None, None].expand(2, 1, 2, 2)
        assert model(points).tolist() == [[1.0, 0.0], second]


def test_questions_are_counted_and_successes_only_inside_the_ball() -> None:
    for avoid_flags, succeeds in ((False, [True, True, False]), (True, [True, False, False])):
        model, originals, labels = bright(avoid_flags=avoid_flags)
        victim = Victim(model, originals[:1].numpy())
        model.start()
        found = RayS(0.15, 40).perturb(victim, originals, labels, torch.Generator())
        assert (model.first_success > 0).tolist() == succeeds
        assert (found.points != originals).flatten(1).any(dim=1).tolist() == succeeds
        # Who has succeeded asks no more, and who never does spends everything.
        spent = torch.where(model.first_success > 0, model.first_success, 40)
        assert model.questions == spent.sum()


def test_images_that_cannot_be_told_apart_are_refused() -> None:
    originals = torch.tensor([0.4, 0.6]).view(2, 1, 1, 1)
    with pytest.raises(ValueError, match=r"further apart than 2 ε = 0\.3"):
        ServedModel(cast(Caller, Bright()), originals, torch.tensor([0, 1]), classes=2, epsilon=0.15, avoid_flags=False)


def test_every_level_of_a_real_service_is_attacked(
    trained_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # other tests keep their threads
    source, rows = checkpoint_source(trained_digits, None)
    bundle = seal(Repository(tmp_path / "models"), "digits", source, rows, Wanted("logit_gap:low"), 0.05).bundle
    out = tmp_path / "out"
    main(bundle.folder, trained_digits, out, epsilon=[0.3], queries=[10, 60], images=12, seed=0)
    record = Record.model_validate_json((out / "result.json").read_text())
    assert [(each.level, each.attacker) for each in record.largest] == [(each.level, each.name) for each in ATTACKERS]
    by_name = {(each.level, each.attacker): each for each in record.largest}
    for each in record.attempts:
        assert each.successful.trials == each.unflagged.trials == 12
        assert each.unflagged.successes <= each.successful.successes
        assert each.mean_queries <= each.queries
    assert by_name["full", "Square"].successful.successes > 0
    # Neither looks at the flag.
    assert by_name["coarse", "RayS"].successful == by_name["none", "RayS"].successful
    careful = by_name["coarse", "RayS around the flag"]
    assert careful.unflagged == careful.successful
    page = (out / "README.md").read_text()
    assert "| 0.3 | coarse | RayS around the flag |" in page
    assert "![Successes over queries](disclosure.png)" in page
    assert (out / "disclosure.png").stat().st_size > 1000
