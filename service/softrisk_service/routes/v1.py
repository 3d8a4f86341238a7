"""KServe V1 protocol."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from softrisk_service import descriptions, schemas
from softrisk_service.codecs import v1
from softrisk_service.engine import Engine
from softrisk_service.inference import Target
from softrisk_service.routes.callers import disclosure_of
from softrisk_service.routes.inference import InferenceRoute

_PREDICT = "/v1/models/{model}:predict"
_PREDICT_VERSION = "/v1/models/{model}/versions/{version}:predict"


def v1_routes(engine: Engine, inference: InferenceRoute) -> APIRouter:
    """The routes below `/v1`."""
    router = APIRouter(tags=["KServe V1"], default_response_class=JSONResponse)

    @router.post(
        _PREDICT,
        operation_id="v1_predict",
        summary="Predict with the default version",
        responses=descriptions.PREDICT_RESPONSES,
        openapi_extra=descriptions.PREDICT_REQUEST,
    )
    async def predict(request: Request, model: str) -> Response:
        return await inference.answer(request, Target(v1, model, None, disclosure_of(request)))

    @router.post(
        _PREDICT_VERSION,
        operation_id="v1_predict_version",
        summary="Predict with a version",
        responses=descriptions.PREDICT_RESPONSES,
        openapi_extra=descriptions.PREDICT_REQUEST,
    )
    async def predict_version(request: Request, model: str, version: str) -> Response:
        return await inference.answer(request, Target(v1, model, version, disclosure_of(request)))

    # Without these a GET would look for a model whose name ends in ":predict".
    @router.get(_PREDICT, include_in_schema=False)
    @router.get(_PREDICT_VERSION, include_in_schema=False)
    async def get_predict() -> Response:
        raise HTTPException(405, headers={"allow": "POST"})

    @router.get(
        "/v1/models", operation_id="v1_models", summary="List the models", responses=descriptions.ok(schemas.ModelList)
    )
    async def models() -> Response:
        return JSONResponse({"models": engine.names()})

    @router.get(
        "/v1/models/{model}",
        operation_id="v1_model",
        summary="Is a model ready?",
        responses=descriptions.ok(schemas.ModelState) | descriptions.problems(404, 503),
    )
    async def state(model: str) -> Response:
        return JSONResponse({"name": engine.find(model).name, "ready": True})

    return router
