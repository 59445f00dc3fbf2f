# Everything runs in a virtual environment of its own. Needs python3 >= 3.11, make and git, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PLUGINS := plugins/knnstore-faiss

.PHONY: demo test test-fast test-slow lint types docs bench clean

# Two steps, so that a demo does not wait for the tools of development. A changed requirement installs again.
$(VENV)/.base: pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "knnseg needs python3 >= 3.11, got " + sys.version.split()[0])'
	@echo "installing into $(VENV): the first time takes a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e '.[torch,cli]' $(PLUGINS:%=-e '%[cpu]')
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.base
	@$(BIN)/knnseg demo

test: $(VENV)/.dev
	$(MAKE) --no-print-directory lint types test-fast

# Two workers of one thread each: the threads of two torches on two cores would only wait for each other.
test-fast: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/mypy plugins/knnstore-faiss/src

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/segment.py
	$(BIN)/python benchmarks/real.py

clean:
	rm -rf $(VENV) build dist site knnseg-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
