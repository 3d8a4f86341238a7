"""A bundle that is calibrated per predicted class, served: each row is judged among the scores of its group."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle
from softrisk_core.groups import Grouping
from softrisk_core.repository import Repository
from softrisk_export.cli_calibrate import bundle_source
from softrisk_export.fit import Wanted
from softrisk_export.seal import seal
from softrisk_export.source import CleanRows

Pixels = Callable[[int, int], NDArray[np.float32]]

ALPHA = 0.05
LABELS = {"model": "tiny", "version": "2"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Any, images: Pixels) -> Bundle:
    """The tiny classifier, calibrated anew on 600 rows."""
    folder = tmp_path_factory.mktemp("repository")
    source = bundle_source(make_bundle(folder))
    rows = CleanRows(inputs={"image": images(600, 9)}, data="tests")
    return seal(Repository(folder), "tiny", source, rows, Wanted("logit_gap:low"), ALPHA, per_class=True).bundle


@pytest.fixture(params=["ordinary way", "shortcut"])
async def service(request: pytest.FixtureRequest, bundle: Bundle, serve: Any) -> AsyncIterator[Any]:
    async with serve(bundle.folder.parent.parent, sockets=request.param == "shortcut") as running:
        yield running


def ranked(bundle: Bundle, outputs: dict[str, Any]) -> list[int]:
    """Ranks by the reference, from scores and labels of an answer."""
    grouping: Grouping = bundle.manifest.grouping
    scores, labels = np.array(outputs["nonconformity"], np.float32), np.array(outputs["label"])
    ranks: list[int] = grouping.ranks(scores, labels, bundle.calibration().scores).tolist()
    return ranks


async def infer(service: Any, array: NDArray[np.float32], **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": array.shape, "datatype": "FP32", "data": array.ravel().tolist()}
    response = await service.post("/v2/models/tiny/infer", {"inputs": [tensor], "parameters": parameters})
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


def test_the_bundle_has_groups_of_several_sizes(bundle: Bundle) -> None:
    assert bundle.manifest.format_version == 3
    assert len(set(bundle.manifest.grouping.sizes)) > 1


@pytest.mark.parametrize("guarantee", ["marginal", "confident"])
@pytest.mark.parametrize("alpha", [None, 0.1, 0.5])
@pytest.mark.parametrize("rows", [1, 300])
async def test_flags_of_both_protocols_are_at_the_limit_of_the_label(
    service: Any, bundle: Bundle, images: Pixels, rows: int, alpha: float | None, guarantee: str
) -> None:
    array = images(rows, 21)
    parameters = {"guarantee": guarantee} | ({} if alpha is None else {"alpha": alpha})
    answer = await infer(service, array, **parameters)
    assert answer["rank"] == ranked(bundle, answer)
    grouping = bundle.manifest.grouping
    limits = grouping.rank_limits(alpha or ALPHA, guarantee)  # type: ignore[arg-type] # parametrised with the two
    expected = [rank <= limits[label] for rank, label in zip(answer["rank"], answer["label"], strict=True)]
    assert answer["flagged"] == expected
    sizes = np.array(grouping.size_of_key)[answer["label"]]
    assert answer["p_value"] == pytest.approx((np.array(answer["rank"]) / (sizes + 1)).tolist(), rel=1e-6)

    body = {"instances": array.tolist(), "parameters": parameters}
    response = await service.post("/v1/models/tiny:predict", body)
    risks = [prediction["risk"] for prediction in response.json()["predictions"]]
    assert [risk["flagged"] for risk in risks] == expected
    assert [risk["p_value"] for risk in risks] == (np.array(answer["rank"]) / (sizes + 1)).tolist()
    largest = max(risk["score"] for risk in risks)
    assert response.headers["x-adversarial-risk"] == f"max={largest:.6g}; flagged={sum(expected)}"


async def test_the_graphs_own_flag_is_the_default(service: Any, bundle: Bundle, images: Pixels) -> None:
    answer = await infer(service, images(300, 23))
    limits = bundle.manifest.grouping.rank_limits(ALPHA)
    assert sum(answer["flagged"]) > 0
    assert len({limits[label] for label in answer["label"]}) > 1


async def test_an_alpha_that_the_smallest_group_cannot_serve_is_refused(
    service: Any, bundle: Bundle, images: Pixels
) -> None:
    smallest = min(bundle.manifest.grouping.sizes)
    alpha = 1 / (smallest + 2)
    assert alpha * (max(bundle.manifest.grouping.sizes) + 1) >= 1
    body = {"instances": images(1, 1).tolist(), "parameters": {"alpha": alpha}}
    response = await service.post("/v1/models/tiny:predict", body)
    assert response.status_code == 422
    assert f"it needs at least {smallest + 1}" in json.loads(response.content)["detail"]


async def test_metrics_count_decisions_and_p_values_of_the_groups(service: Any, images: Pixels) -> None:
    body = {"instances": images(300, 25).tolist()}
    risks = [p["risk"] for p in (await service.post("/v1/models/tiny:predict", body)).json()["predictions"]]
    for decision in ("review", "reject"):
        counted = service.value("softrisk_flagged_total", **LABELS, decision=decision)
        assert counted == [risk["decision"] for risk in risks].count(decision)
    for bound in (0.01, 0.05, 0.1, 0.5):
        counted = service.value("softrisk_p_value_bucket", **LABELS, le=str(bound))
        assert counted == sum(risk["p_value"] <= bound for risk in risks)
