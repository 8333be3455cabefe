# Each target creates .venv by itself when it is missing or older than its inputs.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1

.PHONY: setup demo test test-slow lint bench

setup: .venv/ready

.venv/ready: pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first and by its exact version: a plain requirement would take the CUDA build, several gigabytes
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[quickstart,deploy,report,dev]'
	touch $@

demo: setup
	$(BIN)/kdsearch search studies/quickstart.yaml
	$(BIN)/kdsearch verify studies/quickstart
	$(BIN)/kdsearch report studies/quickstart

test: setup
	$(BIN)/python -m pytest -m 'not slow' tests

test-slow: setup
	$(BIN)/python -m pytest -m slow tests

lint: setup
	$(BIN)/ruff check kdsearch plugins tests benchmarks
	$(BIN)/ruff format --check kdsearch plugins tests benchmarks
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/run.py
