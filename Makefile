# make demo   the whole main job on the embedded default      make test   linter, type checker, tests
# make chat   talk with the demo's model                      make setup  the virtual environment alone
# make pocket the pretrained model again, from nothing        (two hours on two cores; goes on where it stopped)
# make pictures  the pictures in docs/pictures, from the demo's model
#
# Everything is installed into .venv, in the versions of constraints.txt. Only Python 3.11+ and make must be there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: setup demo chat pocket pictures test lint clean

setup: $(VENV)/.installed

# pip comes last into a new environment, so one that was interrupted is completed by the next call.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml constraints.txt assistant/fused.c
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
	@$(BIN)/python docs/pictures.py demo/model

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n logical --maxprocesses 4

clean:
	rm -rf $(VENV) assistant/_fused.* build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
