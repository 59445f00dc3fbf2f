# Everything runs in a virtual environment of its own. Needs python3 >= 3.11, make and git, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PLUGINS := bench faiss milvus qdrant
# Threads that wait by spinning make a busy machine ten times slower; the commands set this themselves.
export OMP_WAIT_POLICY ?= PASSIVE
PROJECTS := knnstore knnseg $(PLUGINS:%=plugins/knnstore-%)

.PHONY: demo test test-fast test-slow test-elsewhere test-servers test-servers-failed lint types docs bench dist clean

# Two steps, so that a demo does not wait for the tools of development. A changed requirement installs again.
$(VENV)/.base: constraints.txt $(PROJECTS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "knnseg needs python3 >= 3.11, got " + sys.version.split()[0])'
	@echo "installing into $(VENV): the first time takes a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e knnstore -e 'knnseg[photo,cli]' -e 'plugins/knnstore-faiss[cpu]'
	@touch $@

# The pip that a new environment brings may be too old for the groups of pyproject.toml.
$(VENV)/.dev: $(VENV)/.base pyproject.toml
	@$(PIP) install -c constraints.txt pip
	@$(PIP) install -c constraints.txt --group dev -e 'knnstore[cli,parquet,testing,servers]' \
	  -e 'knnseg[torch,photo,transformers,cli,studio,supervision,label-studio,cvat]' -e plugins/knnstore-bench -e 'plugins/knnstore-milvus[lite]' -e 'plugins/knnstore-qdrant[edge]'
	@touch $@

demo: $(VENV)/.base
	@$(BIN)/knnseg demo

test: $(VENV)/.dev
	$(MAKE) --no-print-directory lint types test-fast

# Two workers of one thread each: the threads of two torches on two cores would only wait for each other.
test-fast: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not server' -n 2 --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m 'slow and not server' $(ARGS)

# The numbers once more, as another processor would make them: the oldest kernels of OpenBLAS, NumPy and torch without the
# instructions that they choose among at run time, and more threads. Sums come in another order then, so a test whose verdict
# hangs on the last bits of a float fails here. What computes no scores is left out.
ELSEWHERE := tests/knnseg tests/knnstore/test_memory.py tests/knnstore/test_ranking.py plugins/knnstore-faiss/tests plugins/knnstore-bench/tests
test-elsewhere: $(VENV)/.dev
	OPENBLAS_CORETYPE=Nehalem ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2 \
	NPY_DISABLE_CPU_FEATURES="$$($(BIN)/python -c 'from numpy._core import _multiarray_umath as m; print(*[f for f in m.__cpu_dispatch__ if m.__cpu_features__.get(f)])')" \
	  $(BIN)/python -m pytest -m 'not slow and not server' -n 2 --dist loadfile -o cache_dir=.pytest_cache/elsewhere $(ELSEWHERE) $(ARGS)

# What needs a real server. Milvus comes with the development packages and must start; for Qdrant see docs/deploy/. Each of
# two workers starts its own, since most of the time is spent waiting for it.
test-servers: $(VENV)/.dev
	KNNSTORE_REQUIRE=$${KNNSTORE_REQUIRE-milvus} $(BIN)/python -m pytest -m server -n 2 --dist loadfile -o cache_dir=.pytest_cache/servers

# Those that failed, once more and alone: a test that a busy machine has made late passes then, one that is wrong does not.
test-servers-failed: $(VENV)/.dev
	KNNSTORE_REQUIRE=$${KNNSTORE_REQUIRE-milvus} $(BIN)/python -m pytest -m server -o cache_dir=.pytest_cache/servers \
	  --last-failed --last-failed-no-failures none

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(foreach plugin,$(PLUGINS),$(BIN)/mypy plugins/knnstore-$(plugin)/src &&) true

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# Every distribution, from the sources to a clean environment that it is installed into; the files stay in dist/.
dist: $(VENV)/.dev
	@rm -rf dist
	@$(BIN)/python scripts/distributions.py build dist
	@$(BIN)/python scripts/distributions.py check dist
	@$(BIN)/python scripts/distributions.py install dist

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/segment.py
	$(BIN)/python benchmarks/real.py
	$(BIN)/python benchmarks/milvus_store.py
	$(BIN)/python benchmarks/qdrant_store.py
	$(BIN)/python benchmarks/integrations.py

clean:
	rm -rf $(VENV) build dist site knnseg-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
