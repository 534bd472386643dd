# make demo: environment, then a whole run in miniature.  make test: what has to hold before a change is merged.
PYTHON ?= python3
BIN := .venv/bin

# uv takes a fifth of pip's time. It does not read pip's own settings of an index: INSTALL=".venv/bin/pip install" does.
INSTALL ?= $(BIN)/uv pip install --python $(BIN)/python

# One test more at a time than there are cores, for some wait. Each process takes about a gigabyte, so at most eight.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PARALLEL := -n $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: demo test test-light test-slow web figures cards docs lint clean

demo: .venv/.installed
	$(BIN)/python run.py experiment=demo

# The tests start dozens of Python processes. Each imports PyTorch in a third of the time once there is bytecode, which
# neither a fresh environment has nor one in which this variable is set.
test: lint
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PARALLEL)

# What needs no PyTorch, where there is none. NumPy is the newest, as users have it: what needs an older one is not here.
LIGHT := .venv-light/bin
test-light:
	$(PYTHON) -m venv --clear .venv-light
	grep -v '^numpy==' constraints.txt > .venv-light/constraints.txt
	$(LIGHT)/python -m pip install --constraint .venv-light/constraints.txt . pytest
	$(LIGHT)/python -m pytest --noconftest -o pythonpath= -o filterwarnings= tests/test_light.py
	du -sm .venv-light

# Pages are opened in a real Chromium: apt install chromium (or any that is called chromium on the PATH).
test-slow: .venv/.installed web/node_modules
	$(BIN)/python -m pytest -m slow -s

# The page that runs slimcodec in a browser, in build/web, for any web server. It asks for nothing but its own files:
# ONNX Runtime Web, which they need, is fetched here.
web: .venv/.installed web/node_modules
	$(BIN)/python web/assemble.py build/web slim-2k slim-2k-fast-encoder slim-2k-exact

web/node_modules: web/package-lock.json
	npm ci --prefix web --ignore-scripts
	touch $@

# The figures of README and docs/evaluation.md, from the stored results.
figures: .venv/.installed
	$(BIN)/python -m slimcodec report results/kodak
	cp results/kodak/figures/headline.png results/kodak/figures/psnr_rgb_db.png docs/figures/

# The README.md of every model in students/ and teachers/, from its model.json.
cards: .venv/.installed
	$(BIN)/python -m slimcodec models --write-cards

# The pages of docs/ as a site. make test builds it too.
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:
	rm -rf .venv .venv-light build dist .pytest_cache .ruff_cache .mypy_cache src/slimcodec/codec/coder-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is younger than what it was installed from, so a second call installs nothing.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install uv
	$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	touch $@
