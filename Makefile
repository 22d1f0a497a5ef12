# What people run and what CI runs. Each target sets up what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= featurestore-demo
WORKERS ?= 3

.PHONY: help demo test lint docs bench dashboard format hooks lock clean

help:  ## what the targets do
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/run.stamp  ## the main job on real data, offline
	$(BIN)/featurestore demo --store $(STORE)

# Three files at a time, each with one thread for its sums: a quarter of the time of a file is waiting
# (browsers, servers, kills), so that three keep two cores busy.
# tests/conftest.py says which come first: the long ones, so that none is left for the end.
test: $(VENV)/dev.stamp  ## the whole suite; ARGS="-k store -x" goes to pytest, WORKERS=1 is one at a time
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/dev.stamp  ## ruff, mypy --strict, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/dev.stamp  ## the documentation site, in build/site
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo "open build/site/index.html"

format: $(VENV)/dev.stamp  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp  ## print figures, write benchmarks/results/
	$(BIN)/python -m benchmarks.main

dashboard: $(VENV)/run.stamp  ## look at the demo's store in the browser
	$(BIN)/featurestore dashboard --store $(STORE)

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"featurestore needs Python 3.11 or newer, {sys.executable} is {v.major}.{v.minor}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run.stamp: requirements/run.txt requirements/demo.txt pyproject.toml | $(VENV)/python.stamp
	@echo "installing the pinned set into $(VENV) (several minutes, some 5 GB: torch brings CUDA)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/demo.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	touch $@

hooks: $(VENV)/dev.stamp  ## lint before each commit
	$(BIN)/pre-commit install

# Pins anew, without URLs: run.txt is what the package needs, dev.txt what comes on top.
lock:  ## pin requirements/*.txt anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra cpu --extra dashboard --extra encoders $(LOCK) -o requirements/run.txt
	$(BIN)/uv pip compile requirements/dev.in -c requirements/run.txt $(LOCK) -o requirements/dev.all
	{ echo "-r run.txt"; awk -F '==' 'NR == FNR {run[$$1]; next} !($$1 in run)' requirements/run.txt requirements/dev.all; } > requirements/dev.txt
	rm requirements/dev.all
LOCK := --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header \
	--no-annotate --quiet

clean:  ## delete .venv and what tools keep
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
