"""The plumbing of the benchmarks: turns, ratios, and what is written down. Nothing is timed here."""

import json
from pathlib import Path

import pytest

from benchmarks.timing import Benchmark, Result, arguments, finish, table, take_turns


def a_result(target: float | None = 2.0) -> Result:
    return Result("a thing", "tile", "own", "other", {"own": [10, 30, 20], "other": [10, 10, 10]}, target)


def test_every_way_runs_once_a_round_and_once_before() -> None:
    seen: list[str] = []

    def way(name: str) -> float:
        seen.append(name)
        return 1

    rates = take_turns({"a": lambda: way("a"), "b": lambda: way("b")}, rounds=3)
    assert seen == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {name: len(found) for name, found in rates.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    assert a_result().ratios == [1, 3, 2] and a_result().ratio == 2
    assert (a_result().reached, a_result(2.1).reached, a_result(None).reached) == (True, False, None)


def test_results_are_written_with_machine_and_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(Benchmark("read", True, {"tiles": 8}, [a_result()]), tmp_path / "new")
    found = json.loads((tmp_path / "new" / "read.json").read_text())
    assert found["results"][0]["ratio"] == {"median": 2.0, "low": 1.0, "high": 3.0, "rounds": [1.0, 3.0, 2.0]}
    assert found["quick"] and found["machine"]["cores"] >= 1 and "numpy" in found["versions"]
    assert "1.00 to 3.00       2 + own 20, other 10 tile/s" in capsys.readouterr().out


def test_options_are_the_same_everywhere(tmp_path: Path) -> None:
    asked = arguments("about", ["--quick", "--json", str(tmp_path), "--slide", "a.svs"], slide={"help": "a slide"})
    assert (asked.quick, asked.json, asked.slide) == (True, tmp_path, "a.svs")


def test_what_is_not_counted_by_the_second_says_by_what() -> None:
    one = Result("a", "cell", "ours", "other", {"ours": [9.0], "other": [3.0]}, per="tile")
    assert "other 3 cell/tile" in table([one]) and "/s" not in table([one])
