# Every target installs what it needs into .venv; a stamp file there says that it is done.
# PYTHON=python3.12 make   chooses another interpreter for a new .venv.
# RECIPE=recipes/mine.yaml make   builds another recipe; OUT=folder puts the results elsewhere.
PYTHON ?= python3
RECIPE ?= recipes/default.yaml
OUT ?= build/$(basename $(notdir $(RECIPE)))
VENV := .venv
BIN := $(VENV)/bin
DEVICE := $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo cuda || echo cpu)
STAMP := $(VENV)/.stamp-$(DEVICE)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# torch's threads spin while they wait for each other; on a busy machine that takes most of the time there is.
export OMP_WAIT_POLICY ?= PASSIVE

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: all setup quantize convert bench test lint card clean

# What is there and still right is kept, so a target begins where the last one ended, or was killed.
all bench: $(STAMP)
	$(BIN)/shipvlm run $(RECIPE) -o $(OUT)
	@echo "installation in $(VENV): $$(cat $(STAMP)) s, done once"

quantize convert: $(STAMP)
	$(BIN)/shipvlm run $(RECIPE) -o $(OUT) --until $@

setup: $(STAMP)
ifeq ($(DEVICE),cuda)
	@echo "setup: an NVIDIA driver is present, the cuda extra is installed in $(VENV)"
else
	@echo "setup: no NVIDIA driver found, the cpu extra is installed in $(VENV)"
endif

# Measure the default model again and rewrite the numbers of its card.
card: $(STAMP)-data
	$(BIN)/python -m examples.tiny_qwen3_vl.evaluate
	$(BIN)/python -m examples.tiny_qwen3_vl.card

test: $(STAMP)-dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OUT)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with PYTHON=python3.12 make" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "setup: installing the $(DEVICE) extra into $(VENV), some minutes the first time"
	@start=$$(date +%s) && $(INSTALL) -e '.[$(DEVICE)]' && echo $$(($$(date +%s) - start)) > $@

$(STAMP)-%: $(STAMP)
	$(INSTALL) -e '.[$(DEVICE),$*]'
	@touch $@
