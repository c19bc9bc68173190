# `make train`, `make test` and `make lint` each set up all that they need: an environment in .venv-<python version>.
# PYTHON=python3.12 picks another interpreter, WORKDIR=... another place for what `make train` writes.
PYTHON ?= python3
WORKDIR ?= runs
EXTRAS = dev

VERSION := $(shell $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11)); ' && $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV = .venv-$(VERSION)
BIN = $(VENV)/bin
READY = $(VENV)/ready

# What all methods of the tables of results/ have in common.
COMMON = model.max_len=60,train.epochs=20,train.patience=5,train.num_widths=2,train.batch_size=256
SEEDS ?= 1,2,3
comma = ,

.PHONY: train results tables skips law-1 law-2 law-3 law-4 by-prefix speed test fuzz lint audit clean
.DELETE_ON_ERROR:

train: $(READY)
	$(BIN)/python -m launch.prepare --source=sample --out=$(WORKDIR)/sample
	$(BIN)/python -m launch.train --data=$(WORKDIR)/sample --workdir=$(WORKDIR)/sine
	$(BIN)/python -m launch.evaluate --workdir=$(WORKDIR)/sine

# The tables of results/skips.md that need no LOG: laws of skips, each drawn from a seed. ONLY=REGEX picks rows. In the first
# four the effect of a skip lasts; in `one-exposure` it ends with the next exposure.
LAWS = law-1 law-2 law-3 law-4
OF_PREFIX = law-1 one-exposure
DRAWN.law-1 = --seed=1 --users=10000 --items=1000 --interests=8 --skip_effect=0.8 --skip_decay=0.9
DRAWN.law-2 = --seed=2 --users=8000 --items=800 --interests=12 --skip_effect=1.0 --skip_decay=0.85
DRAWN.law-3 = --seed=3 --users=8000 --items=1500 --interests=5 --skip_effect=0.6 --skip_decay=0.95
DRAWN.law-4 = --seed=4 --users=8000 --items=600 --interests=16 --skip_effect=1.2 --skip_decay=0.7 --affinity=1.0
DRAWN.one-exposure = --seed=5 --users=10000 --items=1000
DRAWN_SETS = $(sort $(LAWS) $(OF_PREFIX))

$(DRAWN_SETS:%=$(WORKDIR)/%/info.json): $(WORKDIR)/%/info.json: | $(READY)
	$(BIN)/python -m launch.prepare --source=synthetic --out=$(@D) $(DRAWN.$*)
$(OF_PREFIX:%=$(WORKDIR)/%-redrawn/info.json): $(WORKDIR)/%-redrawn/info.json: $(WORKDIR)/%/info.json
	$(BIN)/python -m launch.prepare --source=redrawn --input=$(<D) --out=$(@D) --seed=1 --min_positives=0

skips: $(LAWS) by-prefix
$(LAWS): %: $(WORKDIR)/%/info.json
	JAX_COMPILATION_CACHE_DIR=$(WORKDIR)/cache $(BIN)/python -m launch.experiment --suite=skips \
	  --data=$(WORKDIR)/$@ --out=$(WORKDIR)/tables/$@ --seeds=$(SEEDS) --set=$(COMMON) --only='$(ONLY)'

# Protocol by_prefix on two laws, and for its null on the same exposures with redrawn feedback.
WITHOUT_SKIPS = --model.read_skips=false --model.user_bias=false
PREFIX = --data.split_by=by_share --model.max_len=60 --train.epochs=20 --train.patience=5 --train.num_widths=2 --train.batch_size=256
by-prefix: $(foreach law,$(OF_PREFIX),$(WORKDIR)/$(law)/info.json $(WORKDIR)/$(law)-redrawn/info.json)
	for data in $(foreach law,$(OF_PREFIX),$(law) $(law)-redrawn); do for seed in $(subst $(comma), ,$(SEEDS)); do \
	  for reads in "" "$(WITHOUT_SKIPS)"; do \
	    run=$(WORKDIR)/prefix/$$data-$$seed$${reads:+-without}; \
	    $(BIN)/python -m launch.train --data=$(WORKDIR)/$$data --workdir=$$run $(PREFIX) --train.seed=$$seed $$reads && \
	    $(BIN)/python -m launch.evaluate --workdir=$$run --protocol=by_prefix --nulls=0 || exit 1; \
	  done; $(BIN)/python -m launch.compare --protocol=by_prefix --metric=gauc \
	    $(WORKDIR)/prefix/$$data-$$seed-without $(WORKDIR)/prefix/$$data-$$seed; \
	done; done

# The table of results/kuairand_pure.md: the released model, three seeds, on LOG, KuaiRand-Pure exposures with their order.
KUAIRAND = $(WORKDIR)/kuairand
ifeq ($(LOG),)
results tables speed:
	@echo "LOG is missing: pass LOG=FILE, KuaiRand-Pure exposures as CSV or Parquet" >&2; exit 1
else
$(KUAIRAND)/info.json: $(LOG) | $(READY)
	$(BIN)/python -m launch.prepare --source=log --input=$(LOG) --out=$(KUAIRAND) --overwrite \
	  --columns=user=user_id,item=item_id,order=step,watched=long_view --min_positives=5
results: $(KUAIRAND)/info.json
	for seed in 1 2 3; do \
	  $(BIN)/python -m launch.train --data=$(KUAIRAND) --workdir=$(WORKDIR)/official-$$seed --preset=official \
	    --model.max_len=60 --train.seed=$$seed && \
	  $(BIN)/python -m launch.evaluate --workdir=$(WORKDIR)/official-$$seed || exit 1; \
	done

# The tables of results/experiments.md: methods by seeds on the same LOG, all at the same options.
tables: $(KUAIRAND)/info.json
	for suite in main ablation interests; do \
	  JAX_COMPILATION_CACHE_DIR=$(WORKDIR)/cache $(BIN)/python -m launch.experiment --suite=$$suite \
	    --data=$(KUAIRAND) --out=$(WORKDIR)/tables/$$suite --seeds=$(SEEDS) --set=$(COMMON) || exit 1; \
	done

# The table of results/speed.md. RecBole's environment is made beside it (some GB).
speed: $(KUAIRAND)/info.json
	$(BIN)/python -m launch.benchmark --data=$(KUAIRAND) --out=$(WORKDIR)/speed --against=recbole
endif

# Large pages for the allocator: a step of wide windows takes about a seventh less on a CPU.
train results tables speed: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

test: $(READY)
	$(BIN)/python -m pytest

# Known faults of the installed packages.
audit: $(READY)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --progress-spinner=off

# Logs made up at random, more than `make test` tries, and other ones each time.
FUZZ_EXAMPLES ?= 5000
fuzz: $(READY)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/fuzz

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy sine_jax launch

# Installed anew when the requirements change. PYTHONWARNINGS: setuptools warns at length of every editable install.
$(READY): setup.cfg pyproject.toml
	@test -n "$(VERSION)" || { echo "$(PYTHON) is missing or older than 3.11: install one, or name it with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf .venv-* runs build dist *.egg-info
