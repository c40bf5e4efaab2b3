# Two commands do everything on a fresh clone: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Laws and closed forms that take seconds, for `make check`.
FAST := tests/test_structure.py tests/test_objective.py tests/test_forward.py tests/test_flips.py tests/test_curvature.py \
  tests/test_grouping.py tests/test_tables.py tests/test_expectation.py tests/test_ranking.py tests/test_optimizer.py \
  tests/test_divergence.py tests/test_record.py tests/estimator/test_nes.py tests/estimator/test_cdg.py \
  tests/estimator/test_ste.py tests/estimator/test_directions.py tests/estimator/test_searches.py \
  tests/quantizer/test_quantizers.py tests/quantizer/test_layers.py tests/model/test_formulas.py

.PHONY: help setup run test check lint bench clean
help:
	@echo "make run    set up, run the descent_dims study, name the figures"
	@echo "make test   set up, run the tests"
	@echo "make check  lint, and the laws that take seconds: the inner loop"
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

check: $(STAMP) lint
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 $(FAST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
