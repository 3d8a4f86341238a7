"""Open Inference Protocol (KServe V2)."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from softrisk_core import __version__
from softrisk_core.manifest import Manifest, RadiusFacts
from softrisk_service import descriptions, schemas
from softrisk_service.codecs import v2
from softrisk_service.codecs.v2_answer import calibration_parameters, output_datatype, output_shape
from softrisk_service.disclosure import Disclosure, visible
from softrisk_service.engine import Engine
from softrisk_service.errors import NotReadyError
from softrisk_service.inference import Target
from softrisk_service.routes.callers import disclosure_of
from softrisk_service.routes.inference import InferenceRoute

_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"


def v2_health_routes(engine: Engine) -> APIRouter:
    """The routes below `/v2/health`, which ask for no key: probes have none."""
    router = APIRouter(tags=["Open Inference Protocol"], default_response_class=JSONResponse)

    @router.get(
        "/v2/health/live", operation_id="v2_live", summary="Is the server up?", responses=descriptions.ok(schemas.Live)
    )
    async def live() -> Response:
        return JSONResponse({"live": True})

    @router.get(
        "/v2/health/ready",
        operation_id="v2_ready",
        summary="Does the server want traffic?",
        responses=descriptions.ok(schemas.Ready) | descriptions.problems(503),
    )
    async def ready() -> Response:
        if not engine.ready:
            raise NotReadyError(f"not ready: {engine.condition}")
        return JSONResponse({"ready": True})

    return router


def v2_routes(engine: Engine, inference: InferenceRoute) -> APIRouter:
    """All other routes below `/v2`."""
    router = APIRouter(tags=["Open Inference Protocol"], default_response_class=JSONResponse)

    @router.get("/v2/", include_in_schema=False)
    @router.get(
        "/v2", operation_id="v2_server", summary="Server metadata", responses=descriptions.ok(schemas.ServerMetadata)
    )
    async def server() -> Response:
        extensions = ["binary_tensor_data", *(["model_repository"] if engine.takes_orders else [])]
        return JSONResponse({"name": "softrisk", "version": __version__, "extensions": extensions})

    @router.get(
        _MODEL,
        operation_id="v2_model",
        summary="Model metadata",
        responses=descriptions.ok(schemas.ModelMetadata) | descriptions.problems(404, 503),
    )
    async def model_metadata(request: Request, model: str) -> Response:
        return JSONResponse(_metadata(engine, model, None, disclosure_of(request)))

    @router.get(
        _VERSION,
        operation_id="v2_model_version",
        summary="Metadata of a version",
        responses=descriptions.ok(schemas.ModelMetadata) | descriptions.problems(404, 503),
    )
    async def version_metadata(request: Request, model: str, version: str) -> Response:
        return JSONResponse(_metadata(engine, model, version, disclosure_of(request)))

    @router.get(
        f"{_MODEL}/ready",
        operation_id="v2_model_ready",
        summary="Is a model ready?",
        responses=descriptions.ok(schemas.Ready) | descriptions.problems(404, 503),
    )
    async def model_ready(model: str) -> Response:
        engine.find(model)
        return JSONResponse({"ready": True})

    @router.get(
        f"{_VERSION}/ready",
        operation_id="v2_model_version_ready",
        summary="Is a version ready?",
        responses=descriptions.ok(schemas.Ready) | descriptions.problems(404, 503),
    )
    async def version_ready(model: str, version: str) -> Response:
        engine.find(model, version)
        return JSONResponse({"ready": True})

    @router.post(
        f"{_MODEL}/infer",
        operation_id="v2_infer",
        summary="Infer with the default version",
        responses=descriptions.INFER_RESPONSES,
        openapi_extra=descriptions.INFER_REQUEST,
    )
    async def infer(request: Request, model: str) -> Response:
        return await inference.answer(request, Target(v2, model, None, disclosure_of(request)))

    @router.post(
        f"{_VERSION}/infer",
        operation_id="v2_infer_version",
        summary="Infer with a version",
        responses=descriptions.INFER_RESPONSES,
        openapi_extra=descriptions.INFER_REQUEST,
    )
    async def infer_version(request: Request, model: str, version: str) -> Response:
        return await inference.answer(request, Target(v2, model, version, disclosure_of(request)))

    return router


def _metadata(engine: Engine, model: str, version: str | None, disclosure: Disclosure) -> dict[str, Any]:
    served = engine.find(model, version)
    manifest = served.manifest
    statuses = [status for status in engine.statuses() if status.name == model]
    default = next((status.version for status in statuses if status.default), None)
    broken = {f"not_ready_{status.version}": status.reason for status in statuses if not status.ready}
    return {
        "name": model,
        "versions": [status.version for status in statuses if status.ready],
        "platform": v2.PLATFORM,
        "inputs": [{"name": i.name, "datatype": i.datatype, "shape": i.shape} for i in manifest.inputs],
        "outputs": [
            {"name": name, "datatype": output_datatype(name), "shape": output_shape(name, len(manifest.classes))}
            for name in visible(manifest.outputs, disclosure)
        ],
        "parameters": {
            "device": served.provider.removesuffix("ExecutionProvider").lower(),
            "precision": manifest.model.precision,
            **_input_facts(manifest),
            **(calibration_parameters(served, manifest.calibration.alpha) if disclosure == "full" else {}),
            **(_radius_facts(manifest.radius) if disclosure == "full" and manifest.radius is not None else {}),
            **({} if default is None else {"default_version": default}),
            **broken,
        },
    }


def _input_facts(manifest: Manifest) -> dict[str, Any]:
    """What the protocol has no field for: which inputs may be left out, and at which rate recordings are sampled."""
    optional = ",".join(spec.name for spec in manifest.inputs if spec.optional)
    rates = {f"sample_rate_{spec.name}": spec.audio.sample_rate for spec in manifest.inputs if spec.audio is not None}
    return ({"optional_inputs": optional} if optional else {}) | rates


def _radius_facts(facts: RadiusFacts) -> dict[str, Any]:
    return {"radius_norm": facts.norm} | {f"radius_space_{name}": space for name, space in facts.spaces.items()}
