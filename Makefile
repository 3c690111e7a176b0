# make demo     prepare clips and scenes, train, evaluate, export, and write a report to runs/demo
# make test     run all tests
# make quick    the tests that neither compile nor start processes: a minute
# make check    check lint, format, types and shell scripts, and build the documentation with warnings as errors
# make docs     build the documentation into site/
# make oracle   compare exports and text towers with torch and transformers (installs several GB)
# make gpu-aot  compile a small step for every kind of GPU, without a GPU; installs the CUDA plug-in (several GB)
# make format   fix lint and format
# make clean    remove environments, caches and runs
#
# Each target installs what it needs. PYTHON=python3.12 make test uses another Python, in .venv-python3.12.

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(notdir $(PYTHON))),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo unknown)

RUN := runs/demo
# The variable silences an advertisement. With --quiet, mkdocs would not see the warnings that --strict makes errors.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
# One worker per core, no more than memory carries; tests of one file share what the file compiles.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test quick check docs oracle gpu-aot format environment clean
.DELETE_ON_ERROR:

environment: $(VENV)/.dev

# A new version of PYTHON creates the environment again; changed requirements only install again.
$(VENV)/.python-$(VERSION):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "slap_jax needs Python 3.11 or newer; the version of $(PYTHON) is $(VERSION)."; \
	  echo "Name one that runs: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@echo "Making $(VENV) with Python $(VERSION)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python-$(VERSION) pyproject.toml requirements.txt
	@echo "Installing slap_jax and what the demo needs into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python-$(VERSION) pyproject.toml requirements.txt
	@echo "Installing slap_jax and the development tools into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.demo

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

quick: $(VENV)/.dev
	@$(BIN)/python -m pytest $(PYTEST_ARGS) -m 'not compile and not process'

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/shellcheck -x launch/*.sh launch/*.sbatch
	@$(MKDOCS)

docs: $(VENV)/.dev
	@$(MKDOCS)
	@echo "Done. Open site/index.html, or run $(BIN)/mkdocs serve for a site with search"

# Compares with torch, transformers and a browser, in a separate environment.
oracle:
	@$(MAKE) --no-print-directory VENV=.venv-oracle environment
	@.venv-oracle/bin/python -m pip install -qq --disable-pip-version-check --editable '.[oracle]'
	@SLAP_TEST_ORACLES=1 .venv-oracle/bin/python -m pytest tests/oracle

# In a separate environment: with the plug-in installed, JAX looks for a GPU at every start.
gpu-aot:
	@$(MAKE) --no-print-directory VENV=.venv-cuda environment
	@.venv-cuda/bin/python -m pip install -qq --disable-pip-version-check --editable '.[cuda12]'
	@.venv-cuda/bin/python -m tests.aot.compile_for_gpus

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

# Evaluation and report reuse the programs that training compiled.
demo: export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.jax_cache
demo: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.2
demo: $(VENV)/.demo
	@echo "1/6  Preparing the embedded clips and synthetic scenes"
	@$(BIN)/slap prepare demo_data/manifest.jsonl $(RUN)/data/clips
	@$(BIN)/slap scenes $(RUN)/data/scenes --train 1200 --test 240
	@echo "2/6  Learning the vocabulary of the captions"
	@$(BIN)/slap tokenizer $(RUN)/data/clips $(RUN)/data/scenes --vocab-size 400 --output $(RUN)/data/tokenizer.model
	@echo "3/6  Training configs/demo.py"
	@$(BIN)/slap train --config configs/demo.py --run-dir $(RUN)
	@echo "4/6  Evaluating on clips and scenes that training has not seen"
	@$(BIN)/slap evaluate $(RUN)
	@echo "5/6  Exporting the model, with its numbers in the model card"
	@$(BIN)/slap export $(RUN)
	@echo "6/6  Writing the report"
	@$(BIN)/slap report $(RUN)
	@echo "Done. Open $(RUN)/report.html; the model is in $(RUN)/export, its numbers in $(RUN)/report.json"

clean:
	rm -rf .venv .venv-* .jax_cache .pytest_cache .ruff_cache build dist site *.egg-info runs
	find slap_jax tests configs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
