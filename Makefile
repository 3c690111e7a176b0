# make demo     real and synthetic clips in; a trained, evaluated, exported model and its report out, in runs/demo
# make test     the whole test suite
# make check    lint, format and types
# make format   put the sources in the form that `make check` wants
# make clean    remove environments, caches and runs
#
# Each installs what it needs. Another Python: PYTHON=python3.12 make test (its environment is .venv-python3.12).

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(notdir $(PYTHON))),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1)

RUN := runs/demo
PYTEST_ARGS ?=

.PHONY: demo test check format environment clean
.DELETE_ON_ERROR:

environment: $(VENV)/.dev

# The environment is made anew when PYTHON became another version, and installed again when the requirements changed.
$(VENV)/.python-$(VERSION):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else 1)' || \
	  { echo "slap_jax needs Python 3.11 or newer, and $(PYTHON) is $(VERSION). Write: PYTHON=python3.12 make ..."; exit 1; }
	@echo "Making $(VENV) with Python $(VERSION)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python-$(VERSION) pyproject.toml requirements.txt
	@echo "Installing slap_jax and what the demo needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python-$(VERSION) pyproject.toml requirements.txt
	@echo "Installing slap_jax and the development tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.demo

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

demo: $(VENV)/.demo
	@echo "1/6  Preparing the embedded clips and synthetic scenes"
	@$(BIN)/slap prepare demo_data/manifest.jsonl $(RUN)/data/clips
	@$(BIN)/slap scenes $(RUN)/data/scenes --train 1000 --test 256
	@echo "2/6  Learning the vocabulary of the captions"
	@$(BIN)/slap tokenizer $(RUN)/data/tokenizer.model --data $(RUN)/data/clips:train --data $(RUN)/data/scenes:train
	@echo "3/6  Training configs/demo.py"
	@$(BIN)/slap train --config configs/demo.py --run-dir $(RUN)
	@echo "4/6  Exporting the model"
	@$(BIN)/slap export $(RUN)
	@echo "5/6  Evaluating on clips and scenes that training has not seen"
	@$(BIN)/slap evaluate $(RUN)
	@echo "6/6  Writing the report"
	@$(BIN)/slap report $(RUN)

clean:
	rm -rf .venv .venv-* .jax_cache .pytest_cache .ruff_cache build dist *.egg-info runs
	find slap_jax tests configs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
