# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV

# Python 3.11 to 3.13 and make are all that has to be there beforehand.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOG    := $(VENV)/pip-install.log

# The CPU build of torch, by its exact version: if a package index offers only the CUDA build, the
# installation stops and says so instead of fetching gigabytes. Elsewhere than on x86-64 Linux the ordinary
# build is a CPU build. For a GPU: make demo TORCH=torch==2.13.0
PLATFORM := $(shell uname -sm)
ifeq ($(PLATFORM),Linux x86_64)
TORCH ?= torch==2.13.0+cpu
else
TORCH ?= torch==2.13.0
endif

PIP    := $(BIN)/python -m pip --disable-pip-version-check install --log $(LOG)
READY  := $(VENV)/.ready
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format docs experiments train-mlm train-repairer clean

help:
	@echo "make demo      install, fetch the model, and watch a living context at work"
	@echo "make test      linters and tests"
	@echo "make test-all  also what takes long"
	@echo "make docs      write the command pages again"
	@echo "make train-repairer DATA=dir HELD=files  train a denoiser that repairs, and measure it"
	@echo "make train-mlm DATA=dir  train a masked language model on your texts, for repairs"
	@echo "make experiments DATA=dir  train and compare the denoisers on a corpus that halo corpus wrote; hours"
	@echo "make clean     remove the virtual environment"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
	  f"Python 3.11, 3.12 or 3.13 is needed, this is {sys.version.split()[0]}; try: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (torch first: about 200 MB) ..."
	@$(PIP) -q "$(TORCH)" || { echo; \
	  echo "No CPU build of torch ($(TORCH)) in your package index. Either point pip at PyTorch's CPU index"; \
	  echo "(PIP_EXTRA_INDEX_URL, see pytorch.org/get-started), or take your index's build, which may be"; \
	  echo "several GB:  make TORCH=torch==2.13.0 ..."; exit 1; }
	@$(PIP) -q -c constraints.txt -e ".[dev]"
	@touch $@

install: $(READY)

demo: $(READY)
	@HALO_PIP_LOG=$(LOG) $(BIN)/halo demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(PYTEST) -n 2 -m "not slow"

test-all: lint
	$(PYTEST) -n 2

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m haloweave.cli.document

# More options of the command: make train-mlm DATA=texts ARGS="--tokens 2000000 --out mine"
train-mlm: $(READY)
	@test -n "$(DATA)" || { echo "which texts? make train-mlm DATA=dir"; exit 2; }
	@$(BIN)/halo train-mlm $(foreach d,$(DATA),--data $(d)) $(ARGS)

# Texts to train on, and files of texts that are only measured on (two or more):
# make train-repairer DATA=texts HELD="texts/one.txt texts/two.txt" OUT=repairer
train-repairer: $(READY)
	@test -n "$(DATA)" -a -n "$(HELD)" || { echo "which texts? make train-repairer DATA=dir HELD=\"a.txt b.txt\""; exit 2; }
	@$(BIN)/halo train --config recipes/repairer.toml $(foreach d,$(DATA),--data-dir $(d)) \
	  $(foreach f,$(HELD),--held-out $(f)) --output-dir $(or $(OUT),repairer) $(ARGS)
	@$(BIN)/halo bench edits $(or $(OUT),repairer) $(foreach f,$(HELD),--data $(f)) --keep

# What was found so far is in docs/experiments. Other output: make experiments DATA=corpus OUT=dir
experiments: $(READY)
	@test -n "$(DATA)" || { echo "which corpus? halo corpus texts/ --out corpus; make experiments DATA=corpus"; exit 2; }
	@HALO=$(BIN)/halo experiments/run.sh "$(DATA)" $(OUT)

clean:
	rm -rf $(VENV)
