"""Judges a running service on every test image: do graph, V1, V2 and metrics agree on each flag?

    python benchmarks/served_flags.py models mnist DATA --out docs/results/mnist

DATA is what `softrisk train` takes; its published test rows are sent in blocks. The graph is run by onnxruntime alone,
without any code of ours. Also measured: the false-alarm rate as a whole and by halves, PNG against JSON, seconds until
ready, resident memory, and whether the process ever loaded torch. Ends with status 1 if anything disagrees or a limit
below is exceeded.
"""

import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from urllib.request import urlopen

import numpy as np
import onnxruntime
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from softrisk_client import Client, Prediction, Tensor
from softrisk_core.bundle import load_bundle
from softrisk_core.conformal import marginal_rank
from softrisk_core.manifest import Manifest
from softrisk_core.repository import Repository
from softrisk_evaluation.statistics import FalseAlarmLaw, GroupAlarms, clopper_pearson
from softrisk_training.data import load_data

BLOCK = 100
IMAGES = 500
DIFFERENCE = 1e-5
"""Allowed between the answers to an image as PNG and as JSON."""
SECONDS = 3.0
"""Allowed until the service is ready."""
RESIDENT_MIB = 300
"""Allowed resident memory of the process."""


def main(
    repository: Annotated[Path, typer.Argument(help="The model repository to serve.")],
    model: Annotated[str, typer.Argument(help="The model in it.")],
    data: Annotated[str, typer.Argument(help="Data with published test rows, as softrisk train takes it.")],
    out: Annotated[Path, typer.Option(help="Folder for served_flags.json.")],
) -> None:
    """Send every test image to the service by V1 and V2, and compare with the graph alone."""
    images = load_data(data)
    assert images.test_rows is not None, f"{data} has no published test rows"
    inputs = images.inputs(images.test_rows)
    bundle = load_bundle(Repository(repository).path(model))
    calibration = bundle.manifest.calibration
    graph = _graph_alone(bundle.model_path, inputs)

    with service(repository) as (url, seconds, process), Client(url, model=model) as client:
        resident_at_start = _resident_mib(process.pid)
        v1 = [
            prediction
            for start in track(range(0, len(inputs), BLOCK), "V1")
            for prediction in client.predict(inputs[start : start + BLOCK]).predictions
        ]
        flags_counted_after_v1 = _flagged_total(url)
        v2: dict[str, list[Any]] = {"flagged": [], "rank": [], "label": []}
        name = client.model().inputs[0].name
        for start in track(range(0, len(inputs), BLOCK), "V2"):
            answer = client.infer([Tensor.of(name, inputs[start : start + BLOCK])], outputs=list(v2))
            for output, values in v2.items():
                values.extend(answer[output].tolist())
        flags_counted_after_v2 = _flagged_total(url)
        difference = _png_against_json(client, inputs[:IMAGES])
        resident = _resident_mib(process.pid)
        loaded_torch = "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()

    flags = {
        "graph": graph["flagged"],
        "v1": np.array([_risk(p)["flagged"] for p in v1]),
        "v2": np.array(v2["flagged"]),
    }
    ranks = {"v1": np.array([_risk(p)["rank"] for p in v1]), "v2": np.array(v2["rank"])}
    groups = bundle.manifest.grouping.groups(np.array(v2["label"]))
    half = len(inputs) // 2
    result: dict[str, Any] = {
        "command": f"python benchmarks/served_flags.py {repository.name} {model} {Path(data).name}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "test_images": len(inputs),
        "alpha": calibration.alpha,
        "calibration_rows": calibration.n,
        "flags": {
            **{name: int(found.sum()) for name, found in flags.items()},
            "metrics_after_v1": flags_counted_after_v1,
            "metrics_after_v2": flags_counted_after_v2,
        },
        "images_on_which_flags_differ": _differ(flags["v1"], flags["v2"], graph["flagged"]),
        "images_on_which_ranks_differ": _differ(ranks["v1"], ranks["v2"], graph["rank"]),
        "false_alarms": {
            "all": _false_alarms(flags["v1"], groups, bundle.manifest),
            "first half": _false_alarms(flags["v1"][:half], groups[:half], bundle.manifest),
            "second half": _false_alarms(flags["v1"][half:], groups[half:], bundle.manifest),
        },
        "png_against_json": difference,
        "seconds_until_ready": round(seconds, 2),
        "resident_mib": {"ready": resident_at_start, "after": resident},
        "loaded_torch": loaded_torch,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "served_flags.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    flagged = int(flags["graph"].sum())
    problems = {
        "flags differ": result["images_on_which_flags_differ"] > 0,
        "ranks differ": result["images_on_which_ranks_differ"] > 0,
        "the metrics count other flags": (flags_counted_after_v1, flags_counted_after_v2) != (flagged, 2 * flagged),
        f"PNG and JSON differ by more than {DIFFERENCE:g}": difference["largest_difference"] > DIFFERENCE,
        f"not ready within {SECONDS:g} s": seconds > SECONDS,
        f"more than {RESIDENT_MIB} MiB resident": max(resident_at_start, resident) > RESIDENT_MIB,
        "torch was loaded": loaded_torch,
    }
    sys.exit("; ".join(problem for problem, found in problems.items() if found) or 0)


def _differ(first: NDArray[Any], second: NDArray[Any], expected: NDArray[Any]) -> int:
    return int(((first != expected) | (second != expected)).sum())


def _graph_alone(path: Path, inputs: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = ["rank", "p_value", "flagged"]
    name = session.get_inputs()[0].name
    found = [session.run(names, {name: inputs[i : i + BLOCK]}) for i in range(0, len(inputs), BLOCK)]
    return {key: np.concatenate([block[i] for block in found]) for i, key in enumerate(names)}


@contextmanager
def service(repository: Path, *options: str) -> Iterator[tuple[str, float, "subprocess.Popen[bytes]"]]:
    """A service on a free port: its URL, seconds until it was ready, and its process.

    Args:
        repository: What it serves.
        options: More for `softrisk serve`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("softrisk")), "serve", str(repository), "--port", str(port), *options]
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with Client(url) as client:
                while not client.ready():
                    assert process.poll() is None, "the service ended"
                    time.sleep(0.02)
            yield url, time.perf_counter() - started, process
        finally:
            process.terminate()


def _flagged_total(url: str) -> int:
    with urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    return round(sum(float(value) for value in re.findall(r"^softrisk_flagged_total\{.*\} (\S+)$", text, re.MULTILINE)))


def _resident_mib(process: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def _risk(prediction: Prediction) -> dict[str, Any]:
    assert prediction.risk is not None
    return prediction.risk.model_dump()


def _png_against_json(client: Client, inputs: NDArray[np.float32]) -> dict[str, Any]:
    """Largest absolute difference between the numbers in the answers to the same image as PNG and as JSON."""
    largest = 0.0
    for image in track(inputs, "PNG and JSON"):
        buffer = BytesIO()
        pixels = (image * 255).round().astype(np.uint8)
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
        as_png = _numbers(client.predict_image(buffer.getvalue()).predictions[0].model_dump())
        as_json = _numbers(client.predict(image[None]).predictions[0].model_dump())
        largest = max(largest, float(np.abs(as_png - as_json).max()))
    return {"images": len(inputs), "largest_difference": largest}


def _numbers(value: Any) -> NDArray[np.float64]:
    if isinstance(value, dict):
        return np.concatenate([_numbers(item) for item in value.values()])
    if isinstance(value, list | tuple):
        return np.concatenate([_numbers(item) for item in value]) if value else np.empty(0)
    return np.array([float(value)]) if isinstance(value, int | float) else np.empty(0)


def _false_alarms(flags: NDArray[np.bool_], groups: NDArray[np.int64], manifest: Manifest) -> dict[str, Any]:
    """Realised rate, its exact interval, and what the Beta-binomial law allows for exchangeable images."""
    alpha, sizes = manifest.calibration.alpha, manifest.grouping.sizes
    count, trials = int(flags.sum()), len(flags)
    interval = clopper_pearson(count, trials)
    law = FalseAlarmLaw.of(
        GroupAlarms(marginal_rank(alpha, n), n, int((groups == group).sum())) for group, n in enumerate(sizes)
    ).bounds
    return {
        "flagged": count,
        "images": trials,
        "rate": round(count / trials, 5),
        "interval_95": [round(bound, 5) for bound in interval],
        "law_95": [round(bound, 5) for bound in law],
    }


if __name__ == "__main__":
    typer.run(main)
