"""Floors, import cycles, sizes and forbidden names (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("taskrl", "envs", "agents")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_CONFIG_LINES = 400, 60, 60
FLOORS = (
    ("taskrl.errors",),
    ("taskrl.registry", "taskrl.seeding", "taskrl.types"),
    (
        "taskrl.config",
        "taskrl.folders",
        "taskrl.machine",
        "taskrl.tracking",
        "taskrl.mlflow_tracking",
        "taskrl.mlflow_store",
        "taskrl.mlflow_pyfunc",
        "taskrl.tasks",
        "taskrl.data",
    ),
    ("taskrl.predictor", "taskrl.evaluation"),
    ("taskrl.modalities.image", "taskrl.meta"),
    ("taskrl.export", "taskrl.export_card", "taskrl.export_graphs", "taskrl.mlflow_model"),
    ("taskrl.initial", "taskrl.measuring", "taskrl.tuning"),
    (
        "taskrl.assemble",
        "taskrl.feature_files",
        "taskrl.mlflow_page",
        "taskrl.report",
        "taskrl.report_choices",
        "taskrl.report_compute",
        "taskrl.report_curves",
        "taskrl.report_figures",
        "taskrl.report_images",
        "taskrl.report_tables",
        "taskrl.report_trust",
        "taskrl.report_why",
        "taskrl.run_folder",
        "taskrl.transfer",
    ),
    ("envs",),
    ("agents",),
)
# one idea in several files: they count as one subfolder
ROOMS = {
    "taskrl.mlflow_tracking": "taskrl.tracking",
    "taskrl.mlflow_store": "taskrl.tracking",
    "taskrl.export_card": "taskrl.export",
    "taskrl.export_graphs": "taskrl.export",
    "taskrl.mlflow_model": "taskrl.export",
    "taskrl.report_choices": "taskrl.report",
    "taskrl.report_compute": "taskrl.report",
    "taskrl.report_curves": "taskrl.report",
    "taskrl.report_figures": "taskrl.report",
    "taskrl.report_images": "taskrl.report",
    "taskrl.report_tables": "taskrl.report",
    "taskrl.report_trust": "taskrl.report",
    "taskrl.report_why": "taskrl.report",
}
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FORBIDDEN_RANDOMNESS = ("np.random.seed", "np.random.rand", "random.random", "random.choice", "torch.manual_seed")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    return next((room for room in FLOOR_OF if module == room or module.startswith(f"{room}.")), None)


def imports_of(path: Path) -> set[str]:
    """Modules of ours that are imported, at the top or inside a function; `from a.b import C` counts as a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if (ROOT / f"{name.replace('.', '/')}.py").is_file()}
            found |= modules or {node.module}
    return {name for name in found if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_come_from_lower_floors(path: Path) -> None:
    room = room_of(module_of(path))
    if room is None:
        assert path.name == "__init__.py", f"{module_of(path)} stands on no floor: add it to FLOORS"
        assert not imports_of(path), "a package's __init__ imports nothing of ours"
        return
    for target in imports_of(path) - {"taskrl"}:
        other = room_of(target)
        assert other is not None, f"{module_of(path)} imports {target}, which stands on no floor"
        same = ROOMS.get(other, other) == ROOMS.get(room, room)
        assert same or FLOOR_OF[other] < FLOOR_OF[room], f"{module_of(path)} must not import {target}"


def test_there_are_no_import_cycles() -> None:
    graph = {module_of(path): imports_of(path) for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import cycle: {' -> '.join((*trail, module))}"
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_global_randomness_is_not_used(path: Path) -> None:
    if module_of(path) == "taskrl.seeding":
        return
    calls = (ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not [name for name in calls if name in FORBIDDEN_RANDOMNESS]


def test_lower_floors_name_no_modality() -> None:
    lower = [path for path in FILES if FLOOR_OF.get(room_of(module_of(path)) or "", 9) <= 3]
    assert lower
    for path in lower:
        assert "modalities" not in {part for name in imports_of(path) for part in name.split(".")}


def test_core_and_envs_know_neither_mlflow_nor_sb3() -> None:
    allowed = {f"taskrl.mlflow_{name}" for name in ("tracking", "store", "page", "model", "pyfunc")}
    for path in FILES:
        if module_of(path).startswith("agents") or module_of(path) in allowed:
            continue
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
        assert not names & {"mlflow", "stable_baselines3", "sb3_contrib"}, module_of(path)


def test_names_that_other_libraries_import_are_not_taken() -> None:
    assert not [name for name in ("run", "tracing") if (ROOT / "agents" / f"{name}.py").exists()]


def test_configs_are_short() -> None:
    configs = sorted((ROOT / "configs").rglob("*.yaml"))
    assert configs
    for path in configs:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_CONFIG_LINES
