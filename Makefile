# Two commands matter: `make nacl` runs a whole campaign, `make test` checks the code.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: nacl test clean
.venv: .venv/installed

nacl: .venv/installed
	$(BIN)/temper run nacl

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find flows tasks models db tests -name __pycache__ -type d -prune -exec rm -rf {} +
