# The commands of the project. `make` alone lists them.
# Everything runs from the virtual environment that `make env` makes; nothing else is needed but
# Python 3.11 or newer, git and make.

PYTHON ?= python3
PORT ?= 8000
BENCH ?=
RUN := .venv/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help book serve test zip env lint types unit nbval pages browser linkcheck bench bench-processes bench-sparsity clean

help:  ## list the commands
	@grep -E '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## /\1\t/' | expand -t 22

book: env  ## build the book, every cell executed, warnings as errors
	@$(RUN) tools.build_book

serve: book  ## build it and serve it on this machine only
	@echo "http://127.0.0.1:$(PORT)/ (Ctrl-C ends)"
	@$(RUN) http.server --bind 127.0.0.1 --directory _build/html $(PORT)

test: env  ## run every gate, build included, and sum up
	@$(RUN) tools.gates

zip: book  ## pack the built site for reading offline
	@$(RUN) tools.offline_zip

env:  ## make or update .venv with the pinned environment
	@$(PYTHON) tools/environment.py

lint types unit: env  ## one gate: style, types, library tests
	@$(RUN) tools.gates $@

nbval pages browser: env  ## one gate on the built book: cells again, pages, Chromium
	@$(RUN) tools.gates book $@

linkcheck: book  ## ask every external link (needs the internet)
	@$(RUN) tools.external_links

bench:  ## what per-example gradients cost, beside a plain step and other libraries
	@$(PYTHON) -m benchmarks.environment
	@OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0 .venv-bench/bin/python -m benchmarks.run $(BENCH)

bench-processes: env  ## what coherence costs on several processes of this machine
	@OMP_NUM_THREADS=1 $(RUN) benchmarks.processes $(BENCH)

bench-sparsity: env  ## what the sparsity-aware bound costs with its search
	@OMP_NUM_THREADS=1 $(RUN) benchmarks.sparsity $(BENCH)

clean:  ## remove what was built, but not .venv
	rm -rf _build build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
