# `make help` lists what is here. Everything is installed into .venv at the versions of requirements/.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.NOTPARALLEL:

ENGINE ?= cpu
PINS := requirements/$(ENGINE).txt
BIN := .venv/bin
PACKAGES := .venv/.packages-$(ENGINE)
STAMP := .venv/.installed-$(ENGINE)
UV_VERSION := $(shell sed -n 's/^uv==//p' requirements/cpu.txt)
# The first Python that can run MART; the preflight tells what is wrong if there is none.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$python && break; done || echo python3)
COMPILE := $(BIN)/uv pip compile --quiet --universal -p 3.11 --no-annotate --no-header pyproject.toml
CODE := jobs pipelines training schemas sandbox

.PHONY: help preflight install sandbox test lint format unit e2e chaos wheel pins docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  ENGINE=cuda installs vLLM for a CUDA device instead of vLLM for the CPU; PYTHON=... names the interpreter;"
	@echo "  ARGS='...' is handed on: to mart run (sandbox), to pytest (test, unit), to uv pip compile (pins)."

preflight: ## say what this machine lacks, with the remedy
	@$(PYTHON) jobs/preflight.py

install: $(STAMP) ## install everything at pinned versions into .venv; nothing if that is done

$(PACKAGES): $(PINS) pyproject.toml | preflight
	@rm -f .venv/.packages-* .venv/.installed-*
	@test -x $(BIN)/python || if command -v uv >/dev/null; then uv venv --quiet --python "$$(command -v $(PYTHON))" .venv; \
		else $(PYTHON) -m venv .venv; fi
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	@uv="$$(command -v uv || echo $(BIN)/uv)" && $$uv pip sync --python $(BIN)/python $(PINS) \
		&& $$uv pip install --python $(BIN)/python --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(STAMP): $(PACKAGES) pipelines/java/LinkLogStore.java
	@echo "fetching the jars of Delta Lake, and preparing Spark's Java for exclusive commits and short starts"
	@$(BIN)/python -m jobs.prepare >.venv/prepare.log 2>&1 || { cat .venv/prepare.log >&2; exit 1; }
	@touch $@

sandbox: preflight $(STAMP) ## four rounds on the embedded sandbox, with a summary at the end
	$(BIN)/mart run --config conf/sandbox.yaml $(ARGS)

# Most tests wait half of their time: for a JVM, an engine, a trainer to start. Two files at a time, begun in their order, the longest first.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

# Lint runs beside the preparation, one process for most of its time; what it finds is printed at once, and counts at the end.
test: $(PACKAGES) ## lint, types, import contract, and every test but the long ones of make e2e
	@$(MAKE) --no-print-directory lint & lint=$$!; \
		$(MAKE) --no-print-directory $(STAMP) && $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS); tests=$$?; \
		wait $$lint || { echo "make lint failed: see above" >&2; exit 1; }; exit $$tests

lint: $(PACKAGES) ## style, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy --num-workers 2

format: $(PACKAGES) ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

unit: $(STAMP) ## the tests that need neither Spark nor an engine
	$(BIN)/python -m pytest tests/unit -m "not slow" $(ARGS)

e2e: $(STAMP) ## only the main job, small: real and killed, verified and tampered with; killed again and again with answers by script; on a cluster, with an engine
	$(BIN)/python -m pytest tests/e2e -m "long or not long" $(ARGS)

N ?= 10
chaos: $(STAMP) ## kill a small run N times at random moments; it must end, prove whole and leave nothing behind
	$(BIN)/python -m tests.chaos --kills $(N) $(ARGS)

wheel: $(STAMP) ## build the wheel into dist/, and beside it the same file as .zip, which spark-submit ships
	$(BIN)/uv build --wheel --no-build-isolation --python $(BIN)/python
	@for wheel in dist/*.whl; do cp "$$wheel" "$${wheel%.whl}.zip"; done

pins: $(STAMP) ## compile requirements/ again; ARGS=--upgrade takes newer versions
	$(COMPILE) --extra local --extra cpu --extra sandbox --group dev -o requirements/cpu.txt $(ARGS)
	$(COMPILE) --extra local --extra cuda --extra sandbox --group dev -o requirements/cuda.txt $(ARGS)
	$(COMPILE) -o requirements/databricks.txt $(ARGS)
	$(COMPILE) --extra cuda -o requirements/databricks-gpu.txt $(ARGS)
	@! grep -nE '://| @ |^-' requirements/*.txt || { echo "a pin names a host or a path: see above" >&2; exit 1; }

docs: $(STAMP) ## write docs/tables.md from schemas/
	$(BIN)/python -m schemas.document > docs/tables.md.new && mv docs/tables.md.new docs/tables.md

clean: ## remove .venv and what was built; tables and models stay
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
