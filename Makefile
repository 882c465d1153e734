# Every target does its own set-up, and is quick when that is done already.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
STAMP := $(VENV)/.installed
FASHION_MNIST := /usr/share/datasets/fashion-mnist

.PHONY: demo test check clean data browser
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 to 3.13, or give PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,export,reports]'
	@touch $@

# Debian's package where it can be had; elsewhere the data resolver falls back to torchvision's download.
data:
	@test -d $(FASHION_MNIST) || { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
	  && { apt-get install -qq -y dataset-fashion-mnist >/dev/null 2>&1 \
	       || { apt-get update -qq && apt-get install -qq -y dataset-fashion-mnist >/dev/null; }; }; } || true

# The browser of the tests of the operator's page; where it cannot be had, they are skipped and say so.
browser:
	@command -v chromedriver >/dev/null || { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
	  && { apt-get install -qq -y chromium chromium-driver >/dev/null 2>&1 \
	       || { apt-get update -qq && apt-get install -qq -y chromium chromium-driver >/dev/null; }; }; } || true

demo: $(STAMP) data
	@PYTHON=$(BIN)/python PRN_GUARD=$(BIN)/prn-guard OUT=$(DEMO) sh training/demo/run.sh

test: $(STAMP) data browser
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
