# Everything is done in .venv, made from scratch with the versions of constraints.txt. PYTHON=python3.12 make ... for another.
PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc -type f)
CSRC := $(shell find csrc -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh') tests/support/cuda_on_cpu.cpp
SHARDS := demo/out/shards/{00000..00001}.tar

MINUTES := 10

.PHONY: demo test lint unit docs manual fuzz chaos asan bench format clean

demo: .venv/installed  ## caption demo shards with the demo engine, check and score the captions, and make a page to look at
	$(BIN)/recap-fast build-engine recap_tiny --checkpoint demo/recap-tiny --output demo/out/engine --overwrite
	$(BIN)/python demo/make_shards.py --output demo/out/shards --shards 2 --samples 200
	rm -rf demo/out/captions
	$(BIN)/recap-fast run --engine demo/out/engine --shards '$(SHARDS)' --output demo/out/captions
	$(BIN)/python demo/show.py demo/out/captions demo/out/shards/truth.json
	$(BIN)/recap-fast verify demo/out/captions --shards '$(SHARDS)'
	$(BIN)/recap-fast score demo/out/captions --model demo/recap-tiny-clip
	$(BIN)/recap-fast report demo/out/captions

test: lint unit manual  ## what CI runs

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CSRC)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/lizard -L 60 -C 15 -a 10 -w recap_fast csrc benchmarks

unit: .venv/developing  ## a file of tests at a time on each core, of eight at most
	$(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist loadfile

docs: manual  ## builds the manual into docs/_build, and runs the commands that it shows
	$(BIN)/pytest tests/docs

manual: .venv/documenting
	$(BIN)/sphinx-build -q -W --keep-going -E docs docs/_build

fuzz: .venv/developing  ## the property tests and 100,000 damaged images with ever new seeds, until MINUTES=10 are over or one fails, then how to replay it
	@end=$$(($$(date +%s) + 60 * $(MINUTES))); while [ $$(date +%s) -lt $$end ]; do \
	  seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' '); echo "seed $$seed"; \
	  $(BIN)/pytest -x -m 'hypothesis or fuzz' --hypothesis-profile=fuzz --hypothesis-seed=$$seed || exit 1; \
	done

chaos: .venv/developing  ## over 200 real runs whose processes are killed and whose network errs, with an ever new seed, then how to replay it
	@seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' '); echo "seed $$seed"; \
	  $(BIN)/pytest -x -m chaos --hypothesis-profile=fuzz --hypothesis-seed=$$seed

asan: .venv/developing  ## the tests of the native modules under AddressSanitizer and UBSan
	PATH=$(CURDIR)/$(BIN):$$PATH cmake --workflow --preset asan

bench: .venv/developing  ## beside transformers, on this machine
	$(BIN)/python benchmarks/contest --peers transformers

format: .venv/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC)

.venv/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) --group build
	$(PIP) --no-build-isolation --editable '.[dali,heif,jxl,report,score]'
	touch $@

.venv/developing: .venv/installed
	$(PIP) --group test --group lint
	touch $@

.venv/documenting: .venv/developing
	$(PIP) --group docs
	touch $@

clean:
	rm -rf .venv build demo/out docs/_build
