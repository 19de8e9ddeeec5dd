PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: setup demo test check slow clean

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

setup: $(VENV)/.installed

# The main job on the embedded data; an earlier run is moved aside, never overwritten.
demo: setup
	@if [ -e "$(RUN)" ]; then mv "$(RUN)" "$(RUN)-$$(date +%Y%m%d-%H%M%S)"; fi
	$(BIN)/taskrl train --config configs/demo.yaml --out "$(RUN)" --final

# Two processes, a file's tests in one of them: tests of a file share what they made.
test: setup
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=85

slow: setup
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*
