# Each target makes .venv first, once (bootstrap.sh).
RUN := ./bootstrap.sh

demo: ## Launch a real RL run through the MCP server and watch it learn (2 to 4 minutes on 2 cores)
	$(RUN) python -m oxrl_core.demo

test: ## All tests, on the real Ray, DeepSpeed and vLLM (about 30 minutes on 2 cores)
	$(RUN) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-browser: ## The report in a real browser; needs chromium (about 30 s)
	@command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable || \
	  { echo "oxrl: no chromium found"; echo "      next: apt-get install -y --no-install-recommends chromium"; exit 2; }
	$(RUN) python -m pytest tests/browser

CLIENTS := tests/clients/.node

test-clients: client-programs ## Conformance suite, inspector, Claude Code, gemini-cli, bundles on the server; needs Node (3 min)
	$(RUN) python -m pytest tests/clients

client-programs:
	@command -v npm >/dev/null || { echo "oxrl: no npm found, and these checks are Node programs"; \
	  echo "      next: install Node 20 or newer (https://nodejs.org, or apt-get install npm)"; exit 2; }
	@mkdir -p $(CLIENTS)
	@cmp -s tests/clients/package.json $(CLIENTS)/installed.json || { cp tests/clients/package.json $(CLIENTS)/ && \
	  (cd $(CLIENTS) && npm install --no-audit --no-fund --no-progress --loglevel=error --fetch-retries=1 && cp package.json installed.json) || \
	  { echo "oxrl: npm could not install the programs into $(CLIENTS)"; exit 2; }; }

check: ## Lint, types, layers, generated docs
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pyright
	$(RUN) lint-imports --no-logo
	$(RUN) python scripts/config_docs.py --check
	$(RUN) python scripts/mcp_docs.py --check
	$(RUN) python scripts/mcp_packaging.py --check
	$(RUN) python scripts/parity_docs.py --check
	$(RUN) python scripts/registry_docs.py --check

docs: ## Generate the docs that `make check` compares
	$(RUN) python scripts/config_docs.py
	$(RUN) python scripts/mcp_docs.py
	$(RUN) python scripts/mcp_packaging.py
	$(RUN) python scripts/parity_docs.py
	$(RUN) python scripts/registry_docs.py

parity: ## Measure every loss against TRL and the papers' formulas, write docs/algorithms.md (about 2 minutes)
	$(RUN) python scripts/parity_docs.py --measure

format: ## Format and fix what can be fixed without thinking
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

doctor: ## What this machine has and lacks
	$(RUN) oxrl doctor

clean: ## Remove the environment and caches; runs are kept
	rm -rf .venv $(CLIENTS) .bootstrap.lock .pytest_cache .ruff_cache .hypothesis build dist

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo test test-browser test-clients client-programs check docs parity format doctor clean help
