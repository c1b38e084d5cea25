# setup  the package and what the demo needs, in .venv      test   the test suite
# demo   examples/fox.toml becomes demo.mp4                   check  format, lint, types, import layers, architecture
#
# PYTHON=/path/to/python chooses the interpreter; otherwise the first of the names below that is 3.11, 3.12 or 3.13.

PYTHON ?=
BIN := .venv/bin
PINS := Makefile pyproject.toml constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.PHONY: setup demo test check
.DELETE_ON_ERROR:

setup: .venv/.setup

# A run that was interrupted goes on where it stopped; a finished one is made again.
demo: .venv/.setup
	@if grep -qs '"finished": null' demo.run/manifest.json; then again=--resume; else again=--overwrite; fi; \
	$(BIN)/blockvid generate examples/fox.toml -o demo.mp4 $$again && echo "the video is $(CURDIR)/demo.mp4"

test: .venv/.test
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

check: .venv/.check
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/architecture

# Each stamp also stands for the smaller installations that it contains; pyright wants to see every extra.
.venv/.setup: $(PINS) | $(BIN)/python
	$(INSTALL) '.[storybook,eval,data,plots]'
	@touch $@

.venv/.test: $(PINS) | $(BIN)/python
	$(INSTALL) '.[storybook,eval,data,plots,test]'
	@touch .venv/.setup $@

.venv/.check: $(PINS) | $(BIN)/python
	$(INSTALL) '.[storybook,eval,segment,data,lora,wan,plots,test,dev]'
	@touch .venv/.setup .venv/.test $@

$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if "$$python" -c '$(SUPPORTED)' 2>/dev/null; then \
	    echo "creating .venv with $$("$$python" --version)"; \
	    "$$python" -m venv .venv || { rm -rf .venv; exit 1; }; exit 0; \
	  fi; \
	done; \
	found=$$($(or $(PYTHON),python3) --version 2>&1 || true); \
	echo "blockvid needs Python 3.11, 3.12 or 3.13, and $(or $(PYTHON),python3) is: $$found;" \
	  "install one of them, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1
