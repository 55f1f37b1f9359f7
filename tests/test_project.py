"""pyproject.toml, constraints.txt and environment.yml name the same packages; the configs are real."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from wsi_pipeline.config import load_config
from wsi_pipeline.learn.training.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}
PIP_ALONE = {"nvidia-nvimgcodec-cu13", "nvidia-nvjpeg"}  # CUDA's, of use on a GPU only


def requirements() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    found = [text.partition(";")[0] for text in found]  # without the platforms
    return bounds(found)


def bounds(texts: list[str]) -> dict[str, str]:
    return {re.split("[<>=]", text)[0]: re.sub("^[^<>=]*", "", text) for text in texts}


def environment() -> tuple[list[str], list[str]]:
    """What environment.yml asks of conda, and what of pip."""
    found = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (by_pip,) = (part["pip"] for part in found if isinstance(part, dict))
    return [part for part in found if isinstance(part, str)], by_pip


def test_constraints_pin_exactly_what_the_project_asks_for() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert set(pins) == set(requirements())


def test_the_conda_environment_holds_the_same_set_with_the_same_bounds() -> None:
    conda, by_pip = environment()
    names = bounds([text for text in conda if not text.startswith(("python>", "pip"))])
    names |= bounds([text for text in by_pip if text != "-e ."])
    wanted = {name: bound for name, bound in requirements().items() if name not in PIP_ALONE}
    assert {CONDA_NAMES.get(name, name): bound for name, bound in names.items()} == wanted


def test_pip_gets_the_package_itself_and_nothing_that_a_file_of_requirements_cannot_hold() -> None:
    conda, by_pip = environment()
    assert "pip" in conda and by_pip[-1] == "-e ."
    assert all(re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", text) for text in by_pip[:-1]), by_pip


def test_torch_and_torchvision_are_pinned_as_the_pair_that_belongs_together() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "torch==2.14.1" in text and "torchvision==0.29.1" in text


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_in_the_box_is_valid(path: Path) -> None:
    if "data" in yaml.safe_load(path.read_text()):  # of a training
        assert load_settings(path).data.dataset in path.read_text()
    else:
        assert load_config(path).tiles.tile_px >= 32


@pytest.mark.parametrize("command", [["--help"], ["check", "--help"], ["tile", "--help"], ["--version"]], ids=" ".join)
def test_light_commands_do_not_load_torch(command: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['wsi_pipeline', *sys.argv[1:]]\n"
        "from wsi_pipeline.cli.group import main\n"
        "assert main() == 0 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "esearch use only" in done.stdout or "Usage" in done.stdout
