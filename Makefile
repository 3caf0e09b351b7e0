PYTHON ?= python3
BIN := .venv/bin
# requirements.txt holds everything, so there is nothing to resolve; modules are compiled when used.
QUIETLY := --quiet --disable-pip-version-check --no-deps --no-compile

# Compiled once: without it every process of a run compiles its libraries anew, for seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run serve test check review clean
run: .venv/ready            ## the main job: every stage that is stale, then a short table
	@$(BIN)/palette check
	@$(BIN)/dvc repro
	@$(BIN)/palette summary

serve: .venv/ready          ## scheduled runs: a Prefect server and a worker, until stopped
	@$(BIN)/python -m flows.serve

test: .venv/ready           ## all tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: .venv/ready          ## style, types, import boundaries
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

review: .venv/ready         ## what changed since REV (or the main branch), in Markdown; then the lock gate
	@mkdir -p .palette
	@$(BIN)/palette diff $(REV) --pictures "$(PICTURES)" > .palette/review.md
	@cat .palette/review.md
	@$(BIN)/palette stale

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "installing the pinned dependencies into .venv (a minute or two)"
	@$(BIN)/pip install $(QUIETLY) -r requirements.txt
	@$(BIN)/pip install $(QUIETLY) --no-build-isolation -e .
	@touch $@

clean:                      ## remove what is made, but not the DVC cache
	rm -rf .venv .palette data
