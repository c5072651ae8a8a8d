# make demo | make test: everything else follows from them. `make help` lists the targets.

SHELL := /bin/bash
export VENV ?= .venv
export PYTHON ?= python3
export TORCH ?= torch==2.13.0
export WHEELS ?= kilted
BIN := $(abspath $(VENV))/bin

# One thread per process for software OpenGL and OpenMP: they fight over the cores otherwise.
export LP_NUM_THREADS ?= 1
TEST_ENV := OMP_NUM_THREADS=1
# Test processes; each has a ROS domain of its own.
JOBS ?= 0
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest $(if $(filter-out 0 1,$(JOBS)),-n $(JOBS))
PYTEST_ARGS ?=
# Of the targets that need a CUDA device: interpreter (found where empty), folder of wheels.
GPU_PYTHON ?=
GPU_WHEELS ?= .whl
DEMO_ARGS ?=

# What the installed part of the package (messages, entry points, dependencies) is made of. Python
# modules, config/, launch/ and models/ are read from the checkout.
INSTALLED_FROM := setup.py setup.cfg pyproject.toml package.xml CMakeLists.txt msg srv \
    $(wildcard msg/*.msg srv/*.srv cmake/*.cmake requirements/*.txt) scripts/make_venv.sh

# Of `make docs`: an environment with Sphinx alone.
DOCS_VENV ?= .venv-docs
DOCS_OUT ?= out/docs

.PHONY: demo test test-all test-gpu bench-gpu gpu-check test-libero train lint docs reference results \
    animation venv render clean distclean help
.DEFAULT_GOAL := help

demo: venv render  ## simulated arm driven over ROS 2 by a pruned policy; VIEW=1 shows the scene
	$(BIN)/specprune demo $(if $(VIEW),--view,--headless) $(DEMO_ARGS)

test: venv render  ## every test but the slow ones; JOBS=2 uses two processes
	$(PYTEST) $(PYTEST_ARGS)

test-all: venv render  ## the slow tests as well
	$(PYTEST) -m "not gpu and not libero" $(PYTEST_ARGS)

test-gpu:  ## the tests that need a CUDA device (GPU_PYTHON=; see scripts/gpu_check.sh)
	WHEELS=$(GPU_WHEELS) PYTHON=$(GPU_PYTHON) scripts/gpu_check.sh test

bench-gpu:  ## dense against pruned at the 7B shape on a CUDA device; MODEL=, OUT=
	WHEELS=$(GPU_WHEELS) PYTHON=$(GPU_PYTHON) scripts/gpu_check.sh bench

gpu-check:  ## both, in at most nine minutes
	WHEELS=$(GPU_WHEELS) PYTHON=$(GPU_PYTHON) scripts/gpu_check.sh all

test-libero: venv render  ## the tests with LIBERO itself (docs/libero.md)
	$(PYTEST) -m libero $(PYTEST_ARGS)

train: venv render  ## train models/specprune-tabletop anew; DEVICE=cuda, LOW= DEEP= FULL= PRUNED= minutes
	scripts/train_tabletop.sh

lint: venv  ## ruff
	$(BIN)/ruff check .

docs: $(DOCS_VENV)/.installed  ## build docs/ as HTML in out/docs, warnings as errors
	$(DOCS_VENV)/bin/python -m sphinx -E -W --keep-going -q -b html docs $(DOCS_OUT)
	@echo "$(DOCS_OUT)/index.html"

$(DOCS_VENV)/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install -q --disable-pip-version-check -r requirements/docs.txt
	@touch $@

reference: venv  ## make docs/reference anew from parameters, messages and commands
	$(BIN)/python scripts/make_reference.py

results:  ## put the figures of docs/results into README.md and docs
	$(PYTHON) scripts/results_table.py

animation: venv render  ## make docs/pictures/demo.gif anew
	$(TEST_ENV) $(BIN)/python scripts/make_animation.py

venv: $(VENV)/.installed  ## make or refresh .venv (VENV=, PYTHON=, TORCH=, WHEELS=kilted|jazzy)

$(VENV)/.installed: $(INSTALLED_FROM)
	@scripts/system_check.sh build
	@scripts/make_venv.sh
	@touch $@

render:
	@scripts/system_check.sh render

clean:  ## remove what builds and tests leave behind
	rm -rf build install log *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path "./.venv*" -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## remove .venv and .venv-docs as well
	rm -rf $(VENV) $(DOCS_VENV)

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
