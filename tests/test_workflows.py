"""The examples: Kubernetes manifests agree with one another and the command line, scripts parse, folders are found."""

import runpy
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from wsi_pipeline.cli.group import EXIT_FATAL, EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USAGE
from wsi_pipeline.cli.run import command
from wsi_pipeline.gpus import GPU
from wsi_pipeline.knobs import as_yaml
from wsi_pipeline.learn.training.settings import load_settings

FOLDER = Path(__file__).resolve().parents[1] / "workflows"


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """All of them, by kind and name."""
    found = [part for path in FOLDER.glob("kubernetes/*.yaml") for part in yaml.safe_load_all(path.read_text())]
    return {(part["kind"], part["metadata"]["name"]): part["spec"] for part in found}


@pytest.fixture(scope="module")
def pods() -> dict[str, dict[str, Any]]:
    """The pods' specifications by what they do."""
    known = manifests()
    return {
        "scheduler": known["DaskCluster", "wsi"]["scheduler"]["spec"],
        "reader": known["DaskCluster", "wsi"]["worker"]["spec"],
        "gpu": known["DaskWorkerGroup", "wsi-gpu"]["worker"]["spec"],
        "run": known["Job", "wsi-run"]["template"]["spec"],
    }


def test_the_run_connects_to_the_port_that_the_schedulers_service_offers(pods):
    service = manifests()["DaskCluster", "wsi"]["scheduler"]["service"]
    (scheduler,), (run,) = pods["scheduler"]["containers"], pods["run"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in scheduler["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    assert scheduler["args"][scheduler["args"].index("--port") + 1] == str(ports["tcp-comm"])
    assert run["args"][-1] == f"tcp://wsi-scheduler:{ports['tcp-comm']}"  # the operator's name for the service
    assert service["selector"] == {"dask.org/cluster-name": "wsi", "dask.org/component": "scheduler"}


def test_pods_call_only_scripts_that_are_installed_with_options_that_they_have(pods):
    scripts = {script.name for script in entry_points(group="console_scripts")}
    commands = {found.name: found for found in entry_points(group="dask_cli")}
    for name, pod in pods.items():
        program, what, *given = pod["containers"][0]["args"]
        if name == "run":
            assert program == "python"
            continue
        assert program == "dask" and program in scripts
        options = {option for part in commands[what].load().params for option in (*part.opts, *part.secondary_opts)}
        assert {word for word in given if word.startswith("--")} <= options
    assert pods["scheduler"]["containers"][0]["args"][1] == "scheduler"
    assert {pods[name]["containers"][0]["args"][1] for name in ("reader", "gpu")} == {"worker"}


def test_a_worker_is_ready_once_it_answers_at_the_port_that_it_is_told(pods):
    for name in ("reader", "gpu"):
        (worker,) = pods[name]["containers"]
        (port,) = worker["ports"]
        assert worker["args"][worker["args"].index("--dashboard-address") + 1] == f":{port['containerPort']}"
        assert worker["readinessProbe"]["httpGet"] == {"path": "/health", "port": port["name"]}


def test_a_job_that_found_no_scheduler_is_tried_again_and_one_with_wrong_options_is_not() -> None:
    job = manifests()["Job", "wsi-run"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In" and job["backoffLimit"] > 0
    assert set(rule["onExitCodes"]["values"]) == {EXIT_USAGE, EXIT_SOME_FAILED}
    assert not {EXIT_FATAL, EXIT_INTERRUPTED} & set(rule["onExitCodes"]["values"])


def test_only_the_gpu_workers_offer_a_gpu_and_have_one(pods):
    (reader,), (gpu,) = pods["reader"]["containers"], pods["gpu"]["containers"]
    assert f"{GPU}=1" in gpu["args"] and gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "--resources" not in reader["args"] and "nvidia.com/gpu" not in reader["resources"]["limits"]
    assert manifests()["DaskWorkerGroup", "wsi-gpu"]["cluster"] == "wsi"


def test_all_that_touch_slides_see_the_same_volumes_at_the_same_paths(pods):
    claims = {name for kind, name in manifests() if kind == "PersistentVolumeClaim"}
    mounts = [pod["containers"][0]["volumeMounts"] for name, pod in pods.items() if name != "scheduler"]
    volumes = [pod["volumes"] for name, pod in pods.items() if name != "scheduler"]
    assert mounts == [mounts[0]] * 3 and volumes == [volumes[0]] * 3
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in volumes[0]} == claims
    assert {mount["name"] for mount in mounts[0]} == {volume["name"] for volume in volumes[0]}


def test_workers_are_told_of_the_memory_that_they_have_and_all_share_one_image(pods):
    for name in ("reader", "gpu"):
        (container,) = pods[name]["containers"]
        given = container["args"][container["args"].index("--memory-limit") + 1]
        assert given.removesuffix("B") == container["resources"]["limits"]["memory"]
    assert {pod["containers"][0]["image"] for pod in pods.values()} == {"IMAGE"}


def test_the_job_calls_the_command_line_as_it_is(pods):
    args = pods["run"]["containers"][0]["args"]
    assert args[:4] == ["python", "-m", "wsi_pipeline", "run"]
    told = CliRunner().invoke(command, [*args[4:], "--dry-run"])
    assert "No such option" not in told.output and told.exit_code != 2


@pytest.mark.parametrize("path", sorted(FOLDER.glob("slurm/*.sbatch")), ids=lambda path: path.name)
def test_job_scripts_are_valid_shell(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_an_experiment_takes_relative_folders_from_where_it_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = runpy.run_path(str(FOLDER / "folds.py"))["options"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["skin.py", "--data", "images", "--out", "runs/skin"])
    chosen = options("", data="skin", folds=4, epochs=30)
    assert (chosen.data, chosen.out) == (tmp_path / "images", tmp_path / "runs" / "skin")


def test_a_fold_that_was_trained_with_other_knobs_is_not_pooled_with_these(tmp_path: Path) -> None:
    folds = runpy.run_path(str(FOLDER / "folds.py"))
    run, knobs = tmp_path / "fold0", ["split.folds=2", "split.fold=0"]
    (run / "test").mkdir(parents=True)
    (run / "test" / "evaluation.json").write_text("{}")
    trial = load_settings(FOLDER.parent / "configs" / "skin.yaml", [*knobs, "stop.epochs=1", "run.workers=2"])
    (run / "settings.yaml").write_text(as_yaml(trial))
    folds["refuse_other_knobs"](run, trial)
    with pytest.raises(SystemExit, match=r"fold0: trained with other knobs \(stop.epochs: was 1, is 40\)"):
        folds["cross_validate"]("configs/skin.yaml", tmp_path, tmp_path, folds=2, knobs=[], device="cpu")
