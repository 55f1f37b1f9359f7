# Each target sets up the .venv it needs; nothing else has to be installed but Python 3.11 to 3.13 and make.
PYTHON ?= python3
PY = .venv/bin/python
STAMP = .venv/.installed

.PHONY: demo test test-big bench bench-quick check clean

demo: $(STAMP)  ## draw a cohort of synthetic slides, run everything, print measured against true areas
	$(PY) -m wsi_pipeline demo --out runs/demo --overwrite

test: $(STAMP)  ## the tests; offline, no GPU
	$(PY) -m pytest -q -m "not big"

test-big: $(STAMP)  ## the 40,000 px slide: minutes, and about 8 GB of disk
	$(PY) -m pytest -q -s -m big

bench: $(STAMP)  ## what is faster than what, as ratios of runs in turns; results as JSON
	$(PY) -m benchmarks --json runs/bench

bench-quick: $(STAMP)  ## the same, each under a minute
	$(PY) -m benchmarks --quick --json runs/bench-quick

check: $(STAMP)  ## style, types, layers
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_layers.py tests/test_project.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache runs/demo

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f'Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...')"
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $(STAMP)
