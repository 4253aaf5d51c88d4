# The two commands of the README: make test, make train. Each sets up and builds what it needs first.
PRESET ?= release
CONFIG ?= configs/minigrid_keycorridor.textproto
BUILD  := build/$(PRESET)
# As many jobs as cores; lower it where memory is short (LibTorch files need about 2 GB each).
JOBS   ?= $(shell nproc)

# What `sibyl train $(CONFIG)` starts, and all that `make train` builds.
ACTOR   = $(if $(shell grep -s '^[^\#]*INFERENCE_LOCAL' $(CONFIG))$(findstring INFERENCE_LOCAL,$(TRAIN_ARGS)),sibyl-actor-local,sibyl-actor)
TRAINS  = sibyl sibyl-learner $(ACTOR) sibyl-reward-model sibyl-annotator

.PHONY: setup build test test-llm train clean
setup:
	@deploy/setup.sh

$(BUILD)/build.ninja: CMakePresets.json | setup
	@cmake --preset $(PRESET)

build: setup $(BUILD)/build.ninja
	@cmake --build --preset $(PRESET) -j $(JOBS)

test: build
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) $(CTEST_ARGS)

# The real small model in every form, 2,000 queries.
test-llm: setup $(BUILD)/build.ninja
	@cmake --build --preset $(PRESET) -j $(JOBS) --target llm_test
	@SIBYL_LLM_QUERIES=2000 $(BUILD)/tests/llm_test

train: setup $(BUILD)/build.ninja
	@cmake --build --preset $(PRESET) -j $(JOBS) --target $(TRAINS)
	@$(BUILD)/bin/sibyl train $(CONFIG) $(TRAIN_ARGS)

clean:
	rm -rf $(BUILD)
