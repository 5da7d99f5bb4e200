# The experiment from data to tables, one target per stage; `make help` lists them.
# A step runs again only if its settings, its inputs or its code's version changed.

PROFILE   ?= mini
DATA      ?=
LIMIT     ?=
K_WEIGHTS ?=
RECIPE    ?=
IMAGE     ?=
WORKERS   ?=
RAY       ?=
PLUGINS   ?=
EXTRA     ?=
# These replace the profile's; names are separated by commas.
CLASS_SETS    ?=
ARCHITECTURES ?=
ATTACKS       ?=
ATTACK_PRESET ?=
DEFENCES      ?=
EXTRACTOR     ?=
K_PRESET      ?=
ENGINE        ?=
AT_EPOCHS     ?=

# Results whose rows are enough for tables, figures and report: nothing is run first (ROWS=results/reference).
ROWS ?=

# Each candidate is run, because a version manager's shim may exist for a Python that is not installed.
PYTHON ?= $(shell for p in python3.11 python3 python3.13 python3.12 python3.10 python; do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 \
	&& { command -v "$$p"; break; }; done)

GOLDEN_PYTHON ?= python3.7
ORIGINAL = $(if $(ORIGINAL_PYTHON),--original-python '$(ORIGINAL_PYTHON)')

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/requirements.installed
CACHE := $(CURDIR)/.cache

# The attack libraries that bench-attacks compares with have their own environment, on top of .venv.
PEERS    := .cache/bench/requirements.installed
PEERS_PY := .cache/bench/bin/python

# So has Jupyter Lab; there the project itself is found too, from any folder.
JUPYTER := .cache/notebooks-env/requirements.installed
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
on_top_of_venv = { $(PY) $(PURELIB); pwd; } > "$$($(1) $(PURELIB))/project.pth"

# Nothing is written outside the checkout: the libraries' caches and configuration go to .cache.
export TMPDIR            := $(CACHE)/tmp
export XDG_CACHE_HOME    := $(CACHE)
export PIP_CACHE_DIR     := $(CACHE)/pip
export KERAS_HOME        := $(CACHE)/keras
export MPLCONFIGDIR      := $(CACHE)/matplotlib
export TORCH_HOME        := $(CACHE)/torch
export IPYTHONDIR        := $(CACHE)/ipython
export JUPYTER_CONFIG_DIR  := $(CACHE)/jupyter
export JUPYTER_DATA_DIR    := $(CACHE)/jupyter
export JUPYTER_RUNTIME_DIR := $(CACHE)/jupyter
export PYTHONPATH        := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export PYTHONHASHSEED    := 0
export MPLBACKEND        := Agg
export TF_CPP_MIN_LOG_LEVEL := 2
export KMP_WARNINGS      := off
export PIP_DISABLE_PIP_VERSION_CHECK := 1

UNMASK = $(PY) -m unmask_tf
RUN    = --profile '$(PROFILE)' $(if $(DATA),--data '$(DATA)') $(if $(LIMIT),--limit '$(LIMIT)') \
	$(if $(K_WEIGHTS),--k-weights '$(K_WEIGHTS)') $(if $(WORKERS),--workers '$(WORKERS)') $(if $(RAY),--ray '$(RAY)') \
	$(if $(PLUGINS),--plugins '$(PLUGINS)') $(if $(CLASS_SETS),--class-sets '$(CLASS_SETS)') \
	$(if $(ARCHITECTURES),--architectures '$(ARCHITECTURES)') $(if $(ATTACKS),--attacks '$(ATTACKS)') $(if $(ATTACK_PRESET),--attack-preset '$(ATTACK_PRESET)') \
	$(if $(DEFENCES),--defences '$(DEFENCES)') $(if $(EXTRACTOR),--extractor '$(EXTRACTOR)') \
	$(if $(K_PRESET),--k-preset '$(K_PRESET)') $(if $(ENGINE),--engine '$(ENGINE)') \
	$(if $(AT_EPOCHS),--at-epochs '$(AT_EPOCHS)') $(EXTRA)

BUILT   = $(if $(DATA),--data '$(DATA)')
SOURCES = $(if $(CLASS_SETS),--class-sets '$(CLASS_SETS)') $(if $(VOC),--voc '$(VOC)') \
	$(if $(IMAGENET),--imagenet '$(IMAGENET)') $(if $(FLICKR),--flickr '$(FLICKR)')
FROM_ROWS = $(if $(ROWS),--profile '$(PROFILE)' --results '$(ROWS)' $(EXTRA),$(RUN))

# Tests that this machine cannot run are left out; EXTRA="-m slow" replaces the selection.
HAVE_GPU = $(shell nvidia-smi -L 2>/dev/null | head -n 1)
MARKS    = not slow$(if $(UNMASK_PHOTOS),, and not photos)$(if $(HAVE_GPU),, and not gpu)

STAGES := data train-k evaluate-k train-m adversarial-training attack evaluate tables figures report compare claims zoo reproduce study adaptive release-k release-m quantize-k contact-sheet versions fetch flickr near-duplicates leaks
.PHONY: help setup $(STAGES) inspect demo docs bench bench-attacks notebooks notebooks-env golden test test-kernels lint clean bench-k bench-k-training pascal-part class-images check-data croissant bench-full
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## list the targets
	@echo 'make TARGET [PROFILE=mini|mini-full|photos|paper] [DATA=folder] [LIMIT=images] [K_WEIGHTS=file] [WORKERS=n]'
	@echo '            [RAY=auto|address] [PLUGINS=module] [CLASS_SETS=a,b] [ARCHITECTURES=a,b] [ATTACKS=a,b] [ATTACK_PRESET=name]'
	@echo '            [DEFENCES=a,b] [EXTRACTOR=name] [K_PRESET=name] [ENGINE=name] [AT_EPOCHS=n] [IMAGE="files"] [EXTRA=options]'
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r name text; do printf '  %-20s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## make .venv and install requirements.txt into it
	@mkdir -p $(TMPDIR)

$(STAMP): requirements.txt
	@mkdir -p $(TMPDIR)
	@if cmp -s requirements.txt $@; then touch $@; exit 0; fi; \
	if [ -z '$(PYTHON)' ]; then \
		echo 'no CPython 3.10 or newer with its venv module was found. Install one, or name it: make PYTHON=/path/to/python3.11' >&2; \
		exit 2; \
	fi; \
	set -e; \
	$(PY) -c '' 2>/dev/null || '$(PYTHON)' -m venv --clear $(VENV); \
	$(PY) -m pip install --no-input -r requirements.txt; \
	cp requirements.txt $@

reproduce: setup ## everything: data, models, attacks, defence, tables, figures, summary
	$(UNMASK) reproduce $(RUN)

data: setup ## draw the embedded dataset, or check the folder DATA
	$(UNMASK) data $(RUN)

pascal-part: setup ## build K's annotations and images from PASCAL-Part (VOC=VOC2010 folder; EXTRA="--skip --polygons 2")
	$(UNMASK) pascal-part $(BUILT) $(if $(VOC),--voc '$(VOC)') $(EXTRA)

class-images: setup ## gather M's and D's images (VOC=folder IMAGENET=folder FLICKR=folder; EXTRA="--folder mine")
	$(UNMASK) class-images $(BUILT) $(SOURCES) $(EXTRA)

check-data: setup ## check every image and label of the profile's folder or of DATA, and count them (Table II)
	$(UNMASK) check-data --profile '$(PROFILE)' $(BUILT) $(if $(CLASS_SETS),--class-sets '$(CLASS_SETS)') $(EXTRA)

croissant: setup ## describe the folder in the Croissant format
	$(UNMASK) croissant --profile '$(PROFILE)' $(BUILT) $(EXTRA)

train-k: setup ## train model K (parts) on the data; K_WEIGHTS=file copies it there
	$(UNMASK) train-k $(RUN)

evaluate-k: setup ## model K's average precision on its test images
	$(UNMASK) evaluate-k $(RUN)

train-m: setup ## train model M (classes): benign, then adversarially
	$(UNMASK) train-m $(RUN)

adversarial-training: setup ## line search over adversarial training's epsilon: Figures 2 and 3 (RECIPE=released|madry)
	$(UNMASK) adversarial-training $(RUN) $(if $(RECIPE),--recipe '$(RECIPE)')

attack: setup ## attack every M
	$(UNMASK) attack $(RUN)

evaluate: setup ## extract parts with K and let every defence answer
	$(UNMASK) evaluate $(RUN)

tables: $(if $(ROWS),setup,evaluate) ## Tables I to IV and all others, from the rows: Markdown, CSV, LaTeX (ROWS=results/reference)
	$(UNMASK) tables $(FROM_ROWS)

figures: $(if $(ROWS),setup,evaluate) ## Figures 1 to 5, from the rows: PNG and PDF
	$(UNMASK) figures $(FROM_ROWS)

report: $(if $(ROWS),setup,evaluate) ## both, report.html and the summary, with the paper's numbers
	$(UNMASK) report $(FROM_ROWS)

compare: setup ## compare the results with the paper's; with K_WEIGHTS=file, that K with ours on the same images
	$(UNMASK) compare $(RUN)

claims: setup ## test every claim on the committed rows, or on ROWS=results; writes CLAIMS.md, fails on a miss
	$(UNMASK) claims $(if $(ROWS),--results '$(ROWS)') $(EXTRA)

zoo: setup ## renew the table of shipped weights in mask_rcnn_weights/README.md
	$(UNMASK) zoo

study: setup ## M's accuracy under the four presets of the attacks: where the paper's numbers come from
	$(UNMASK) study $(RUN)

adaptive: setup ## the defence against an attacker who knows K too (EXTRA=--effort, --binarisation, "--families joint,parts")
	$(UNMASK) adaptive $(RUN)

inspect: setup ## look at photographs (IMAGE="a.jpg b.png"): parts, verdict, one picture each in results/inspect
	$(UNMASK) inspect $(IMAGE) $(if $(K_WEIGHTS),--k-weights '$(K_WEIGHTS)') $(EXTRA)

demo: setup ## the same with photographs that the installed packages bundle, benign and attacked
	$(UNMASK) demo $(if $(K_WEIGHTS),--k-weights '$(K_WEIGHTS)') $(EXTRA)

release-k: setup ## write K with its parts' scores, chosen on validation images, to mask_rcnn_weights/ (EXTRA="--out folder")
	$(UNMASK) release-k $(RUN)

quantize-k: setup ## write K in 8-bit integers beside its weights, for the engine openvino_int8
	$(UNMASK) quantize-k $(RUN)

release-m: setup ## write evaluated M's, with their thresholds, to mask_rcnn_weights/ (EXTRA="--out folder")
	$(UNMASK) release-m $(RUN)

notebooks: setup ## execute the notebooks; copies with outputs go to results/PROFILE/notebooks (EXTRA=--commit: into notebooks/)
	UNMASK_PROFILE='$(PROFILE)' UNMASK_DATA='$(DATA)' UNMASK_K_WEIGHTS='$(K_WEIGHTS)' \
		$(PY) notebooks/execute.py $(or $(EXTRA),--output 'results/$(PROFILE)/notebooks')

notebooks-env: setup $(JUPYTER) ## make Jupyter Lab for the notebooks, in .cache/notebooks-env
	@echo 'Start it with: .cache/notebooks-env/bin/jupyter-lab notebooks'

$(JUPYTER): notebooks/requirements.txt $(STAMP)
	@mkdir -p $(TMPDIR)
	$(PY) -m venv --clear .cache/notebooks-env
	$(call on_top_of_venv,.cache/notebooks-env/bin/python)
	.cache/notebooks-env/bin/python -m pip install --no-input -r notebooks/requirements.txt
	.cache/notebooks-env/bin/python -m ipykernel install --sys-prefix >/dev/null
	cp notebooks/requirements.txt $@

bench: setup ## time K, M and the attacks on this machine
	$(PY) benchmarks/bench_pieces.py --profile '$(PROFILE)' $(EXTRA)

fetch: setup ## PROFILE=paper: the released data (or ARCHIVE=data.zip) and weights; FROM=sources: PASCAL-Part and VOC 2010
	$(UNMASK) fetch --profile '$(PROFILE)' $(if $(DATA),--data '$(DATA)') $(if $(FROM),--from '$(FROM)') \
		$(if $(ARCHIVE),--archive '$(ARCHIVE)') $(EXTRA)

flickr: setup ## photographs of CLASSES=car,dog from Flickr, with attribution (FLICKR_API_KEY; EXTRA="--count 200")
	$(UNMASK) flickr --classes '$(CLASSES)' $(EXTRA)

near-duplicates: setup ## images that are nearly the same (FOLDERS="flickr imagenet voc"): a page with thumbnails
	$(UNMASK) near-duplicates $(FOLDERS) $(EXTRA)

leaks: setup ## test images that are near an image that K or M was trained or chosen on
	$(UNMASK) leaks --profile '$(PROFILE)' $(if $(DATA),--data '$(DATA)') $(EXTRA)

versions: setup ## compare the code of each kind of step with its lock (EXTRA=--other-results or --same-results updates it)
	$(UNMASK) versions $(EXTRA)

bench-full: setup ## the hours of a profile's whole run, from its steps and rates measured on this machine (PROFILE=paper)
	$(PY) benchmarks/full_run.py --profile '$(PROFILE)' $(BUILT) $(EXTRA)

bench-k: setup ## K against the original: speed, memory, part sets (DATA=folder of images, ORIGINAL_PYTHON=its python)
	@mkdir -p results $(TMPDIR)
	$(PY) benchmarks/bench_k.py $(if $(DATA),--folder '$(DATA)') $(ORIGINAL) $(EXTRA)

bench-k-training: setup ## K's training steps against the original's (ORIGINAL_PYTHON=its python)
	@mkdir -p results $(TMPDIR)
	$(PY) benchmarks/bench_k_training.py $(ORIGINAL) $(EXTRA)

bench-attacks: setup $(PEERS) ## gradient steps and PGD against plain torch, ART, Foolbox and torchattacks
	@mkdir -p results $(TMPDIR)
	$(PEERS_PY) benchmarks/bench_attacks.py $(EXTRA)

$(PEERS): benchmarks/requirements.txt $(STAMP)
	@mkdir -p $(TMPDIR)
	$(PY) -m venv --clear .cache/bench
	$(call on_top_of_venv,$(PEERS_PY))
	$(PEERS_PY) -m pip install --no-input --no-deps -r benchmarks/requirements.txt
	cp benchmarks/requirements.txt $@

docs: setup ## the API reference, in docs/api
	$(PY) docs/build_reference.py docs/api

contact-sheet: setup ## redraw the picture of the embedded dataset for the README
	$(UNMASK) contact-sheet

test: setup ## the test suite, without what this machine cannot run
	$(PY) -m pytest -m '$(MARKS)' $(EXTRA)

test-kernels: setup ## the numeric tests under other processors' kernels, one setting after another (EXTRA=--help)
	$(PY) tests/other_kernels.py $(EXTRA)

lint: setup ## style, formatting and the import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

golden: ## rewrite tests/golden by Matterport's own package (needs CPython 3.7: GOLDEN_PYTHON)
	@mkdir -p $(TMPDIR)
	test -x .cache/golden/bin/python || '$(GOLDEN_PYTHON)' -m venv .cache/golden
	.cache/golden/bin/python -m pip install --no-input -r tests/golden/requirements.txt
	.cache/golden/bin/python tests/golden/generate.py $(EXTRA)

clean: ## remove results/PROFILE and the caches; data, weights and .venv stay
	@case '$(PROFILE)' in ''|.*|*/*|reference) echo "PROFILE='$(PROFILE)' is not a profile's name" >&2; exit 2;; esac
	rm -rf 'results/$(PROFILE)' .cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find unmask_tf tests -name __pycache__ -prune -exec rm -rf {} +
