# Each target is short on purpose: what a target needs is in scripts/ or in cargo.
CARGO ?= cargo
OUT   ?= target/run
# With --target, RUSTFLAGS are for what runs in the end, and what runs at build time is shared with other builds.
HOST   = $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: run test throughput bench bench-quick bench-attack bench-recovery loom instructions miri asan deny soak charon-plugin package fuzz fuzz-quick deps deps-test build lint doc clean

run: build            ## play a sample capture through nf-core and show what became of it
	scripts/run-sample.sh $(OUT)

test: deps-test lint doc ## every test there is
	$(CARGO) test --workspace
	scripts/instructions.sh --gate
	$(MAKE) loom
	$(MAKE) fuzz-quick
	scripts/deny.sh
	scripts/test-as-root.sh

loom:                 ## every interleaving of what cores share: windows, sequence numbers, limits, changes
	RUSTFLAGS="--cfg loom -D warnings" $(CARGO) test -p nf-core --no-default-features --test loom --target $(HOST)

instructions: deps-test ## instructions for a packet in the release build, against their limits
	scripts/instructions.sh

bench: deps           ## throughput, beside ipsec-secgw; figures go into docs/benchmarks.md
	scripts/bench.sh

bench-quick: deps     ## a part of it, in under two minutes
	scripts/bench.sh --quick

throughput: build     ## the highest rate without loss, by frame size, over virtual ports (minutes)
	$(or $(CARGO_TARGET_DIR),target)/release/pktgen-scenarios throughput --svg target/throughput.svg

bench-recovery: deps-test ## how long a black hole lasts (root, minutes)
	$(CARGO) test --workspace --test bench_recovery -- --ignored --nocapture

bench-attack: deps-test ## valid traffic and the control socket under attacks (two minutes)
	ATTACK_FRAMES=$${ATTACK_FRAMES:-100000} ATTACK_PPS=$${ATTACK_PPS:-20000} \
		$(CARGO) test --release -p pktgen-scenarios --test attack -- --nocapture

build: deps           ## the three programs, optimised
	$(CARGO) build --release --workspace

charon-plugin: deps-test ## the plugin by which strongSwan's charon installs its SAs into nf-core
	scripts/charon-plugin.sh

package: deps         ## a Debian package with the programs, systemd units, manual pages: target/package
	scripts/package.sh

miri:                 ## the heart of nf-core under Miri (needs a nightly toolchain)
	scripts/nightly.sh miri

asan:                 ## dpdk-rs, the crate with unsafe code, under AddressSanitizer (needs a nightly toolchain)
	scripts/nightly.sh asan

deny:                 ## licences, duplicates, sources and advisories of the dependencies
	scripts/deny.sh

HOURS ?= 1
soak:                 ## SAs that come and go under traffic, for HOURS; memory, files and packet buffers stay as they are
	SOAK_SECONDS=$$(( $(HOURS) * 3600 )) $(CARGO) test --workspace --test daemon soak -- --nocapture

MINUTES ?= 1
fuzz: deps-test       ## every fuzz target for MINUTES; FUZZ_SANITIZER=address looks for faults of memory as well (nightly)
	FUZZ_SECONDS=$$(( $(MINUTES) * 60 )) scripts/fuzz.sh

fuzz-quick: deps-test ## every one for some seconds
	FUZZ_PROFILE=dev FUZZ_SECONDS=4 scripts/fuzz.sh

deps:                 ## install the Debian packages that building needs
	scripts/deps.sh

deps-test:            ## and those that testing needs
	scripts/deps-test.sh

lint:                 ## formatting and lints, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

doc:                  ## the API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

clean:
	$(CARGO) clean
