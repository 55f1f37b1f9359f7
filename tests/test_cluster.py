"""Workers: results, errors and deaths arrive as they should, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import pytest
from dask.distributed import LocalCluster

from wsi_pipeline import cluster as cluster_module
from wsi_pipeline import schedulers
from wsi_pipeline.cluster import Cluster
from wsi_pipeline.errors import ClusterError, ConfigError, ScaleError, SlideError, StalledError, StoreError
from wsi_pipeline.forks import begin_workers
from wsi_pipeline.schedulers import open_cluster

INSIDE = {"processes": False, "dashboard_address": "127.0.0.1:0"}  # workers in this process, any free port


def square(number: int) -> int:
    return number * number


def fail(kind: type[Exception], text: str) -> None:
    raise kind(text)


def die() -> None:
    os._exit(3)


def die_the_first_time(flag: str, number: int) -> int:
    """Number 5 kills its worker unless `flag` is there already."""
    if number == 5 and not os.path.exists(flag):
        Path(flag).touch()
        os._exit(3)
    return number


def stall_up_to(last: int, number: int) -> int:
    """Numbers up to `last` never answer; the others tell the process."""
    if number <= last:
        time.sleep(1000)
    return os.getpid()


def threads_of_numpy() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def profiled() -> bool:
    return bool(dask.config.get("distributed.worker.profile.enabled"))


@pytest.fixture(scope="module")
def processes() -> Iterator[Cluster]:
    with open_cluster("local", workers=2) as cluster:
        yield cluster


@pytest.fixture
def threads() -> Iterator[Cluster]:
    with open_cluster("threads", workers=2) as cluster:
        yield cluster


@pytest.fixture(params=["threads", "processes"])
def either(request) -> Cluster:
    return request.getfixturevalue(request.param)


def test_every_item_comes_back_once_with_its_index(either):
    assert sorted(either.map(square, [(n,) for n in range(30)])) == [(n, n * n) for n in range(30)]


def test_no_items_give_no_results(either):
    assert list(either.map(square, [])) == []


def test_submit_gives_a_result_to_wait_for(either):
    task = either.submit(square, 7)
    assert task.result() == 49
    assert task.done()


@pytest.mark.parametrize("kind", [SlideError, StoreError, ScaleError, KeyError])
def test_a_tasks_own_exception_keeps_its_type_and_text(either, kind):
    with pytest.raises(kind, match="tile 7 is broken") as caught:
        list(either.map(fail, [(kind, "tile 7 is broken")]))
    assert caught.type is kind


def test_an_error_leaves_no_task_running(threads):
    running = set()

    def work(number: int) -> None:
        if number == 0:
            raise ValueError("first")
        running.add(number)
        time.sleep(0.1)
        running.discard(number)

    with pytest.raises(ValueError, match="first"):
        list(threads.map(work, [(n,) for n in range(10)]))
    assert running == set()


def test_only_a_window_of_items_is_taken_at_a_time(threads):
    taken = []

    def items() -> Iterator[tuple[int]]:
        for number in range(20):
            taken.append(number)
            yield (number,)

    ahead = [len(taken) - done for done, _ in enumerate(threads.map(square, items(), window=3))]
    assert max(ahead) <= 3
    assert len(taken) == 20


def test_several_threads_share_one_cluster(either):
    def total(start: int) -> int:
        return sum(result for _, result in either.map(square, [(start + n,) for n in range(10)]))

    with ThreadPoolExecutor(4) as callers:
        totals = list(callers.map(total, range(4)))
    assert totals == [sum((start + n) ** 2 for n in range(10)) for start in range(4)]


def test_workers_do_not_multiply_threads(processes):
    assert processes.submit(threads_of_numpy).result() == "1"


def test_a_died_worker_costs_no_task_its_result(processes, tmp_path):
    items = [(str(tmp_path / "died"), number) for number in range(12)]
    assert sorted(processes.map(die_the_first_time, items)) == [(n, n) for n in range(12)]
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_its_worker_twice_is_named(processes):
    with pytest.raises(ClusterError, match=r"die\(\) killed two workers, the second time alone"):
        processes.submit(die).result()
    assert processes.submit(square, 3).result() == 9


@pytest.mark.slow
def test_a_task_that_stalls_is_given_up_and_its_process_replaced_with_what_waits_there(processes):
    before = {pid for _, pid in processes.map(stall_up_to, [(0, n) for n in range(1, 9)])}
    processes.stall_s = 1
    with pytest.raises(StalledError, match="no answer for 1 s from stall_up_to"):
        list(processes.map(stall_up_to, [(4, n) for n in range(20)]))
    processes.stall_s = None
    assert before.isdisjoint({pid for _, pid in processes.map(stall_up_to, [(0, n) for n in range(1, 9)])})


def test_what_the_environment_says_when_workers_are_asked_for_reaches_them(monkeypatch):
    begin_workers()
    monkeypatch.setenv("SAID_LATER", "a place")
    with open_cluster("local", workers=1) as cluster:
        assert cluster.submit(os.environ.get, "SAID_LATER").result() == "a place"


def test_a_worker_that_is_gone_by_now_needs_no_replacing(processes):
    processes._restart("tcp://127.0.0.1:9")
    assert processes.submit(square, 2).result() == 4


def test_what_tasks_took_is_counted_by_their_function(threads):
    list(threads.map(time.sleep, [(0.1,)] * 3))
    assert 0.3 <= threads.spent["sleep"] < 0.3 + 3


def test_time_in_a_queue_is_no_stalling(threads):
    threads.stall_s = 0.5
    assert len(list(threads.map(time.sleep, [(0.2,)] * 8, window=8))) == 8  # the last one waits for 0.6 s


def test_tasks_that_do_not_end_hold_up_no_stop(threads, monkeypatch):
    monkeypatch.setattr(cluster_module, "_END_S", 0.1)
    release = threading.Event()
    task = threads.submit(release.wait)
    threads.stop()
    with pytest.raises(ClusterError, match="stopped; 1 tasks were still under way"):
        task.result()
    release.set()


def test_threads_that_stall_hold_up_no_end(monkeypatch):
    monkeypatch.setattr(cluster_module, "_END_S", 0.1)
    release, began = threading.Event(), time.monotonic()
    with open_cluster("threads", workers=1) as cluster:
        cluster.stall_s = 60
        cluster.submit(release.wait)
        cluster.stop()
    assert time.monotonic() - began < 30
    release.set()


def test_a_task_alone_waits_for_the_others_and_holds_new_ones_back(threads):
    log: list[str] = []
    release = threading.Event()
    held = threads.submit(lambda: (release.wait(60), log.append("before")))
    caller = ThreadPoolExecutor(2)
    alone = caller.submit(threads._alone, lambda: (time.sleep(0.1), log.append("alone")), ())
    while not threads._gate._closed:
        time.sleep(0.01)
    late = caller.submit(threads.submit, lambda: log.append("after"))
    release.set()
    for task in (held, alone, late):
        task.result()
    late.result().result()
    caller.shutdown()
    assert log == ["before", "alone", "after"]


def test_a_dask_cluster_is_used_by_its_address():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, **INSIDE) as running,
        open_cluster(running.scheduler_address) as cluster,
    ):
        assert cluster.n_workers == 2
        assert cluster.submit(square, 4).result() == 16


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_is_told(address, monkeypatch):
    monkeypatch.setattr(schedulers, "CONNECT_S", 0.5)
    with pytest.raises(ClusterError, match="no Dask scheduler answers"), open_cluster(address):
        pass


def test_a_scheduler_without_workers_is_told(monkeypatch):
    monkeypatch.setattr(schedulers, "CONNECT_S", 1.5)  # time enough to connect on a busy machine
    with (
        LocalCluster(n_workers=0, protocol="tcp", **INSIDE) as running,
        pytest.raises(ClusterError, match="the scheduler has no workers; start some first"),
        open_cluster(running.scheduler_address),
    ):
        pass


def test_workers_that_never_come_back_are_told(monkeypatch):
    monkeypatch.setattr(cluster_module, "NO_WORKER_S", 0.2)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **INSIDE) as running,
        open_cluster(running.scheduler_address) as cluster,
    ):
        running.scale(0)
        while cluster._has_workers():
            time.sleep(0.05)
        with pytest.raises(ClusterError, match=r"no workers left .*go on with --resume"):
            list(cluster.map(square, [(1,)]))


def test_waiting_to_run_alone_ends_when_the_workers_are_gone_or_all_is_to_end(monkeypatch):
    monkeypatch.setattr(cluster_module, "NO_WORKER_S", 0.2)
    monkeypatch.setattr(cluster_module, "_END_S", 0.2)
    with open_cluster("threads", workers=1) as cluster:
        cluster._gate.enter(cluster._watch(0))  # a task that never ends
        for gone, said in ((True, "no workers left"), (False, "stopped")):
            monkeypatch.setattr(cluster, "_has_workers", lambda gone=gone: not gone)
            if not gone:
                cluster.stop()
            with pytest.raises(ClusterError, match=said):
                cluster._alone(square, (1,))
        assert not cluster._gate._closed


LENT = """
import time
from dask.distributed import LocalCluster

lent = LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0")
print(lent.scheduler_address, flush=True)
time.sleep(60)
"""


def test_a_scheduler_that_dies_is_told_at_once_without_noise(capfd):
    with subprocess.Popen([sys.executable, "-c", LENT], stdout=subprocess.PIPE, text=True) as lender:
        address = lender.stdout.readline().strip()
        lost = r"connection to the cluster lost during sleep\(0.1\); go on with --resume"
        with pytest.raises(ClusterError, match=lost), open_cluster(address) as cluster:
            for index, _ in cluster.map(time.sleep, [(0.1,)] * 100):
                if index == 3:
                    lender.kill()
    assert capfd.readouterr().err == ""


def test_an_unknown_scheduler_is_refused():
    with pytest.raises(ConfigError, match="scheduler 'sge': give local, threads, slurm, or an address"):
        open_cluster("sge").__enter__()


SCRIPT = """
import os
import signal
from wsi_pipeline.schedulers import open_cluster
from wsi_pipeline.errors import ClusterError

if __name__ == "__main__":
    with open_cluster("local", workers=1) as cluster:
        try:
            cluster.submit(os._exit, 1).result()
        except ClusterError:
            print("told", dict(cluster.map(abs, [(-2,)])))
"""


def test_a_program_with_workers_ends_by_itself_without_noise_or_litter(tmp_path):
    script, folder, scratch = tmp_path / "run.py", tmp_path / "cwd", tmp_path / "tmp"
    script.write_text(SCRIPT)
    folder.mkdir()
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "error", str(script)]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "told {0: 2}\n", "")
    assert list(folder.iterdir()) == []
    assert list(scratch.iterdir()) == []


UNGUARDED = """
from wsi_pipeline.errors import ClusterError
from wsi_pipeline.schedulers import open_cluster

try:
    open_cluster("local", workers=1).__enter__()
except ClusterError as error:
    print(error)
"""


def test_a_script_that_workers_would_run_again_is_told_so(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(UNGUARDED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert ended.stdout.startswith("no worker process starts here (Nanny failed to start.); a script of your own must")


INTERRUPTED = """
import signal
import time
from wsi_pipeline.schedulers import open_cluster

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with open_cluster("local", workers=2) as cluster:
        cluster.submit(abs, -1).result()
        try:
            print("started", flush=True)
            list(cluster.map(time.sleep, [(0.2,)] * 500))
        except KeyboardInterrupt:
            print("interrupted")
"""


def test_ctrl_c_reaches_the_program_and_not_its_workers(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(INTERRUPTED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen([sys.executable, str(script)], env=environment, text=True, **options) as program:
        assert program.stdout.readline() == "started\n"
        os.killpg(program.pid, signal.SIGINT)
        assert program.communicate(timeout=300) == ("interrupted\n", "")


def test_workers_keep_no_call_stacks_which_would_grow_with_every_slide(processes):
    assert processes.submit(profiled).result() is False
