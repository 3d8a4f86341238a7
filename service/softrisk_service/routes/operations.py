"""Health and metrics, for those who run the service."""

from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from softrisk_service import schemas
from softrisk_service.engine import Engine
from softrisk_service.problems import problem

_OPENMETRICS: Final = "application/openmetrics-text"


def operation_routes(engine: Engine, registry: CollectorRegistry) -> APIRouter:
    """`/livez`, `/readyz` and `/metrics`."""
    router = APIRouter(tags=["Operations"], default_response_class=JSONResponse)

    @router.get("/livez", operation_id="livez", summary="Is the process up?", responses=schemas.ok(schemas.Live))
    async def livez() -> Response:
        return JSONResponse({"live": True})

    @router.get(
        "/readyz",
        operation_id="readyz",
        summary="Does the service want traffic, and which versions answer?",
        responses=schemas.ok(schemas.Readiness) | schemas.problems(503),
    )
    async def readyz(request: Request) -> Response:
        versions = [
            {"name": status.name, "version": status.version, "ready": status.ready}
            | ({} if status.reason is None else {"reason": status.reason})
            for status in engine.statuses()
        ]
        if engine.ready:
            return JSONResponse({"ready": True, "versions": versions})
        detail = f"not ready: {engine.condition}"
        return problem(request, 503, detail, {"retry-after": "1"}, ready=False, versions=versions)

    @router.get("/metrics", operation_id="metrics", summary="Prometheus metrics", responses=schemas.METRICS_RESPONSES)
    async def metrics(request: Request) -> Response:
        # Reduced to one of two forms first: the library's negotiation fails on versions that are no numbers.
        wanted = _OPENMETRICS if _OPENMETRICS in request.headers.get("accept", "") else ""
        encode, content_type = choose_encoder(wanted)
        return Response(encode(registry), headers={"content-type": content_type})

    return router
