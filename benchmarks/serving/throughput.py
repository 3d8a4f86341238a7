"""Closed loop: every server under the same load, one after another, several times around."""

from typing import Final

from benchmarks.serving import bare
from benchmarks.serving.checks import check_answers
from benchmarks.serving.codecs import Request
from benchmarks.serving.errors import BenchmarkError, UnavailableError, WrongAnswerError
from benchmarks.serving.load import wrk
from benchmarks.serving.points import Key, Point
from benchmarks.serving.run import Run, Steps
from benchmarks.serving.running import Running
from benchmarks.serving.servers import COMPARED, Server
from benchmarks.serving.subjects import Subject
from benchmarks.serving.summary import Summary

_WARM_UP_SECONDS: Final = 1
_WARM_UP_CONNECTIONS: Final = 32
_WINDOWS: Final = {"S": 1, "R": 3}
"""How much longer a model is measured than `--seconds`: what is unfinished at the end of a window is not counted, half
a batch on average, which for R is a tenth of a second."""
_ALL: Final = "all formats"


def measure(run: Run) -> None:
    """Take all points that are missing: `bare`, `cost`, `load`, `ready`, `checked`, `unavailable`."""
    _install(run)
    alone = len(list(bare.settings())) + len(bare.COST_BATCHES)
    loads = sum(len(_keys(run, server, model, 0)) for model in run.models for server in run.servers)
    steps = run.steps("closed loop", run.repeats * (loads + len(run.models) * alone))
    for repeat in range(run.repeats):
        for model in run.models:
            subject = run.subject(model)
            steps.to(f"onnxruntime alone, {model}")
            _measure_alone(run, steps, subject, repeat)
            for server in run.servers:
                keys = _keys(run, server, model, repeat)
                missing = [key for key in keys if not run.points.has("load", key)]
                if missing:
                    steps.to(f"{server.name}, {model}")
                    _measure_server(run, steps, server, subject, missing)
                steps.done(len(keys) - len(missing))


def _install(run: Run) -> None:
    steps = run.steps("peers", len(run.servers))
    for server in run.servers:
        steps.to(f"environment of {server.project}")
        try:
            run.programs(server)
        except UnavailableError as error:
            for model in run.models:
                _give_up(run, server, model, _ALL, error)
        steps.done()


def _measure_alone(run: Run, steps: Steps, subject: Subject, repeat: int) -> None:
    seconds = 0.15 * run.seconds
    for setting in bare.settings():
        key: Key = {"model": subject.name, **setting, "repeat": repeat}
        if not run.points.has("bare", key):
            images = subject.images(int(setting["batch"]))
            run.points.add("bare", key, bare.speed(subject.onnx_file, images, int(setting["threads"]), seconds))
        steps.done()
    for batch in bare.COST_BATCHES:
        key = {"model": subject.name, "batch": batch, "repeat": repeat}
        if not run.points.has("cost", key):
            run.points.add("cost", key, bare.diagnosis_cost(subject, batch, 2 * seconds))
        steps.done()


def _keys(run: Run, server: Server, model: str, repeat: int) -> list[Key]:
    if model not in server.models:
        return []
    return [
        {"server": server.name, "model": model, "format": format_, "connections": connections, "repeat": repeat}
        for format_ in server.codecs
        if (run.formats is None or format_ in run.formats)
        and (model == "S" or format_ in COMPARED)
        and not any(
            run.points.has("unavailable", {"server": server.name, "model": model, "format": failed})
            for failed in (format_, _ALL)
        )
        for connections in run.connections
    ]


def _measure_server(run: Run, steps: Steps, server: Server, subject: Subject, keys: list[Key]) -> None:
    image = subject.images(1)
    try:
        with run.running(server, subject) as found:
            resident = found.family.resident_mib()
            ready: Key = {"server": server.name, "model": subject.name, "repeat": int(keys[0]["repeat"])}
            run.points.add(
                "ready", ready, {"seconds": round(found.ready_seconds, 3), "resident_mib": round(resident, 1)}
            )
            requests = {
                format_: server.codecs[format_].encode(image)
                for format_ in dict.fromkeys(str(key["format"]) for key in keys)
                if _is_right(run, found, format_)
            }
            for request in list(requests.values())[:1]:
                wrk(found, request, _WARM_UP_CONNECTIONS, _WARM_UP_SECONDS)
            for key in keys:
                if key["format"] in requests:
                    run.points.add("load", key, _beside_bare(run, found, requests[str(key["format"])], key))
                steps.done()
    except BenchmarkError as error:  # the other servers are worth having
        _give_up(run, server, subject.name, _ALL, error)


def _beside_bare(run: Run, found: Running, request: Request, key: Key) -> Point:
    """A load, and its ratio to onnxruntime alone just before and after: the machine's speed drifts over minutes."""
    subject, connections = found.subject, int(key["connections"])
    setting = Summary.of(run.points).bare_for(subject.name, connections)

    def alone() -> float:
        images = subject.images(setting["batch"])
        return bare.speed(subject.onnx_file, images, setting["threads"], 0.15 * run.seconds)["images_per_second"]

    before = alone()
    load = wrk(found, request, connections, run.seconds * _WINDOWS[subject.name]).stored()
    return {**load, "to_bare": round(2 * load["requests_per_second"] / (before + alone()), 4)}


def _is_right(run: Run, found: Running, format_: str) -> bool:
    key: Key = {"server": found.server.name, "model": found.subject.name, "format": format_}
    if not run.points.has("checked", key):
        try:
            run.points.add("checked", key, {"right": check_answers(found, found.server.codecs[format_])})
        except WrongAnswerError as error:
            _give_up(run, found.server, found.subject.name, format_, error)
            return False
    return True


def _give_up(run: Run, server: Server, model: str, format_: str, error: BenchmarkError) -> None:
    key: Key = {"server": server.name, "model": model, "format": format_}
    run.points.add("unavailable", key, {"reason": str(error)})
