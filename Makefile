# Everything a contributor types. `make` alone prints the targets.
# The first Python that the project runs on; `make PYTHON=/path/to/python run` names another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ASR_HOST ?= 127.0.0.1
ASR_PORT ?= 8000

# The stamps say what the environment holds, so that a second `make run` starts at once.
SERVING := $(VENV)/.serving
DEVELOPING := $(VENV)/.developing

.PHONY: help run test lint format golden bench train-tiny docker
.DEFAULT_GOAL := help

help:  ## print the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

run: export ASR_HOST := $(ASR_HOST)
run: export ASR_PORT := $(ASR_PORT)
run: $(SERVING)  ## install what serving needs and serve models/default on ASR_HOST:ASR_PORT
	@echo "Serving on http://$(ASR_HOST):$(ASR_PORT) (Ctrl-C stops it); try:"
	@echo "  curl -F file=@recording.ogg http://$(ASR_HOST):$(ASR_PORT)/transcribe"
	@exec $(BIN)/asr-sound serve

test: $(DEVELOPING)  ## run the test suite
	$(BIN)/python -m pytest

lint: $(DEVELOPING)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEVELOPING)  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(DEVELOPING)  ## rewrite the golden files of the tests; look at the difference before committing
	$(BIN)/python -m tests.make_golden

bench: $(DEVELOPING)  ## measure speed and memory of the served bundle
	$(BIN)/python -m bench

train-tiny: $(DEVELOPING)  ## the whole training chain on a few minutes of speech from ASR_DATA
	$(BIN)/python -m training.train_tiny

docker:  ## build the image asr-sound:cpu
	docker compose build

# torch from PyPI brings CUDA's libraries on Linux, some gigabytes. Without a GPU, make it small:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make run
define install
@command -v c++ >/dev/null && $(BIN)/python -c "import sysconfig as s; open(s.get_path('include') + '/Python.h')" 2>/dev/null \
  || { echo "kenlm is built from source and needs a C++ compiler and Python's headers (Debian: apt install g++ python3-dev)"; exit 1; }
@echo "Installing $(1) into $(VENV): minutes the first time, most of it torch"
@$(BIN)/pip install --quiet --disable-pip-version-check --editable '$(2)' \
  || { echo "Installing failed; the lines above say why"; exit 1; }
endef

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and none was found; name one: make PYTHON=… $(MAKECMDGOALS)"; exit 1; }
	@echo "Making a virtual environment in $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(SERVING): pyproject.toml | $(VENV)/bin/python
	$(call install,what serving needs,.)
	@touch $@

$(DEVELOPING): pyproject.toml | $(VENV)/bin/python
	$(call install,what development needs,.[dev])
	@touch $@ $(SERVING)
