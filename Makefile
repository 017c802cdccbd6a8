# Each target needs nothing prepared but Python 3.10+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHARED := ../shared

.PHONY: help demo test check score bench docs clean
help:
	@echo "make demo   install, then train a small model for real: broken, diagnosed, repaired, merged, judged (FAULT=hang: another fault)"
	@echo "make test   install, then run all tests"
	@echo "make check  types, lint, import contracts, rule lint, generated files current"
	@echo "make score  precision and recall per failure mode on the labelled corpus, where it is present"
	@echo "make bench  speed and memory against ripgrep on a generated log"
	@echo "make docs   write the generated files: rule index, schema, rule pages"

$(VENV)/.installed: pyproject.toml tools/install.sh
	@echo "==> installing into $(VENV): ftdoctor, its test tools, and Axolotl with DeepSpeed beside it (some minutes, once)"
	@sh tools/install.sh $(VENV) $(PYTHON)
	@touch $@

demo: $(VENV)/.installed
	@echo "==> ftdoctor demo: a real training run, broken, diagnosed, repaired, merged, asked"
	@rm -rf .demo
	@$(BIN)/ftdoctor demo --folder .demo $(if $(FAULT),--fault $(FAULT))

test: $(VENV)/.installed
	@echo "==> running the tests"
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	@echo "==> ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "==> mypy --strict"
	$(BIN)/mypy
	@echo "==> import contracts"
	$(BIN)/lint-imports
	@echo "==> spelling"
	$(BIN)/codespell
	@echo "==> rules: lint and cases"
	$(BIN)/ftdoctor rules lint
	$(BIN)/ftdoctor rules test
	@echo "==> generated files are current"
	$(BIN)/python -m tools.generate --check

score: $(VENV)/.installed
	$(BIN)/python -m tools.score --ftdoctor $(BIN)/ftdoctor --shared $(SHARED)

bench: $(VENV)/.installed
	$(BIN)/python -m tools.bench --ftdoctor $(BIN)/ftdoctor
	$(BIN)/python -m tools.bench_live --ftdoctor $(BIN)/ftdoctor
	$(BIN)/python -m tools.bench_merge --ftdoctor $(BIN)/ftdoctor --layers 8

docs: $(VENV)/.installed
	$(BIN)/python -m tools.generate

clean:
	rm -rf $(VENV) .bench .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
