# Each target sets up what it needs: its own virtual environment, from hash-pinned wheels, in .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
DEMO   := $(if $(DATA),--data "$(DATA)") $(if $(MARKET),--market "$(MARKET)") $(if $(DAY),--day "$(DAY)") \
          $(if $(SYMBOLS),--symbols "$(SYMBOLS)") $(if $(SEED),--seed "$(SEED)") $(if $(SPEED),--speed "$(SPEED)")

.PHONY: help demo up ui test test-slow faults soak bench bench-stream bench-qa bench-qa-day bench-repair bench-download bench-backfill bench-ui-year \
        lint lock clean

help:             ## This list
	@sed -n 's/^\([a-z-]*\): .*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/ready   ## One day through the whole platform, offline (DATA=FILE MARKET=futures DAY=2025-06-01)
	@$(BIN)/ohlcv demo $(DEMO)

up: $(VENV)/ready     ## The platform against Binance, until Ctrl-C
	@$(BIN)/ohlcv up

ui: $(VENV)/ready     ## The UI over what the demo left
	@$(BIN)/ohlcv ui

# The suite runs in three processes, and exchanges run in it at sixty times their speed and more: what a busy machine made too late
# is tried once more by itself, in sight. A real failure fails twice. The fault matrix breaks its own processes: it runs alone.
test: lint            ## Formatting, lint, types, layers, then every test
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --ignore ohlcv_assets_tests/faults/test_matrix.py || \
	  { echo "once more, one after the other:"; $(BIN)/python -m pytest -q --last-failed --last-failed-no-failures none \
	    --ignore ohlcv_assets_tests/faults/test_matrix.py; }
	@$(BIN)/python -m pytest -q ohlcv_assets_tests/faults/test_matrix.py || \
	  { echo "once more:"; $(BIN)/python -m pytest -q ohlcv_assets_tests/faults/test_matrix.py; }

test-slow: $(VENV)/ready ## The tests that take minutes: backfills through Dagster's daemon, killed, failed and retried
	@$(BIN)/python -m pytest -q -m slow || \
	  { echo "once more:"; $(BIN)/python -m pytest -q -m slow --last-failed --last-failed-no-failures none; }

faults: $(VENV)/ready ## The fault matrix over real servers, as one Markdown table
	@$(BIN)/python -m ohlcv_assets_tests.faults

soak: $(VENV)/ready   ## Six replayed hours through the platform while things break, some eight minutes
	@$(BIN)/python -m benchmarks.soak

bench: $(VENV)/ready  ## Downloads, reads, sizes, PostgreSQL, starts: one Markdown document (PARTS=reads,postgres OUT=FILE)
	@$(BIN)/python -m benchmarks.bench $(if $(PARTS),--parts "$(PARTS)") $(if $(OUT),--out "$(OUT)")

bench-stream: $(VENV)/ready ## 400 symbols a market live for ten minutes (MINUTES=10): latency, CPU, memory
	@$(BIN)/python -m benchmarks.stream_400 $(if $(MINUTES),--minutes "$(MINUTES)")

bench-qa-day: $(VENV)/ready ## The daily QA of 400 symbols end to end, over real stores
	@$(BIN)/python -m benchmarks.qa_day

bench-qa: $(VENV)/ready ## A day of 500 symbols compared, step by step, and row by row as it was done before
	@$(BIN)/python -m benchmarks.qa

bench-repair: $(VENV)/ready ## From a red check to a green one, unattended, at 1x: seconds of each stage
	@$(BIN)/python -m benchmarks.repair

bench-download: $(VENV)/ready ## Download throughput beside ccxt's own loop, the exchange's limits on and off, some three minutes (MINUTES=1)
	@$(BIN)/python -m benchmarks.download $(if $(MINUTES),--minutes "$(MINUTES)")

bench-backfill: $(VENV)/ready ## A range of days through Dagster: by day, week, month, at once; a kill; two at once (DAYS=31), some forty minutes
	@$(BIN)/python -m benchmarks.backfill $(if $(DAYS),--days "$(DAYS)")

bench-ui-year: $(VENV)/ready ## A year of days of both markets in the UI, looked at with a browser
	@$(BIN)/python -m benchmarks.backfill_year

lint: $(VENV)/ready   ## Formatting, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

lock:             ## Pin every dependency with hashes (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header --all-extras pyproject.toml -o requirements.lock

clean:            ## Remove the environment and everything that was kept locally
	@[ ! -x $(BIN)/ohlcv ] || $(BIN)/ohlcv db stop || true
	rm -rf $(VENV) .ohlcv

# The lock is complete, so nothing is resolved: --no-deps. An interrupted set-up leaves no `ready` and is done again.
$(VENV)/ready: requirements.lock pyproject.toml
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install -qq --no-deps --require-hashes -r requirements.lock
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
	@touch $@
