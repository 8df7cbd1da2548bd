# The verbs of daily work. Each is one line of what .ci/run does, so there is
# nothing here that can't be done without make.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install test fast lint fmt types docs wheel demo bench check clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/'

install: ## an environment for all of the below, in .venv
	$(PYTHON) tools/environment.py test lint docs build

test: ## the whole suite
	$(PYTHON) tools/test.py $(ARGS)

fast: ## the suite without the slow tests
	$(PYTHON) tools/test.py -m "not slow" $(ARGS)

lint: install ## style and likely bugs
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

fmt: install ## bring the code into form
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: install ## mypy --strict
	$(BIN)/mypy

docs: install ## the documentation, in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

wheel: install ## build it, and try it where nothing else is installed
	$(BIN)/python tools/check_wheel.py

demo: ## two peers talk
	$(PYTHON) -m snakemq demo

bench: ## a quick look at the speed, side by side with others
	$(PYTHON) -m benchmarks --quick

check: ## everything, as CI does it
	bash .ci/run

clean:
	rm -rf .venv build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache
