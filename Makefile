# The two commands: `make demo` and `make test`. Everything else is here too, and small.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
JOBS ?= 2

.PHONY: demo test lint setup clean help screenshots

help:
	@echo "make demo    set up, then: text -> tokens -> a trained, evaluated GPT with a report (about 8 minutes on two cores)"
	@echo "make test    set up, then run every test"
	@echo "make lint    ruff and mypy"
	@echo "make screenshots  the pictures of docs/images, by a headless chromium"
	@echo "make clean   remove the virtual environment and what the demo wrote"

demo: $(VENV)/installed
	$(BIN)/daybreak data prepare python:docs --out data/demo --vocab-size 4096
	$(BIN)/daybreak train demo --out runs/demo

test: $(VENV)/tested
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

screenshots: $(VENV)/tested
	$(BIN)/python benchmarks/screenshots.py

setup: $(VENV)/installed

# A stamp is written when an installation is complete, so that one cut short is done again.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "daybreak needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) data/demo runs/demo build *.egg-info
