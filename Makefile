PY = python3
LOCKED = uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header
lock:
	$(LOCKED) --all-extras pyproject.toml -o requirements.lock
