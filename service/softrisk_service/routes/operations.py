"""Health and metrics, for those who run the service."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from softrisk_service import descriptions, schemas
from softrisk_service.engine import Engine
from softrisk_service.exposition import Scrape
from softrisk_service.problems import problem


def operation_routes(engine: Engine, scrape: Scrape) -> APIRouter:
    """`/livez`, `/readyz` and `/metrics`."""
    router = APIRouter(tags=["Operations"], default_response_class=JSONResponse)

    @router.get("/livez", operation_id="livez", summary="Is the process up?", responses=descriptions.ok(schemas.Live))
    async def livez() -> Response:
        return JSONResponse({"live": True})

    @router.get(
        "/readyz",
        operation_id="readyz",
        summary="Does the service want traffic, and which versions answer?",
        responses=descriptions.ok(schemas.Readiness) | descriptions.problems(503),
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

    @router.get(
        "/metrics", operation_id="metrics", summary="Prometheus metrics", responses=descriptions.METRICS_RESPONSES
    )
    async def metrics(request: Request) -> Response:
        text, content_type = await scrape(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return router
