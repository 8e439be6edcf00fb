#!/bin/sh
# Runs every fuzz target for FUZZ_SECONDS (60), and fails with the first that fails. nf-ctl/ikev2/fuzz/README.md says more.
set -eu

cargo fuzz --version >/dev/null 2>&1 || {
	echo "fuzz: cargo-fuzz is missing; run: cargo install cargo-fuzz" >&2
	exit 1
}
command -v g++ >/dev/null || {
	echo "fuzz: libFuzzer needs a C++ compiler; run: apt-get install g++" >&2
	exit 1
}
cd "$(dirname "$0")/../nf-ctl/ikev2"
for target in $(cargo fuzz list); do
	echo "fuzz: $target for ${FUZZ_SECONDS:=60} s"
	mkdir -p "fuzz/corpus/$target"
	cargo fuzz run -s none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
		-max_total_time="$FUZZ_SECONDS" -max_len=4096 -rss_limit_mb=512 -print_final_stats=1
done
