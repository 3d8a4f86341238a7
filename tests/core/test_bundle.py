"""Bundles and repositories: what is sealed is read back, and every damage is named."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softrisk_core import __version__
from softrisk_core.bundle import (
    CALIBRATION,
    GOLDEN,
    MANIFEST,
    MODEL,
    RADIUS,
    SCORE,
    Bundle,
    CalibrationArrays,
    file_entry,
    load_bundle,
    write_golden,
    write_lipschitz,
    write_score,
)
from softrisk_core.conformal import confident_rank, marginal_rank
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.errors import BundleError, ModelNotFoundError
from softrisk_core.groups import Grouping
from softrisk_core.manifest import (
    OUTPUTS,
    RADII,
    CalibrationFacts,
    ImageInput,
    InputSpec,
    Level,
    Manifest,
    ModelFacts,
    Parity,
    RadiusFacts,
    Tolerance,
)
from softrisk_core.repository import Draft, Repository, resolve
from softrisk_core.score_facts import Nonconformity
from softrisk_core.scores.evidence import Evidence
from softrisk_core.scores.kl_matching import KLMatching


def calibration_arrays(n: int = 199) -> CalibrationArrays:
    rng = np.random.default_rng(n)
    counts, edges = np.histogram(rng.random(n), bins=10)
    return CalibrationArrays(
        scores=np.sort(rng.normal(size=n).astype(np.float32)),
        histograms={name: (edges, counts.astype(np.int64)) for name in DIAGNOSTICS},
        training_rows=np.arange(5, dtype=np.uint64),
        calibration_rows=np.arange(n, dtype=np.uint64),
    )


def manifest(name: str, version: int, calibration: CalibrationArrays) -> Manifest:
    n = calibration.scores.size
    return Manifest(
        format_version=1,
        name=name,
        version=version,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        inputs=(InputSpec(name="image", shape=(-1, 1, 8, 8), domain=(0, 1), image=ImageInput(mode="L", size=(8, 8))),),
        classes=("a", "b", "c"),
        opset=17,
        model=ModelFacts(origin="checkpoint", architecture="small-cnn", loss="DRSL(form=logit, tau=0.3)"),
        nonconformity=Nonconformity(score="logit_gap:low"),
        calibration=CalibrationFacts(
            id=calibration.id,
            n=n,
            alpha=0.01,
            levels=(Level(alpha=0.01, marginal_rank=marginal_rank(0.01, n), confident_rank=confident_rank(0.01, n)),),
            data="some clean data",
        ),
        parity=Parity(
            tolerance=Tolerance(absolute=1e-4, relative=1e-3), batch_sizes=(1, 2, 7, 64), source=1e-6, reference=1e-6
        ),
        files={},
        tools={"softrisk": __version__},
    )


def fill(draft: Draft) -> Manifest:
    calibration = calibration_arrays()
    (draft.folder / MODEL).write_bytes(b"the graph" * 100)
    calibration.write(draft.folder / CALIBRATION)
    write_golden(draft.folder / GOLDEN, {"image": np.ones((64, 1, 8, 8), np.float32)}, {"rank": np.arange(64)})
    return manifest(draft.name, draft.version, calibration)


def make_bundle(folder: Path, name: str = "digits") -> Bundle:
    with Repository(folder).new_version(name) as draft:
        return draft.seal(fill(draft))


def test_what_is_sealed_is_read_back(tmp_path: Path) -> None:
    sealed = make_bundle(tmp_path)
    assert sealed.folder == tmp_path / "digits" / "1"
    assert {path.name for path in sealed.folder.iterdir()} == {MANIFEST, MODEL, CALIBRATION, GOLDEN}
    found = load_bundle(sealed.folder)
    assert found.manifest == sealed.manifest
    expected = calibration_arrays()
    calibration = found.calibration()
    assert np.array_equal(calibration.scores, expected.scores)
    assert np.array_equal(calibration.training_rows, expected.training_rows)
    assert set(calibration.histograms) == set(DIAGNOSTICS)
    inputs, outputs = found.golden()
    assert inputs["image"].shape == (64, 1, 8, 8)
    assert outputs["rank"].tolist() == list(range(64))


def test_versions_count_up_and_the_highest_is_the_default(tmp_path: Path) -> None:
    for _ in range(11):
        make_bundle(tmp_path)
    make_bundle(tmp_path, "other")
    repository = Repository(tmp_path)
    assert repository.models() == ["digits", "other"]
    assert repository.versions("digits") == list(range(1, 12))
    assert repository.path("digits").name == "11"
    assert repository.path("digits", 2).name == "2"
    assert resolve(tmp_path / "digits") == tmp_path / "digits" / "11"
    assert resolve(tmp_path / "digits" / "3") == tmp_path / "digits" / "3"


def test_unknown_models_and_versions_list_what_there_is(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"no model 'cats'.*digits"):
        Repository(tmp_path).path("cats")
    with pytest.raises(ModelNotFoundError, match=r"no version 7; versions: \[1\]"):
        Repository(tmp_path).path("digits", 7)
    assert Repository(tmp_path / "absent").models() == []


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "-x"])
def test_model_names_are_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="not a model name"), Repository(tmp_path).new_version(name):
        pass


def test_a_failed_draft_leaves_no_trace(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with Repository(tmp_path).new_version("digits") as draft:
            fill(draft)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_draft_without_all_files_cannot_be_sealed(tmp_path: Path) -> None:
    with Repository(tmp_path).new_version("digits") as draft:
        document = fill(draft)
        (draft.folder / GOLDEN).unlink()
        with pytest.raises(BundleError, match=r"golden\.npz"):
            draft.seal(document)
    assert Repository(tmp_path).models() == []


def test_two_writers_of_one_version_do_not_mix(tmp_path: Path) -> None:
    errors: list[BundleError] = []
    ready = threading.Barrier(2)

    def write() -> None:
        with Repository(tmp_path).new_version("digits") as draft:
            document = fill(draft)
            ready.wait(timeout=10)
            try:
                draft.seal(document)
            except BundleError as error:
                errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=10)
    assert len(errors) == 1
    assert Repository(tmp_path).versions("digits") == [1]
    load_bundle(tmp_path / "digits" / "1")


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / MANIFEST
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def grouped(
    *labels: list[int], n: tuple[int, int] = (99, 100), format_version: int = 3
) -> Callable[[dict[str, Any]], None]:
    """Gives a manifest two calibration groups."""

    def change(document: dict[str, Any]) -> None:
        groups = [{"labels": each, "n": size, "levels": []} for each, size in zip(labels, n, strict=True)]
        document["calibration"] |= {"groups": groups, "levels": []}
        document["format_version"] = format_version

    return change


def several(format_version: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Gives a manifest a second input, which takes recordings and may be left out."""
    audio = {"sample_rate": 8000, "longer": "crop"}
    sound = {"name": "sound", "shape": [-1, 16000], "domain": [-1, 1], "audio": audio, "optional": True, **changes}

    def change(document: dict[str, Any]) -> None:
        document["inputs"].append(sound)
        document["format_version"] = format_version

    return change


def both(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for each in changes:
            each(document)

    return change


def bounded(format_version: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Gives a manifest a radius."""

    def change(document: dict[str, Any]) -> None:
        document["radius"] = {"spaces": {"image": "pixels"}, "kinds": ["certified"], **changes}
        document["format_version"] = format_version

    return change


def damage_truncate(folder: Path) -> None:
    path = folder / MODEL
    path.write_bytes(path.read_bytes()[:-10])


def damage_flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / MODEL).read_bytes())
    content[17] ^= 1
    (folder / MODEL).write_bytes(content)


def damage_swap_calibration(folder: Path) -> None:
    calibration_arrays(50).write(folder / CALIBRATION)
    entry = file_entry(folder / CALIBRATION).model_dump()
    edit_manifest(folder, lambda m: m["files"].update({CALIBRATION: entry}))


def damage_calibration_bytes(folder: Path) -> None:
    (folder / CALIBRATION).write_bytes(b"PK\x03\x04 not really")
    entry = file_entry(folder / CALIBRATION).model_dump()
    edit_manifest(folder, lambda m: m["files"].update({CALIBRATION: entry}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, r"model\.onnx is truncated: 890 of 900 bytes"),
        (damage_flip_a_bit, r"model\.onnx was changed after it was sealed"),
        (lambda f: (f / GOLDEN).unlink(), r"golden\.npz is missing"),
        (lambda f: (f / MANIFEST).unlink(), r"is not a bundle: it has no manifest\.json"),
        (lambda f: (f / MANIFEST).write_text('{"format"'), "not valid JSON"),
        (lambda f: (f / MANIFEST).write_text("[" * 100_000), "not valid JSON"),
        (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda f: (f / MANIFEST).write_text("[]"), "not the manifest of a softrisk bundle"),
        (lambda f: edit_manifest(f, lambda m: m.update(format="mlflow")), "not the manifest of a softrisk bundle"),
        (
            lambda f: edit_manifest(f, lambda m: m.update(format_version=5, tools={"softrisk": "9.1"})),
            r"has format 5, written by softrisk 9\.1.*upgrade",
        ),
        (lambda f: edit_manifest(f, lambda m: m.update(format_version=9, tools=[])), "written by softrisk a newer"),
        (lambda f: edit_manifest(f, lambda m: m.update(format_version="1")), "must be a positive integer, got '1'"),
        (lambda f: edit_manifest(f, lambda m: m.pop("classes")), "classes: Field required"),
        (lambda f: edit_manifest(f, lambda m: m.update(colour="red")), "colour: Extra inputs"),
        (lambda f: edit_manifest(f, lambda m: m["files"].pop(MODEL)), r"the entry of model\.onnx is missing"),
        (
            lambda f: edit_manifest(f, lambda m: m["files"].update({"../x": m["files"][MODEL]})),
            "not the name of a file in the bundle",
        ),
        (lambda f: edit_manifest(f, lambda m: m["calibration"].update(alpha=0.001)), "at least 999"),
        (
            lambda f: edit_manifest(f, lambda m: m["calibration"]["levels"][0].update(marginal_rank=3)),
            "not those of n = 199",
        ),
        (lambda f: edit_manifest(f, lambda m: m["inputs"][0].update(shape=[1, 8, 8])), "must be -1 followed by"),
        (
            lambda f: edit_manifest(f, lambda m: m["nonconformity"].update(diagnostic="magic")),
            "'magic:low' is not a score",
        ),
        (
            lambda f: edit_manifest(f, lambda m: m["nonconformity"].update(strange="two-sided")),
            "strange must be 'low' or 'high'",
        ),
        (
            lambda f: edit_manifest(f, lambda m: m.update(nonconformity={"score": "gen"})),
            "the score 'gen' needs format 2, not 1",
        ),
        (
            lambda f: edit_manifest(f, lambda m: m.update(nonconformity={"score": "kl-matching"}, format_version=2)),
            r"the entry of score\.npz is missing",
        ),
        (lambda f: edit_manifest(f, grouped([0, 1], [2], format_version=2)), "groups need format 3, not 2"),
        (lambda f: edit_manifest(f, grouped([0, 1], [1])), "each of the 3 labels once"),
        (lambda f: edit_manifest(f, grouped([0, 2], [1, 3])), "each of the 3 labels once"),
        (lambda f: edit_manifest(f, grouped([0, 1], [2], n=(100, 98))), "n = 199 rows together"),
        (lambda f: edit_manifest(f, grouped([0, 1], [2], n=(150, 49))), "at least 99"),
        (lambda f: edit_manifest(f, several(3)), "the input 'sound' needs format 4, not 3"),
        (lambda f: edit_manifest(f, several(4, name="image")), "inputs must have different names, got image, image"),
        (lambda f: edit_manifest(f, several(4, shape=[-1, 2, 9])), "recordings have one channel"),
        (lambda f: edit_manifest(f, several(4, audio={"sample_rate": 0})), "greater than 0"),
        (lambda f: edit_manifest(f, several(4, audio={"sample_rate": 9, "longer": "squeeze"})), "'refuse' or 'crop'"),
        (
            lambda f: edit_manifest(f, both(several(4), grouped([0, 1], [2], format_version=4))),
            "groups by label, or optional inputs, not both",
        ),
        (
            lambda f: edit_manifest(
                f, lambda m: m.update(format_version=4, inputs=[{**m["inputs"][0], "optional": True}])
            ),
            "the only input, 'image', cannot be optional",
        ),
        (lambda f: edit_manifest(f, bounded(3)), "a radius needs format 4, not 3"),
        (lambda f: edit_manifest(f, bounded(4, kinds=[])), "at least 1 item"),
        (lambda f: edit_manifest(f, bounded(4, kinds=["estimated", "certified"])), "in this order, got estimated, cer"),
        (
            lambda f: edit_manifest(f, bounded(4, spaces={"sound": "log-mel"})),
            "those of the inputs image, in this order",
        ),
        (lambda f: edit_manifest(f, bounded(4)), r"the entry of radius\.npz is missing"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = make_bundle(tmp_path).folder
    damage(folder)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(damage_swap_calibration, "not those of calibration"), (damage_calibration_bytes, r"calibration\.npz is damaged")],
)
def test_a_foreign_calibration_is_noticed(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = make_bundle(tmp_path).folder
    damage(folder)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder).calibration()


def test_a_repository_is_not_a_bundle_and_says_what_it_holds(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    with pytest.raises(BundleError, match="it holds digits/1: name one of these"):
        load_bundle(tmp_path)
    with pytest.raises(BundleError, match="is not a folder"):
        load_bundle(tmp_path / "absent")


@pytest.mark.parametrize("version", ["1", "2", "3_groups", "3_probes", "4"])
def test_the_golden_manifest_of_a_format_still_reads(version: str) -> None:
    """Written by the first version that had this format; it must read for as long as the format is read."""
    text = (Path(__file__).parent / f"golden_manifest_format_{version}.json").read_text()
    found = Manifest.model_validate_json(text)
    assert json.loads(found.model_dump_json()) == json.loads(text)


@pytest.mark.parametrize(
    ("score", "written", "shown"),
    [
        ("logit_gap:low", {"diagnostic": "logit_gap", "strange": "low"}, "−logit_gap"),
        ("energy:high", {"diagnostic": "energy", "strange": "high"}, "energy"),
        ("logit_gap:two-sided", {"score": "logit_gap:two-sided"}, "logit_gap:two-sided"),
        ("gen", {"score": "gen"}, "gen"),
    ],
)
def test_a_score_is_written_in_the_oldest_format_that_can_say_it(
    score: str, written: dict[str, str], shown: str
) -> None:
    nonconformity = Nonconformity(score=score)
    assert json.loads(nonconformity.model_dump_json()) == written
    assert Nonconformity.model_validate(written) == nonconformity
    assert str(nonconformity) == shown
    assert nonconformity.format_version == (2 if "score" in written else 1)


def probed(**changes: Any) -> dict[str, Any]:
    facts = {"mode": "auto", "names": ["shift", "noise"], "passes": 1.2}
    return {"score": "probed", "families": ["single-step"], "probes": {**facts, **changes}}


def test_probes_choice_and_families_need_format_3() -> None:
    candidate = {"score": "gen", "worst": 0.5, "attack": "FGSM", "mean": 0.75}
    chosen = {"choice": {"rows": 555, "families": ["single-step"], "candidates": [candidate]}}
    for fields in (probed(), {"score": "combined"}, {"score": "gen", **chosen}, {"score": "energy:low", **chosen}):
        assert Nonconformity.model_validate(fields).format_version == 3
    document = manifest("digits", 1, calibration_arrays()).model_dump(mode="json")
    for version in (1, 2):
        with pytest.raises(ValueError, match="needs format 3"):
            Manifest.model_validate({**document, "format_version": version, "nonconformity": probed()})
    found = Manifest.model_validate({**document, "format_version": 3, "nonconformity": probed()})
    assert str(found.nonconformity) == "probed, auto: shift, noise"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"score": "probed"}, "has probes, and no other"),
        ({**probed(), "score": "combined"}, "has probes, and no other"),
        (probed(names=["mirror"]), "some of flip, shift, noise"),
        (probed(names=["noise", "shift"]), "in this order"),
        (probed(names=[]), "at least 1 item"),
        (probed(mode="never"), "'auto' or 'always'"),
        (probed(passes=0.5), "greater than or equal to 1"),
        (probed(seed=1), "not permitted"),
    ],
)
def test_what_no_probed_score_can_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Nonconformity.model_validate(fields)


def test_a_fitted_score_is_sealed_with_what_was_fitted(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(200, 3))
    score = KLMatching.fit(logits)
    with Repository(tmp_path).new_version("digits") as draft:
        nonconformity = Nonconformity(score="kl-matching")
        facts = fill(draft).model_copy(update={"nonconformity": nonconformity, "format_version": 2})
        with pytest.raises(BundleError, match=r"the entry of score\.npz is missing"):
            draft.seal(facts)
        fitted_to_attacks = Nonconformity(score="combined", families=("single-step",))
        with pytest.raises(BundleError, match=r"the entry of score\.npz is missing"):
            draft.seal(facts.model_copy(update={"nonconformity": fitted_to_attacks, "format_version": 3}))
        write_score(draft.folder / SCORE, score)
        bundle = draft.seal(facts)
    evidence = Evidence(logits, np.empty((200, 1), np.float32), np.empty((0, 200, 3)))
    np.testing.assert_array_equal(bundle.score().of(evidence), score(logits))
    (bundle.folder / SCORE).write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"score\.npz is truncated"):
        load_bundle(bundle.folder)


def test_the_groups_of_a_manifest_are_by_label(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path).folder
    assert load_bundle(folder).manifest.grouping == Grouping.marginal(199, 3)
    edit_manifest(folder, grouped([0, 2], [1]))
    manifest = load_bundle(folder).manifest
    assert manifest.grouping == Grouping((0, 1, 0), (99, 100))
    assert manifest.calibration.format_version == 3


def test_a_marginal_manifest_says_nothing_of_groups(tmp_path: Path) -> None:
    assert "groups" not in json.loads(make_bundle(tmp_path).manifest.model_dump_json())["calibration"]


def test_a_manifest_of_one_image_says_nothing_of_what_format_4_brought(tmp_path: Path) -> None:
    document = json.loads(make_bundle(tmp_path).manifest.model_dump_json())
    assert "radius" not in document
    assert set(document["inputs"][0]) == {"name", "datatype", "shape", "domain", "image"}


def test_the_cases_and_outputs_of_a_bundle_follow_from_its_inputs_and_radius() -> None:
    document = manifest("digits", 1, calibration_arrays()).model_dump(mode="json")
    plain = Manifest.model_validate(document)
    assert (plain.cases, plain.outputs) == ((("image",),), OUTPUTS)
    bounded(4, kinds=["certified", "estimated"])(document)
    assert Manifest.model_validate(document).outputs == (*OUTPUTS, *RADII)
    several(4)(document)
    bounded(4, spaces={"image": "pixels", "sound": "log-mel"})(document)
    found = Manifest.model_validate(document)
    assert found.cases == (("image", "sound"), ("image",))
    radii = ("certified_radius", "certified_radius_image", "certified_radius_sound")
    assert found.outputs == (*OUTPUTS, *radii)
    # Ranks and limits mean the same in each case, and whoever compares them need not know it.
    assert found.grouping == Grouping.marginal(199, 3)


def test_the_constants_of_a_radius_are_sealed(tmp_path: Path) -> None:
    constants = np.random.default_rng(0).random((1, 3, 3))
    with Repository(tmp_path).new_version("digits") as draft:
        facts = fill(draft).model_copy(
            update={"format_version": 4, "radius": RadiusFacts(spaces={"image": "pixels"}, kinds=("certified",))}
        )
        with pytest.raises(BundleError, match=r"the entry of radius\.npz is missing"):
            draft.seal(facts)
        write_lipschitz(draft.folder / RADIUS, {"certified": constants})
        bundle = draft.seal(facts)
    np.testing.assert_array_equal(bundle.lipschitz()["certified"], constants)
    assert RADIUS in bundle.manifest.files
    assert make_bundle(tmp_path, "plain").lipschitz() == {}


def test_scores_are_those_of_every_case(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path).folder
    edit_manifest(folder, several(4))
    with pytest.raises(BundleError, match="not those of calibration"):
        load_bundle(folder).calibration()
