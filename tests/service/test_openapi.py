"""The committed contract is the one of the app."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from softrisk_service import descriptions, schemas
from softrisk_service.app import create_app
from softrisk_service.engine import Engine
from softrisk_service.metrics import Metrics
from softrisk_service.openapi import render
from softrisk_service.settings import Settings


@pytest.fixture
def document() -> bytes:
    registry = CollectorRegistry()
    settings = Settings()
    return render(create_app(settings, registry=registry, engine=Engine(settings, Metrics(registry))))


def test_the_committed_document_is_current(document: bytes, repository_root: Path) -> None:
    committed = (repository_root / "clients/openapi.json").read_bytes()
    assert committed == document, "run: python -m softrisk_service.openapi > clients/openapi.json"


def test_every_reference_resolves_and_every_route_says_what_it_takes(document: bytes) -> None:
    parsed = orjson.loads(document)
    defined = {f"#/components/schemas/{name}" for name in parsed["components"]["schemas"]}

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if "$ref" in node else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    assert references(parsed) <= defined
    posts = [item["post"] for item in parsed["paths"].values() if "post" in item]
    assert len(posts) == 7
    assert all("application/json" in post["requestBody"]["content"] for post in posts)
    operations = [op["operationId"] for item in parsed["paths"].values() for op in item.values()]
    assert len(operations) == len(set(operations))


def test_the_examples_are_valid() -> None:
    schemas.PredictResponse.model_validate(
        descriptions.PREDICT_RESPONSES[200]["content"]["application/json"]["example"]
    )
    schemas.InferResponse.model_validate(descriptions.INFER_RESPONSES[200]["content"]["application/json"]["example"])
    predict: Any = descriptions.PREDICT_REQUEST
    for example in predict["requestBody"]["content"]["application/json"]["examples"].values():
        schemas.PredictRequest.model_validate(example["value"])
    infer: Any = descriptions.INFER_REQUEST
    schemas.InferRequest.model_validate(infer["requestBody"]["content"]["application/json"]["example"])


async def test_the_app_serves_document_and_pages(service: Any, document: bytes) -> None:
    served = await service.client.get("/openapi.json")
    assert served.json() == orjson.loads(document)
    page = (await service.client.get("/docs")).text
    assert "http:" not in page
    assert "https:" not in page
    assets = re.findall(r'(?:src|href)="(.+?)"', page)
    assert {Path(asset).suffix for asset in assets} == {".css", ".js", ".png"}
    for asset in assets:
        assert (await service.client.get(asset)).status_code == 200
    assert (await service.client.get("/docs/assets/nothing")).status_code == 404
