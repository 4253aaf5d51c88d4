# The two commands of the README: make test, make train. Both set up and build what they need first.
PRESET ?= release
CONFIG ?= configs/minigrid_keycorridor.textproto
BUILD  := build/$(PRESET)
# As many jobs as cores; lower it where memory is short (LibTorch files need about 2 GB each).
JOBS   ?= $(shell nproc)

.PHONY: setup build test train bench clean
setup:
	@deploy/setup.sh

$(BUILD)/build.ninja: CMakePresets.json | setup
	@cmake --preset $(PRESET)

build: setup $(BUILD)/build.ninja
	@cmake --build --preset $(PRESET) -j $(JOBS)

test: build
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) $(CTEST_ARGS)

train: build
	@$(BUILD)/bin/sibyl train $(CONFIG) $(TRAIN_ARGS)

clean:
	rm -rf $(BUILD)
