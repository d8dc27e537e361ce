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

.PHONY: help run test lint format golden bench train-tiny model docker
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

# The default model's recipe from a data folder: each line is one of docs/training.md's commands, and what is there
# already is not made again (a run that was cut goes on by itself). Half a day on two cores.
ASR_DATA ?= ../shared/data
TEXT ?= $(ASR_DATA)/text/books.txt.xz
MODEL ?= runs/model
TRAIN := PATH=$(CURDIR)/$(BIN):$$PATH asr-train
PROCESSES := OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 -m training.cli
TORCHRUN := $(PROCESSES) train
DEV := data/dev/manifest.jsonl
TEST := data/test/manifest.jsonl

model: runs/model.finished  ## the default model's whole recipe from ASR_DATA, into runs/model; hours

data/train/manifest.jsonl: | $(DEVELOPING)
	$(TRAIN) prepare $(ASR_DATA)/speech/train $(ASR_DATA)/speech/train-more --out data/train

$(DEV) $(TEST): data/%/manifest.jsonl: | $(DEVELOPING)
	$(TRAIN) prepare $(ASR_DATA)/speech/$* --out data/$*

data/wordless-corpus/manifest.jsonl: data/train/manifest.jsonl
	$(TRAIN) wordless --manifest $< --minutes 40 --seed 1 --out data/wordless-corpus

data/train-wordless/manifest.jsonl: data/wordless-corpus/manifest.jsonl
	$(TRAIN) prepare $(ASR_DATA)/speech/train $(ASR_DATA)/speech/train-more data/wordless-corpus --out data/train-wordless

runs/bpe/tokenizer.model: data/train/manifest.jsonl
	$(TRAIN) tokenizer --manifest $< --vocab-size 256 --max-piece-length 6 --out runs/bpe

runs/default/model.safetensors: runs/bpe/tokenizer.model data/train/manifest.jsonl $(DEV)
	$(TORCHRUN) configs/default.toml --out runs/default

runs/two-views/model.safetensors: runs/default/model.safetensors
	$(TORCHRUN) configs/default_two_views.toml --out runs/two-views --init $<

runs/third/model.safetensors: runs/two-views/model.safetensors data/train-wordless/manifest.jsonl
	$(TORCHRUN) configs/default_third.toml --out runs/third --init $< --set data.tokenizer=runs/bpe/tokenizer.model

runs/pocketsphinx: | $(DEVELOPING)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ pocketsphinx==5.1.1

runs/lexicon/lexicon.txt: runs/ngram/ngram.json data/train-wordless/manifest.jsonl | runs/pocketsphinx
	$(TRAIN) lexicon --dictionary runs/pocketsphinx/pocketsphinx/model/en-us/cmudict-en-us.dict \
	  --unigrams runs/ngram/unigrams.txt --manifest data/train-wordless/manifest.jsonl $(DEV) --out runs/lexicon

runs/fourth/model.safetensors: runs/third/model.safetensors runs/lexicon/lexicon.txt
	$(TORCHRUN) configs/default_fourth.toml --out runs/fourth --init $< --set data.tokenizer=runs/bpe/tokenizer.model

runs/tower/model.safetensors: runs/fourth/model.safetensors
	$(TORCHRUN) configs/default_tower.toml --out runs/tower --init $< \
	  --set data.tokenizer=runs/bpe/tokenizer.model --set data.lexicon=runs/lexicon

runs/ngram/ngram.json: data/train/manifest.jsonl $(DEV) $(TEST)
	sh training/build_kenlm.sh
	$(TRAIN) ngram --text $(TEXT) --manifest data/train/manifest.jsonl --interpolate --dev $(DEV) --test $(TEST) \
	  --max-words 120000 --prune 0 4 7 11 --out runs/ngram

runs/gpt2-books/gpt2.json: data/train/manifest.jsonl $(DEV)
	$(PROCESSES) gpt2 --text $(TEXT) --manifest data/train/manifest.jsonl --dev $(DEV) --layers 3 --width 256 \
	  --vocab-size 4000 --learning-rate 8e-3 --final-lr-share 0.02 --manifest-repeat 2 --max-steps 4485 --out runs/gpt2-books

runs/gpt2/gpt2.json: runs/gpt2-books/gpt2.json
	$(PROCESSES) gpt2 --text $(ASR_DATA)/text/books.txt.xz --manifest data/train/manifest.jsonl --dev $(DEV) \
	  --init runs/gpt2-books/model --learning-rate 1.5e-3 --final-lr-share 0.02 --warmup-share 0.1 --manifest-repeat 4 \
	  --max-steps 415 --seed 3 --out runs/gpt2

runs/model.finished: runs/tower/model.safetensors runs/ngram/ngram.json runs/gpt2/gpt2.json $(TEST)
	$(TRAIN) export --acoustic runs/tower --half --ngram runs/ngram --gpt2 runs/gpt2 --notes configs/default-data.md --out $(MODEL)
	$(TRAIN) tune $(MODEL) --manifest $(DEV) --prior-weights 0.3 0.4 0.5 0.6 --phone-beam-width 300
	$(TRAIN) calibrate $(MODEL) --manifest $(DEV) --check $(TEST)
	$(TRAIN) evaluate $(MODEL) --manifest $(DEV) --out runs/dev.json
	$(TRAIN) evaluate $(MODEL) --manifest $(TEST) --out runs/test.json
	ASR_DATA=$(ASR_DATA) $(BIN)/python -m bench.insertions --bundle $(MODEL)
	$(TRAIN) export --out $(MODEL) --evaluation runs/dev.json runs/test.json --insertions bench/results/insertions.json
	@touch $@

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
