#!/bin/sh
# Runs every fuzz target for FUZZ_SECONDS (60), and fails with the first that fails. README.md beside the targets says more.
# Usage: fuzz.sh [TARGET..]
set -eu

cargo fuzz --version >/dev/null 2>&1 || {
	echo "NOT RUN: fuzzing: cargo-fuzz is missing; run: cargo install cargo-fuzz" >&2
	exit 1
}
command -v g++ >/dev/null || {
	echo "NOT RUN: fuzzing: libFuzzer needs a C++ compiler; run: apt-get install g++" >&2
	exit 1
}
seconds=${FUZZ_SECONDS:-60}
cd "$(dirname "$0")/.."
for crate in nf-core nf-ctl/ikev2; do
	(
		cd "$crate"
		for target in $(cargo fuzz list); do
			case " $* " in
			"  " | *" $target "*) ;;
			*) continue ;;
			esac
			echo "fuzz: $target for $seconds s"
			mkdir -p "fuzz/corpus/$target"
			mkdir -p "fuzz/found/$target"
			cargo fuzz run -s none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" "fuzz/found/$target" -- \
				-max_total_time="$seconds" -max_len=4096 -rss_limit_mb=512 -print_final_stats=1
		done
	)
done
