"""Imports flow down only (slide, tiles, learn, scores, maps, pipeline, cli), none inside functions but in cli."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wsi_pipeline"
LEARN = ("model", "data", "datasets", "evaluation", "training")  # the same inside learn/
LAYERS = ("base", "slide", "tiles", "learn", "scores", "maps", "pipeline", "cli", "__main__")
BASE = (
    "cluster",
    "config",
    "disk",
    "geometry",
    "gpus",
    "errors",
    "forks",
    "keys",
    "knobs",
    "lazy",
    "memory",
    "schedulers",
    "slurm",
    "stall",
    "__init__",
)
FILES = sorted(PACKAGE.rglob("*.py"))
THEIR_FILES = {
    "openslide": ["slide/openslide_pixels.py"],
    "rasterio": ["maps/heatmap.py"],
    "dask.distributed": ["cluster.py", "gpus.py", "schedulers.py", "slurm.py"],
}


def layer(parts: tuple[str, ...]) -> int:
    first = parts[0] if parts else "__init__"
    return LAYERS.index("base" if first in BASE else first)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module, and whether inside a function."""
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(f)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield node.module or "", id(node) in inner


def own(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_its_own_layer_or_below(path: Path) -> None:
    mine = layer(own(path))
    for module, _ in imports(path):
        if module.split(".")[0] == "wsi_pipeline":
            assert layer(tuple(module.split(".")[1:])) <= mine, f"{module} lies above"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "learn").glob("*/*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_file_of_learn_imports_from_its_own_part_or_those_before(path: Path) -> None:
    mine = LEARN.index(path.parent.name)
    for module, _ in imports(path):
        if module.startswith("wsi_pipeline.learn."):
            assert LEARN.index(module.split(".")[2]) <= mine, f"{module} comes later"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_imports_inside_functions(path: Path) -> None:
    inside = [module for module, inner in imports(path) if inner]
    assert own(path)[0] == "cli" or not inside


@pytest.mark.parametrize("library", THEIR_FILES)
def test_a_native_library_is_imported_in_its_own_files_alone(library: str) -> None:
    users = [
        str(path.relative_to(PACKAGE)) for path in FILES
        if any(module == library or module.startswith(f"{library}.") for module, _ in imports(path))
    ]  # fmt: skip
    assert users == THEIR_FILES[library]


def test_nothing_below_learn_and_nothing_in_maps_imports_torch() -> None:
    for path in FILES:
        if own(path)[0] not in ("learn", "scores", "cli") and own(path) != ("pipeline", "score"):
            assert not any(module.split(".")[0] in ("torch", "torchvision") for module, _ in imports(path)), path
