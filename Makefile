# Two commands do everything on a fresh clone: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup run test lint bench clean
help:
	@echo "make run    set up, run the descent_dims study, name the figures"
	@echo "make test   set up, run the tests"
	@echo "make lint   ruff and mypy"
	@echo "make bench  speed, as ratios measured in one process"
	@echo "make setup  only prepare $(VENV)"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)

run: $(STAMP)
	$(BIN)/python -m sa.run -m experiment=descent_dims

test: $(STAMP) lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
