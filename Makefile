# Everything a developer does, a line each. Needs Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(shell find protos/agentmesh -name '*.proto' | sort)

.DEFAULT_GOAL := help
.PHONY: help install demo up tools small-tools test check check-deploy bench chaos planted promises proto reference lock clean

KILLS := 200

help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed ## make the virtual environment from the lock file

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "agentmesh needs Python 3.11 or newer; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	$(BIN)/pip install --quiet --no-deps --require-hashes -r $(VENV)/uv.lock
	index=$${PIP_INDEX_URL:-$$($(BIN)/pip config get global.index-url 2> /dev/null)}; \
	UV_SYSTEM_CERTS=true $(BIN)/uv pip install --quiet --python $(BIN)/python $${index:+--default-index "$$index"} \
	  --require-hashes -r requirements.lock || $(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: install ## start the mesh and analyse a real data set
	$(BIN)/agentmesh demo

up: install ## start all five services on this machine
	$(BIN)/agentmesh up

tools: install ## put promtool, Prometheus, amtool, nginx and Chromium into .cache/tools, without root
	$(BIN)/python -m tests.tools

small-tools: install
	$(BIN)/python -m tests.tools --small

test: install small-tools ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: install ## format, lint, types, import walls, contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	sh protos/generate.sh $(BIN) --check
	$(BIN)/python docs/reference/write.py --check
	$(BIN)/mypy --num-workers auto

check-deploy: install small-tools ## check what deploys and observes the mesh, with the tools that read it
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/deploy $(ARGS)

bench: install ## measure, as ratios to raw gRPC in the same run
	$(BIN)/python -m tests.bench $(ARGS)

chaos: install ## kill and freeze a mesh KILLS times under load; ROLLING=1 drains and restarts each process instead
	$(BIN)/python -m tests.chaos --kills $(KILLS) $(if $(SEED),--seed $(SEED)) $(if $(ROLLING),--rolling) $(ARGS)

planted: install ## break each promise on purpose, and see its test fail
	$(BIN)/python -m tests.planted $(ARGS)

promises: install ## time what is promised in seconds
	$(BIN)/python -m tests.promises $(ARGS)
	$(BIN)/python -m tests.promises.overload

proto: install ## write the generated code anew
	sh protos/generate.sh $(BIN)

reference: install ## write docs/reference/configuration.md and configs/schema.json anew
	$(BIN)/python docs/reference/write.py

lock: install ## resolve the dependencies anew
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --extra dev --output-file requirements.lock pyproject.toml lock.in

clean: ## remove what make made
	rm -rf $(VENV) .agentmesh .cache .mypy_cache .ruff_cache .pytest_cache
