# make demo   a real checkpoint: converted, proved, run and drawn
# make test   lint, types and tests; make test-all with every variant of every kernel
# All set up their own virtual environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo-output
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all suite lint style types bench clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/digits/demo.py --output $(DEMO)

lint: style types

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/lint-imports

# The types are checked beside the tests, on what a worker leaves when it waits; what measures time runs alone.
test: style
	$(MAKE) --no-print-directory -j 2 types suite
	$(BIN)/python -m pytest -m timing

suite: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not timing"

test-all: export CONVKIT_EVERY_CASE = 1
test-all: test

bench: $(STAMP)
	failed=0; for script in cli_startup convert_full_size preprocess_decode dcn_cpu tensorrt_build tensorrt_generated; do \
		$(BIN)/python benchmarks/$$script.py || failed=1; done; exit $$failed

clean:
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache
