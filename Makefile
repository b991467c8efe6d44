# Each target makes .venv first, once (bootstrap.sh).
RUN := ./bootstrap.sh

demo: ## Launch a real RL run through the MCP server and watch it learn (2 to 4 minutes on 2 cores)
	$(RUN) python -m oxrl_core.demo

test: ## All tests, on the real Ray, DeepSpeed and vLLM (about 17 minutes on 2 cores)
	$(RUN) python -m pytest

check: ## Lint, types, layers, generated docs
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pyright
	$(RUN) lint-imports --no-logo
	$(RUN) python scripts/config_docs.py --check
	$(RUN) python scripts/mcp_docs.py --check
	$(RUN) python scripts/parity_docs.py --check

docs: ## Generate the docs that `make check` compares
	$(RUN) python scripts/config_docs.py
	$(RUN) python scripts/mcp_docs.py
	$(RUN) python scripts/parity_docs.py

parity: ## Measure every loss against TRL and the papers' formulas, write docs/algorithms.md (about 2 minutes)
	$(RUN) python scripts/parity_docs.py --measure

format: ## Format and fix what can be fixed without thinking
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

doctor: ## What this machine has and lacks
	$(RUN) oxrl doctor

clean: ## Remove the environment and caches; runs are kept
	rm -rf .venv .bootstrap.lock .pytest_cache .ruff_cache .hypothesis build dist

help:
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.PHONY: demo test check docs parity format doctor clean help
