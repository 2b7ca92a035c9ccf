# `make` lists what there is to do. Everything is kept in .venv and .stack of this folder.
SHELL := /bin/bash
PY := .venv/bin/python
unexport VIRTUAL_ENV PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit e2e bench-judgement bench-gates bench-overhead bench-bad-fixes bench-rollout chaos figures reference up down status lock install

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-16s %s\n", $$1, $$2}'

demo: up ## a good fix and a bad fix under live traffic, on real servers
	@$(PY) -m tests.stack.demo
	@$(PY) -m tests.stack status

test: install ## everything: lint, types, layers, unit, Airflow and end-to-end tests
	@$(PY) -m tests.e2e --lint tests/unit tests/airflow

lint: install ## style, types and layers
	@.ci/step "ruff" .venv/bin/ruff check .
	@.ci/step "ruff format" .venv/bin/ruff format --check .
	@.ci/step "mypy" .venv/bin/mypy
	@.ci/step "import-linter" .venv/bin/lint-imports

unit: install ## unit and Airflow tests: no server, no root; PYTHON=3.13: the unit tests on another Python
ifdef PYTHON
	@.ci/unit-on $(PYTHON)
else
	@$(PY) -m pytest -q --cov --cov-report= --cov-fail-under=0 tests/unit tests/airflow && $(PY) -m tests.coverage
endif

e2e: install ## end-to-end tests on the real servers; everything is stopped afterwards
	@$(PY) -m tests.e2e

bench-judgement: install ## how soon a bad version is stopped, and how often a good one: simulated, 5 minutes
	@$(PY) -m tests.bench.judgement

bench-gates: install ## 1,000 gates on one triggerer, 5 minutes on an idle machine: .bench/gates.json
	@$(PY) -m tests.bench.gates

bench-overhead: install ## what Airflow's hops cost a deployment, against empty tasks, 15 minutes on an idle machine: .bench/overhead.json
	@$(PY) -m tests.bench.overhead $(N)

bench-bad-fixes: install ## 30 bad fixes under live traffic, on the servers that are up: .bench/bad_fixes.json
	@$(PY) -m tests.bench.bad_fixes $(N)

bench-rollout: install ## requests lost by shifts and rollbacks, and how soon they act, on the servers that are up: .bench/rollout.json
	@$(PY) -m tests.bench.rollout $(N)

chaos: install ## kill each component in each state of a deployment, on the servers that are up: .bench/chaos.json
	@$(PY) -m tests.bench.chaos $(ROWS)

figures: install ## draw the pictures of docs/concepts, and print its numbers
	@nice $(PY) -m tests.bench.figures

reference: install ## write the reference of all settings, and the JSON Schemas, from the models
	@$(PY) -m tests.docs.reference

up: install ## start the real servers
	@$(PY) -m tests.stack up

down: install ## stop them and leave nothing behind
	@$(PY) -m tests.stack down

status: install ## addresses and logins
	@$(PY) -m tests.stack status

lock: install ## resolve requirements.lock anew, for every Python from 3.11 on
	@.venv/bin/uv pip compile --quiet pyproject.toml --group dev --generate-hashes --no-emit-index-url --no-header \
	  --universal --python-version 3.11 -o requirements.lock

install:
	@.ci/install
