# Targets for people; `make help` lists them. Everything runs from .venv, which `make setup` makes.
SHELL := /bin/bash
PYTHON := .venv/bin/python
READY := .venv/.ready
export KERAS_BACKEND := torch
export HF_HUB_OFFLINE := 1

.PHONY: help setup demo cluster-demo setup-s3 demo-s3 test test-slow test-sequences test-cluster test-browser coverage check bench bench-crawl bench-history bench-nights bench-dedup-peers compare dist clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## make .venv, the weights and Delta's jars (once; needs the network)

$(READY): requirements.lock setup.py jobs/install/prepare_assets.py schemas/assets.py
	@bash bootstrap.sh
	@touch $(READY)

demo: setup ## run three nights on real images into demo-output/ (IMAGES=DIR for your own; MANIFEST=FILE AGENT='name/1.0 (+URL)' for the web's)
	@source .venv/java.sh && $(PYTHON) -m demo.run $(if $(IMAGES),--images "$(IMAGES)") $(if $(MANIFEST),--manifest "$(MANIFEST)") \
		$(if $(AGENT),--user-agent "$(AGENT)")

cluster-demo: setup dist ## run the three nights on a Spark cluster of processes on this machine, with fake GPUs, beside local mode (minutes)
	@source .venv/java.sh && $(PYTHON) -m demo.cluster

setup-s3: setup ## fetch what Spark needs for S3 into .assets/jars-s3 (0.6 GB; once; needs the network)
	@source .venv/java.sh && $(PYTHON) -m jobs.install.prepare_assets --into .assets --s3

demo-s3: setup-s3 ## run the three nights on an S3 of the demo's own on loopback, beside local mode (minutes)
	@source .venv/java.sh && $(PYTHON) -m demo.on_s3

PLAIN := not slow and not cluster and not gpu and not browser

PAIRED := --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 30

test: setup ## run the tests: in two processes those without Spark, then those with it, and a night on a cluster of processes
	@source .venv/java.sh && $(PYTHON) -m pytest -m "not spark and $(PLAIN)" $(PAIRED)
	@source .venv/java.sh && $(PYTHON) -m pytest -m "spark and $(PLAIN)" $(PAIRED)
	@source .venv/java.sh && $(PYTHON) -m pytest -m cluster tests/cluster/test_cluster_demo.py

test-slow: setup ## run the tests that take minutes each
	@source .venv/java.sh && $(PYTHON) -m pytest -m slow

test-sequences: setup ## run many odd sequences of jobs against the oracle (SEQUENCES=20 STEPS=10; SEED=1 for others each time)
	@source .venv/java.sh && SEQUENCES=$(or $(SEQUENCES),20) STEPS=$(or $(STEPS),10) SEED=$(SEED) \
		$(PYTHON) -m pytest tests/properties

coverage: setup ## say which share of the lines the tests without Spark run (minutes; the lines are in htmlcov/)
	@source .venv/java.sh && $(PYTHON) -m coverage run -m pytest -m "not spark and $(PLAIN)"; ended=$$?; \
		$(PYTHON) -m coverage html --quiet; $(PYTHON) -m coverage report --format=total; exit $$ended

check: setup ## format, lint, types, import layers
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup ## measure the stages against bare loops (minutes; writes benchmarks/results/)
	@source .venv/java.sh && bash benchmarks/run.sh

bench-crawl: setup ## measure the crawl against img2dataset (20 minutes; needs nginx and the network)
	@source .venv/java.sh && $(PYTHON) -m benchmarks.crawl --json benchmarks/results/crawl.json
	@source .venv/java.sh && $(PYTHON) -m benchmarks.crawl --recrawl --json benchmarks/results/recrawl.json
	@$(PYTHON) -m benchmarks.crawl_memory --json benchmarks/results/crawl_memory.json

bench-history: setup ## measure what a night costs against the history in its warehouse (40 minutes; 8 GB of disk)
	@source .venv/java.sh && $(PYTHON) -m benchmarks.history --images 0 20000 200000 --json benchmarks/results/history.json

bench-nights: setup ## measure thirty nights in a row with upkeep between them (45 minutes)
	@source .venv/java.sh && $(PYTHON) -m benchmarks.nights --json benchmarks/results/nights.json

bench-dedup-peers: setup ## measure a full dedup beside datasketch's MinHashLSH and Spark MLlib's (40 minutes)
	@source .venv/java.sh && $(PYTHON) -m benchmarks.dedup_peers --json benchmarks/results/dedup_peers.json

compare: setup ## compare embeddings on labelled images (LABELLED=DIR or a table) into compare-output/
	@$(PYTHON) -m jobs.compare_embeddings --labelled "$(LABELLED)" --into compare-output

test-browser: setup ## run the tests that look at the report in Chromium (apt-get install chromium)
	@source .venv/java.sh && $(PYTHON) -m pytest -m browser

test-cluster: setup-s3 dist ## run the tests that start a cluster of several processes
	@source .venv/java.sh && $(PYTHON) -m pytest -m cluster

dist: setup ## build what spark-submit needs into dist/
	@$(PYTHON) -m jobs.install.build_dist --into dist

clean: ## remove what the targets made, .venv and .assets included
	@rm -rf .venv .assets dist build demo-output compare-output htmlcov .coverage *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
