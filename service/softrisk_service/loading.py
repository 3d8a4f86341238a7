"""From a version's folder to a model that has proved itself, or to the reason why it has not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from softrisk_core.bundle import load_bundle
from softrisk_core.errors import BundleError, CalibrationError, SoftriskError
from softrisk_core.manifest import InputSpec, Manifest
from softrisk_service.errors import NotServableError
from softrisk_service.policy import Policy
from softrisk_service.runtime import Runtime
from softrisk_service.settings import Settings

_CHANNELS: Final = {"L": 1, "RGB": 3}

log = structlog.get_logger()


@dataclass(frozen=True)
class Loaded:
    """A version that can be served."""

    manifest: Manifest
    policy: Policy
    runtime: Runtime


@dataclass(frozen=True)
class Fault:
    """Why a version cannot be served.

    Attributes:
        outward: Short and without paths of this machine, since anybody may read it.
        detail: In full, for the operator.
    """

    outward: str
    detail: str


def load(folder: Path, settings: Settings, current: Manifest | None) -> Loaded | Fault | None:
    """Load and warm up a version; blocks.

    Args:
        folder: `<repository>/<model>/<version>`.
        settings: How to run it.
        current: Of the bundle that was loaded from this folder before.

    Returns:
        None if the folder still holds that bundle.
    """
    try:
        bundle = load_bundle(folder)
        manifest = bundle.manifest
        if manifest == current:
            return None
        if (manifest.name, str(manifest.version)) != (folder.parent.name, folder.name):
            raise NotServableError(
                f"{folder} holds {manifest.name} version {manifest.version}: a bundle cannot be renamed by hand"
            )
        for spec in manifest.inputs:
            _check_image(spec)
        policy = Policy.of(manifest.grouping, manifest.calibration.alpha, settings.alpha_review, settings.alpha_reject)
        return Loaded(manifest, policy, Runtime(bundle, settings))
    except Exception as error:  # one broken bundle must not take the others down
        expected = isinstance(error, SoftriskError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        log.error(
            "version not ready",
            model=folder.parent.name,
            version=int(folder.name),
            reason=reason,
            exc_info=not expected,
        )
        return Fault(_outward(error), reason)


def _outward(error: Exception) -> str:
    match error:
        case BundleError():
            return "its bundle is damaged or cannot be read; the log says more"
        case CalibrationError():
            return "its calibration cannot serve the decision levels; the log says more"
        case NotServableError():
            return "its graph cannot be served here; the log says more"
        case _:
            return "it could not be loaded; the log says more"


def _check_image(spec: InputSpec) -> None:
    if spec.image is not None and spec.instance_shape != (_CHANNELS[spec.image.mode], *spec.image.size):
        raise NotServableError(
            f"input {spec.name!r} has shape {list(spec.instance_shape)}, but its images are {spec.image.mode} "
            f"of {spec.image.size[0]}×{spec.image.size[1]}"
        )
