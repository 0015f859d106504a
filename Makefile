PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick check bench docs clean

# The stamp is newer than what it was made from, or it is made again. torch comes first and alone:
# a range would take the build with gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,bench]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,docs]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/burnish demo --restart

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Two processes by file, which share what a file's fixtures made. One thread each: on models this
# small, threads wait longer than they work.
test: $(VENV)/.installed
	$(PYTEST) --durations=20 -rs

# All tests but those that train a run, load a built-in model, or start and end processes.
quick: $(VENV)/.installed
	$(PYTEST) -m "not trains and not process and not slow"

bench: $(VENV)/.bench
	$(BIN)/python bench/train.py
	$(BIN)/python bench/score.py
	$(BIN)/python bench/validity.py
	$(BIN)/python bench/certificate.py --measure
	$(BIN)/python bench/forgetting.py
	$(BIN)/python bench/serve.py
	$(BIN)/python bench/serve_load.py
	$(BIN)/python bench/serve_lists.py
	$(BIN)/python bench/serve_kills.py

# The pages are in build/site. A link that leads nowhere fails the build, but not with --quiet,
# under which mkdocs counts no warning.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
