# make demo    environment, installation, the whole study on the embedded data set, report in demo/
# make test    environment and the whole test suite
# make test-other   the tests of what computes in one process, on other kernels and another number of threads: no result may depend on them
# make lint    ruff and mypy
# make docs    the documentation as a site, in docs/_build/html; a warning is an error
# make slow    the slow checks, on real data where it is there

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Folder with wheels of torch-sparse and torch-scatter, optional accelerators that the package index has no wheels of.
WHEELS ?=
OUT ?= demo
COMPUTES := $(addprefix tests/,balance data evaluation nn parity scoring serving study training test_planted_truth.py)

.PHONY: demo test test-other lint docs slow env clean

$(VENV)/.installed: setup.cfg constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,lint,docs,onnx,retrieval,safetensors,serve,tune]'
	@if [ -n "$(WHEELS)" ]; then \
	  $(BIN)/python -m pip install --quiet --no-index --no-deps --find-links $(WHEELS) torch-sparse torch-scatter \
	  || echo "torch-sparse does not fit this Python or torch: going on without it"; fi
	@touch $@

env: $(VENV)/.installed

demo: env
	$(BIN)/pyg-ckd compare --config examples/configs/synthetic_demo.yaml --out $(OUT)

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov=pyg_ckd --cov-report=term --cov-fail-under=90 -m "not slow"

# PyTorch, oneDNN, MKL and OpenBLAS each choose their kernels by the processor. One case of each test, and all of parity.
OTHER := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem \
  OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
test-other: env
	$(OTHER) $(BIN)/python -m pytest -n 2 -m "not slow and not several and not no_cover" $(COMPUTES)
	$(OTHER) $(BIN)/python -m pytest tests/parity

docs: env
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	@echo "open docs/_build/html/index.html"

slow: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info docs/_build docs/reference/generated
