# make run: the site with two demo users, from a fresh clone, in one command.

HOST ?= 127.0.0.1
PORT ?= 8000
WORKERS ?= 2
POSTGRESQL = $(or $(TEST_DATABASE_URL),postgresql://postgres@127.0.0.1:5432/postgres)

VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
# No more workers than cores. Tests that start real servers insist on limits of time: they run after
# the others, one by one.
SIDE_BY_SIDE := -n $(WORKERS) --dist worksteal -m "not slow and not long"
ONE_BY_ONE := -n 0 -m "slow and not long"
# A site of its own for commands that need settings: no .env, and no database of yours, is touched.
SANDBOX := SECRET_KEY=only-for-make-check-only-for-make-check-only-for-make-check DEBUG=false \
	DATABASE_URL= AGENT_SESSION_DB_PATH=$(VENV)/check/check.db

.DEFAULT_GOAL := help
.PHONY: help run test check lint types bench faults load lock clean venv dev postgresql

help: ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | \
		while IFS='|' read -r name text; do printf '  make %-7s %s\n' "$$name" "$$text"; done

run: venv ## prepare everything and run the site (HOST=, PORT=); Ctrl-C stops
	@$(PY) -c "from pathlib import Path; from chatsite.env import write_secret_key as w; w(Path('.env'))"
	@exec $(PY) manage.py serve --demo --host $(HOST) --port $(PORT)

test: dev ## all tests, on SQLite (WORKERS=)
	TEST_DATABASE_URL= $(PYTEST) $(SIDE_BY_SIDE)
	TEST_DATABASE_URL= $(PYTEST) $(ONE_BY_ONE)

check: lint types ## all that must pass before a change is merged
	$(SANDBOX) $(PY) manage.py makemigrations --check --dry-run
	$(SANDBOX) $(PY) manage.py check
	@echo "docs/settings.md and .env.example as generated?"
	@rm -rf $(VENV)/docs && mkdir $(VENV)/docs && cp docs/settings.md .env.example $(VENV)/docs/
	@$(PY) -m chatsite.env
	@diff -u $(VENV)/docs/settings.md docs/settings.md
	@diff -u $(VENV)/docs/.env.example .env.example
	TEST_DATABASE_URL= $(PYTEST) $(SIDE_BY_SIDE) --cov --cov-report= --cov-fail-under=0
	TEST_DATABASE_URL= $(PYTEST) $(ONE_BY_ONE) --cov --cov-append --cov-fail-under=95
	@$(MAKE) --no-print-directory postgresql

lint: dev ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: dev ## mypy, strict
	$(SANDBOX) $(PY) -m mypy chatsite conversations

bench: dev ## the benchmarks (minutes)
	$(PY) -m benchmarks.session_ops
	$(PY) -m benchmarks.turn_overhead
	$(PY) -m benchmarks.chatkit_door
	$(PY) -m benchmarks.pruning
	$(PY) -m benchmarks.cleanup
	$(PY) -m benchmarks.admin
	$(PY) -m benchmarks.recording
	$(PY) -m benchmarks.handover

faults: dev ## break real servers, files and engines in every way, many times (a quarter of an hour)
	$(PY) -m conversations.tests.faults
	TEST_DATABASE_URL= $(PY) -m pytest -m long

load: dev ## 300 conversations at once, alone and beside a writer
	$(PY) -m conversations.tests.faults --only load --only load-beside-a-writer

lock: venv ## compile requirements*.txt from the .in files
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip compile --generate-hashes --no-strip-extras --universal --python-version 3.11 \
		--custom-compile-command "make lock" requirements.in -o requirements.txt
	$(VENV)/bin/uv pip compile --generate-hashes --no-strip-extras --universal --python-version 3.11 \
		--custom-compile-command "make lock" requirements-dev.in -o requirements-dev.txt

clean: ## remove the environment and every cache; your data and .env stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* staticfiles
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The suite once more on PostgreSQL. REQUIRE_POSTGRESQL=1 makes a missing server a failure.
postgresql:
	@if $(PY) -c "import sys, psycopg; psycopg.connect(sys.argv[1], connect_timeout=3).close()" \
		"$(POSTGRESQL)" 2>/dev/null; then \
		echo "TEST_DATABASE_URL=... $(PYTEST)"; \
		TEST_DATABASE_URL="$(POSTGRESQL)" $(PYTEST) $(SIDE_BY_SIDE) && \
		TEST_DATABASE_URL="$(POSTGRESQL)" $(PYTEST) $(ONE_BY_ONE); \
	elif [ -n "$(REQUIRE_POSTGRESQL)" ]; then \
		echo "No PostgreSQL server answers at TEST_DATABASE_URL."; exit 1; \
	else \
		echo "SKIPPED: the tests on PostgreSQL. No server answers at TEST_DATABASE_URL"; \
		echo "         (or, without it, at 127.0.0.1:5432 as postgres without a password)."; \
	fi

# The environment is installed anew only when a lock file's content changed.
venv: $(PY)
	@cmp -s requirements.txt $(VENV)/requirements.installed || { \
		echo "Installing what requirements.txt lists (once)..." && \
		$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt && \
		cp requirements.txt $(VENV)/requirements.installed; }

dev: venv
	@cmp -s requirements-dev.txt $(VENV)/requirements-dev.installed || { \
		echo "Installing what requirements-dev.txt lists (once)..." && \
		$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt && \
		cp requirements-dev.txt $(VENV)/requirements-dev.installed; }

$(PY):
	@for python in "$(PYTHON)" python3.11 python3.12 python3.13 python3.14 python3; do \
		[ -n "$$python" ] || continue; \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		"$$python" -m venv $(VENV) && exit 0; \
		rm -rf $(VENV); \
		echo "$$python cannot make a virtual environment: install its venv module"; \
		echo "(Debian and Ubuntu: apt-get install python3-venv)."; \
		exit 1; \
	done; \
	echo "Python 3.11 or newer was not found. Install it, or say where it is: make run PYTHON=/path/to/python3"; \
	exit 1
