# Every command of the project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := policies telemetry sim_backend api daemon
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Only wheels, only what the lock names: nothing is compiled, nothing unknown is fetched.
PIP_INSTALL := $(PIP) install --quiet --require-hashes --only-binary :all:
# The tool that resolves the locks is needed by nobody else, so it lives apart.
UV_VERSION := 0.13.8
SEED ?= 7
WORKERS ?= auto

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- the virtual environment -----------------------------------------------------------------------------------------
# run.stamp: a fresh environment with what `overwatt` needs; package.stamp: the project itself, editable; dev.stamp: the
# tools and test libraries on top. Each is made again when what it depends on changes.

$(VENV)/run.stamp: requirements/run.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11 to 3.13, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "make: $$($(PYTHON) --version) is not supported: name a Python 3.11 to 3.13: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv: install it (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) -r requirements/run.txt
	@touch $@

$(VENV)/package.stamp: $(VENV)/run.stamp pyproject.toml
	@# compat: a path instead of an import hook, which costs each start of the command 25 ms.
	@$(PIP) install --quiet --no-deps --no-build-isolation --no-index --config-settings editable_mode=compat -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt
	@$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

.PHONY: run-env dev-env
run-env: $(VENV)/package.stamp
dev-env: $(VENV)/package.stamp $(VENV)/dev.stamp

.PHONY: lock
lock: ## resolve requirements/*.txt again for Python 3.11 to 3.13
	@test -x build/uv/bin/uv || $(PYTHON) -m venv build/uv
	@build/uv/bin/python -m pip --disable-pip-version-check install --quiet uv==$(UV_VERSION)
	@# Options that would write where packages were fetched from are off: a lock must hold anywhere.
	@compile() { UV_CUSTOM_COMPILE_COMMAND="make lock" build/uv/bin/uv pip compile --quiet --upgrade --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-config "$$@" >/dev/null; }; \
	compile pyproject.toml requirements/build.in --extra sim --extra parquet -o requirements/run.txt; \
	compile pyproject.toml requirements/build.in --all-extras -c requirements/run.txt -o requirements/dev.txt

# --- using it --------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: run-env ## one simulated day of POLCA's row, with and without 30 % more servers: a table and a report
	@mkdir -p build
	@$(BIN)/overwatt replay --requests six-weeks --site docs/examples/polca-row.toml --policy no-cap,polca \
	    --add-servers 0,20,30 --days 1 --json build/demo.json --html build/demo.html
	@echo "report: build/demo.html (open it in a browser); figures: build/demo.json"

.PHONY: replay
replay: run-env ## replay a recorded journal through the core (J=path): same commands, byte for byte?
	@test -n "$(J)" || { echo "make: name the journal: make replay J=path" >&2; exit 64; }
	@$(BIN)/overwatt replay --journal "$(J)"

.PHONY: results
results: run-env ## make the README's tables again (an hour or more)
	@$(BIN)/python -m benchmarks.results

.PHONY: fidelity
fidelity: run-env ## compare the models with recordings again: docs/fidelity.md
	@$(BIN)/python -m benchmarks.fidelity

.PHONY: bench
bench: run-env ## measure plant, cores, pools, screening tier, sweeps, start and work W
	@$(BIN)/python -m benchmarks.plant_bench
	@$(BIN)/python -m benchmarks.core_bench
	@$(BIN)/python -m benchmarks.pools_bench speed
	@$(BIN)/python -m benchmarks.fluid_bench
	@$(BIN)/python -m benchmarks.week_bench
	@$(BIN)/python -m benchmarks.sweep_bench
	@$(BIN)/python -m benchmarks.start_bench
	@$(BIN)/python -m benchmarks.work_w

.PHONY: bench-w
bench-w: run-env ## measure work W alone; the last line is one JSON object
	@$(BIN)/python -m benchmarks.work_w

# --- changing it -----------------------------------------------------------------------------------------------------

.PHONY: check
check: dev-env ## format, lint, types, import contracts, tidiness
	@failed=; run() { echo "-- $$*"; "$(BIN)/$$@" || failed="$$failed; $$*"; }; \
	run ruff format --check --quiet .; \
	run ruff check --quiet .; \
	run mypy $(PACKAGES) tests benchmarks; \
	run lint-imports --no-cache --no-logo; \
	run python -m pytest -q tests/test_tidy.py; \
	test -z "$$failed" || { echo "make check failed in$${failed#;}" >&2; exit 1; }

.PHONY: test
test: dev-env chromium ## every tier of the tests
	@test -n "$${OVERWATT_DATA:-}" || echo "left out: tier data (set OVERWATT_DATA to a folder made as docs/data.md says)"
	@$(BIN)/python -m pytest -n $(WORKERS)

.PHONY: sim
sim: dev-env ## storms against the simulator from one seed (SEED=7)
	@$(BIN)/python -m pytest -n $(WORKERS) tests/simulation --seed $(SEED)

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || { \
	    echo "installing chromium for the test of the report (apt-get)"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
	        >/dev/null 2>&1 || echo "make: chromium could not be installed" >&2; }
	@command -v chromium >/dev/null || echo "left out: tier browser (install chromium; Debian: apt install chromium)"

.PHONY: format
format: dev-env ## format and mend what can be mended
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: clean
clean: ## remove what was built, the virtual environment included
	@rm -rf build dist $(VENV) *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
