# Every target does its whole set-up: nothing is needed but Debian 12 (or alike) with gcc, make and python3-venv, and no root.
#   make demo    boot Debian's kernel as a paravirtualised domain to a shell (Ctrl-] leaves the console)
#   make test    static checks and the whole test suite
#   make bench   boot time, the guest's benchmarks and single operations, beside the figures of other ways to run a Xen guest; writes
#                benchmarks/results.json and docs/benchmarks.svg
#   make bench-peer    the same guests on QEMU without Xen beside ours, with ratios (needs qemu-system-x86)
#   make bench-check   measure what SPECIFICATION.md promises; fails when a promise is broken
#   make wheel   dist/pyxen-*.whl with the native engine inside
#   make lint    the static checks alone
#   make clean   remove what the targets made in this tree (the cache in ~/.cache/pyxen stays)
# Variables: PYTHON (at least 3.11), PYTEST_ARGS, BENCH_ARGS, CHECK_ARGS, PYXEN_CACHE_DIR.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
BUILD_INPUTS := pyproject.toml $(wildcard setup.py) $(shell find native -type f -not -path '*/__pycache__/*' 2>/dev/null)

.PHONY: demo test bench bench-peer bench-check wheel lint clean guests
.DELETE_ON_ERROR:

demo: $(INSTALLED) guests
	$(BIN)/pyxen demo

test: lint guests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(INSTALLED) guests
	$(BIN)/python benchmarks/run.py --json benchmarks/results.json --plot docs/benchmarks.svg $(BENCH_ARGS)

bench-peer: $(INSTALLED) guests
	$(BIN)/python benchmarks/run.py --peer $(BENCH_ARGS)

bench-check: $(INSTALLED) guests
	$(BIN)/python benchmarks/check.py $(CHECK_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

wheel: $(INSTALLED)
	$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist .
	@ls -l dist/pyxen-*.whl

guests: $(INSTALLED)
	@$(BIN)/python -m pyxen.guests >/dev/null

# The environment, made again only when something that the installation depends on changed. pip builds the engine.
$(INSTALLED): $(BUILD_INPUTS)
	@$(call require,gcc,gcc libc6-dev)
	@$(call require,$(PYTHON),python3)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pyxen needs Python 3.11 or newer: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt install python3-venv" >&2; exit 1; }
	@echo "Installing pyxen in $(VENV) and building its engine (a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	-test ! -x $(BIN)/pyxen || $(BIN)/pyxen host stop
	rm -rf $(VENV) build dist src/*.egg-info src/pyxen/engine/lib .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests benchmarks native -name __pycache__ -type d -exec rm -rf {} +

# $(call require,PROGRAM,PACKAGES): one line that says what is missing, and what brings it.
require = command -v $(1) >/dev/null || { echo "$(1) is missing: apt install $(2)" >&2; exit 1; }
