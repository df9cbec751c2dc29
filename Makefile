# The commands of the project. `make help` lists them.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
EXP ?= synthetic_hem
ARGS ?=
CHECKPOINT ?= last
BENCH ?= em
FORMAT ?= onnx
.DEFAULT_GOAL := help
# Recipes read these from the environment, so that spaces and quotes in them reach the commands as they are.
export EXP SWEEP SEARCH RUN INPUT CHECKPOINT FORMAT BENCH DATASET DEST resume
.PHONY: help setup data train sweep search evaluate predict explore export report bench gpu-check test test-all test-quick lint format docs figures release clean

names = $(sort $(basename $(notdir $(wildcard experiments/$(1)*.yaml))))

help: ## list the commands, recipes, sweeps and searches
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@printf '%s\n' '' 'EXP=, recipes:' '  $(call names,)' 'SWEEP=, that train:' '  $(call names,sweeps/)' \
		'SWEEP=, that evaluate:' '  $(call names,evaluations/)' 'SEARCH=:' '  $(call names,searches/)' | fold -s -w 110

setup: $(VENV)/.installed ## make .venv with the tested versions of every dependency

$(VENV)/.installed: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hemnet needs Python 3.11 or later: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: setup ## train: EXP=<recipe> ARGS="key=value ..." [resume=<run directory>: go on with that run]
	$(PY) -m hemnet.train $(if $(and $(resume),$(filter file,$(origin EXP))),,"experiment=$$EXP") $(if $(resume),"resume=$$resume") $(ARGS)

sweep: setup ## train many: SWEEP=<smoke, unroll_depth, highway_scale, table2_train, ...>; or evaluate many: SWEEP=table2_eval [ARGS=..]
	@test -n "$$SWEEP" || { echo "name a sweep: make sweep SWEEP=smoke"; exit 2; }
	@if test -f "experiments/evaluations/$$SWEEP.yaml"; then set -- hemnet.evaluate --sweep "$$SWEEP"; \
	elif test -f "experiments/sweeps/$$SWEEP.yaml"; then set -- hemnet.train --multirun "sweep=$$SWEEP"; \
	else echo "no sweep $$SWEEP; there are: $(sort $(call names,sweeps/) $(call names,evaluations/))"; exit 2; fi; \
	set -x; $(PY) -m "$$@" $(ARGS)

search: setup ## search for settings with Optuna: SEARCH=<experiments/searches/NAME> [ARGS="--trials 40 key=value ..."]
	@test -n "$$SEARCH" || { echo "name a search: make search SEARCH=hem"; exit 2; }
	$(PY) -m hemnet.search "$$SEARCH" $(ARGS)

evaluate: setup ## score a trained network, or a folder of them: RUN=<run directory> [CHECKPOINT=last|best] [ARGS=..]
	@test -n "$$RUN" || { echo "name a run: make evaluate RUN=runs/..."; exit 2; }
	$(PY) -m hemnet.evaluate "$$RUN" --checkpoint "$$CHECKPOINT" $(ARGS)

predict: setup ## segment images: RUN=<run directory> INPUT=<image or folder> [CHECKPOINT=last|best]
	@test -n "$$RUN" && test -n "$$INPUT" || \
		{ echo "name a run and images: make predict RUN=runs/... INPUT=photos/"; exit 2; }
	$(PY) -m hemnet.predict "$$RUN" "$$INPUT" --checkpoint "$$CHECKPOINT" $(ARGS)

explore: setup ## a page to look at what EM does with photographs: RUN=<run directory> [CHECKPOINT=last|best] [ARGS="photos/ .."]
	@test -n "$$RUN" || { echo "name a run: make explore RUN=runs/..."; exit 2; }
	$(PY) -m hemnet.explore "$$RUN" --checkpoint "$$CHECKPOINT" $(ARGS)

export: setup ## write a network for use without hemnet: RUN=<run directory> [FORMAT=onnx|torch] [CHECKPOINT=last|best]
	@test -n "$$RUN" || { echo "name a run: make export RUN=runs/..."; exit 2; }
	$(PY) -m hemnet.export "$$RUN" --format "$$FORMAT" --checkpoint "$$CHECKPOINT" $(ARGS)

report: setup ## one page on all runs, with figures and tables, in report/: [ARGS="runs/sweeps/smoke ..."]
	$(PY) -m hemnet.report $(ARGS)

bench: setup ## time and memory of the EM engines: [BENCH=data: the input path, BENCH=ddp: several processes] [ARGS=..]
	$(PY) -m hemnet.bench "$$BENCH" $(ARGS)

gpu-check: setup ## whether all works on this GPU, and how fast: one page in 25 minutes [ARGS=--dry: on a CPU, tiny]
	$(PY) experiments/gpu_check.py $(ARGS)

data: setup ## get a data set: DATASET=<voc, camvid, ...> [DEST=<folder>] [ARGS=..]
	@test -n "$$DATASET" || { echo "name a data set: make data DATASET=voc"; exit 2; }
	$(PY) -m hemnet.data get "$$DATASET" $(if $(DEST),--root "$$DEST") $(ARGS)

# One test a core: threads of one would take the cores of others.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal

test: setup ## run the tests that this machine can run
	$(PYTEST)

test-all: setup ## also the long ones: soak, repeated kills, many launches
	$(PYTEST) -m ""

test-quick: setup ## run the tests that take seconds
	$(PYTEST) -m "not slow and not long and not gpu"

docs: setup ## build the documentation site into site/: site/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

figures: setup ## draw the figures of the documentation again, docs/figures/*.svg
	$(PY) docs/tools/figures.py

lint: setup ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

release: setup ## what a release needs, in dist/ and site/, after all tests; it uploads nothing
	@version=$$($(PY) -c 'import hemnet; print(hemnet.__version__)'); \
		grep -q "^## $$version, " CHANGELOG.md || \
		{ echo "CHANGELOG.md has no section '## $$version, DATE': raise __version__ in src/hemnet/__init__.py, cut Unreleased"; exit 2; }
	@test -z "$$(git status --porcelain)" || { echo "there are changes that are not committed: commit them first"; exit 2; }
	$(MAKE) test-all lint docs
	rm -rf dist
	$(PY) -m hatchling build -d dist
	@echo "dist/ has the wheel and the sdist, site/ the documentation. Left to you: a tag of the version, and uploading"

format: setup ## sort imports and lay out the code
	$(PY) -m ruff check --fix --quiet .
	$(PY) -m ruff format .

clean: ## remove caches; runs and data stay
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build site
	find src tests -name __pycache__ -type d -exec rm -rf {} +
