"""Who may import whom: the road runs one way, the service never meets torch, the client knows nothing of ours."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROAD = ("training", "export", "evaluation", "service")
"""In the order in which data travels; `core` and `attacks` are open to all rooms of the road."""

FOLDERS = {
    "core": "core/softrisk_core",
    "attacks": "attacks/softrisk_attacks",
    "training": "training/softrisk_training",
    "export": "export/softrisk_export",
    "evaluation": "evaluation/softrisk_evaluation",
    "service": "service/softrisk_service",
    "client": "clients/python/softrisk_client",
}

ALLOWED = {
    "core": {"core"},
    "attacks": {"core", "attacks"},
    "training": {"core", "attacks", "training"},
    "export": {"core", "attacks", "training", "export"},
    "evaluation": {"core", "attacks", "training", "export", "evaluation"},
    "service": {"core", "service"},
    "client": {"client"},
}

BANNED = {
    "core": {"torch", "fastapi", "onnxruntime", "onnx", "scipy", "sklearn", "pyarrow", "art"},
    "attacks": {"fastapi", "onnxruntime"},
    "training": {"fastapi", "onnxruntime"},
    "export": {"fastapi", "art"},
    "evaluation": {"fastapi"},
    "service": {"torch", "onnx", "onnxscript", "sklearn", "scipy", "pyarrow", "art", "matplotlib"},
    "client": {"torch", "fastapi", "onnxruntime", "onnx", "numpy"},
}

LIGHT = (
    "import softrisk_core, softrisk_attacks, softrisk_training, softrisk_export, softrisk_evaluation, softrisk_service"
)


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("room", FOLDERS)
def test_rooms_import_only_what_they_may(repository_root: Path, room: str) -> None:
    files = sorted((repository_root / FOLDERS[room]).rglob("*.py"))
    assert files
    wrong = []
    for path in files:
        for module in imported_modules(path):
            top = module.partition(".")[0]
            ours = top.removeprefix("softrisk_") if top.startswith("softrisk_") else None
            if (ours is not None and ours not in ALLOWED[room]) or top in BANNED[room]:
                wrong.append(f"{path.relative_to(repository_root)} imports {module}")
    assert wrong == []


def test_the_rules_cover_every_package(repository_root: Path) -> None:
    packages = {str(path.parent.relative_to(repository_root)) for path in repository_root.glob("*/*/__init__.py")}
    packages |= {str(path.parent.relative_to(repository_root)) for path in repository_root.glob("*/*/*/__init__.py")}
    ours = {package for package in packages if Path(package).name.startswith("softrisk_")}
    assert ours == set(FOLDERS.values())


def loaded_after(code: str) -> set[str]:
    """Names of the top-level modules in `sys.modules` after running code in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import softrisk_service.app, softrisk_service.cli", {"torch", "onnx", "scipy", "sklearn", "pyarrow"}),
        ("import softrisk_client, softrisk_client.cli", {"torch", "onnxruntime", "softrisk_core"}),
        ("import softrisk_core.cli, softrisk_core.cli_inspect", {"torch", "onnxruntime", "fastapi", "PIL"}),
        ("import softrisk_training.data", {"torch", "sklearn", "pyarrow"}),
        ("import softrisk_export.cli_calibrate", {"torch"}),
        (LIGHT, {"torch", "onnx", "onnxruntime", "fastapi", "art", "numpy"}),
    ],
)
def test_imports_stay_light_in_a_full_installation(code: str, absent: set[str]) -> None:
    assert loaded_after(code) & absent == set()


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["predict", "--help"], ["inspect", "--help"]])
def test_commands_that_need_no_torch_never_load_it(arguments: list[str]) -> None:
    code = (
        "import sys, contextlib\n"
        f"sys.argv = ['softrisk', *{arguments!r}]\n"
        "from softrisk_core.cli import main\n"
        "with contextlib.suppress(SystemExit): main()"
    )
    assert "torch" not in loaded_after(code)
