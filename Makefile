# `make` lists the targets. All of them set up .venv first where they need it; nothing else is
# required but Python 3.11 with venv, git, and a network that reaches the package sources.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
SYSTEM_TESTS := $(addprefix tests/system/test_,sft.py training.py evaluation.py)
SCRIPTS := $(wildcard tools/*.sh launch/*.sh launch/*/*.sh launch/*/*.sbatch) .ci/run

.PHONY: help setup browser slurm demo ask base test test-unit test-families test-gpu-stack test-slurm fuzz bench study lint format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## .venv with the locked packages (minutes at first, nothing when it is up to date)
	@tools/setup.sh

demo: setup ## from nothing to outputs/demo/report.html; goes on where it was interrupted
	$(PYTHON) -m phantom.demo

ask: setup ## a page on 127.0.0.1 to try the demo's models, after make demo
	$(PYTHON) -m recipe.ask SFT=outputs/demo/sft "SFT + GRPO=outputs/demo/grpo" --page

base: setup ## make the base model of phantom/tiny_base anew (half an hour); goes on where it was interrupted
	$(PYTHON) -m phantom.base

test: test-unit ## unit tests, then the tests that start real engines
	$(PYTHON) -m pytest -m "system and not families" -n 2 --dist loadfile

test-families: setup ## data preparation, SFT, GRPO, evaluation and export on the tiny twin of every family
	$(PYTHON) -m pytest tests/system/test_families.py

browser: ## Debian's Chromium, for the tests in a browser: installed as root, where it is missing
	@tools/chromium.sh

test-unit: setup browser ## unit tests only
	$(PYTHON) -m pytest -m "not system and not slurm" -n logical --maxprocesses 8 --dist worksteal

test-gpu-stack: browser ## the tests at the GPU lock's versions, on a CPU (.venv-gpu-stack, up to 9 GB)
	@tools/setup.sh gpu-stack
	.venv-gpu-stack/bin/python -m pytest -m "not system and not slurm" -n logical --maxprocesses 8 --dist worksteal
	.venv-gpu-stack/bin/python -m pytest -n 2 --dist loadfile $(SYSTEM_TESTS)

slurm: ## Debian's SLURM, for the tests of the launcher: installed as root, where it is missing
	@tools/slurm.sh

test-slurm: setup slurm ## the launcher on a real SLURM of several nodes in namespaces; needs root
	PATH=$$PATH:/usr/sbin:/sbin $(PYTHON) -m pytest -m slurm

fuzz: setup ## a million random and mutated responses at the reward; FUZZ="--count 5000 --seed 7" for less
	$(PYTHON) tools/fuzz_reward.py $(FUZZ)

bench: setup ## the measurements of docs/reward.md and of the judge's client
	$(PYTHON) -m benchmarks.reward
	$(PYTHON) -m benchmarks.judge

study: setup ## the arms of docs/results.md that have no result yet, ten hours and more in all; STUDY=quick for four arms, apart from it
	$(PYTHON) -m phantom.study $(if $(filter quick,$(STUDY)),--quick,)

lint: setup ## ruff, mypy, import-linter and shellcheck
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/shellcheck $(SCRIPTS)

format: setup ## put the sources into ruff's format and fix what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: setup ## resolve requirements/cpu.lock again (newest versions: tools/lock.sh --upgrade)
	@tools/lock.sh

clean: ## remove caches and build leftovers (outputs/ and .venv stay)
	rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
