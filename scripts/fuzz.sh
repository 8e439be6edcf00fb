#!/bin/sh
# Runs every fuzz target for FUZZ_SECONDS (60), and fails with the first that fails. README.md beside the targets says more.
# Usage: fuzz.sh [TARGET..]
#
# cargo-fuzz isn't needed: these are the options by which it has a stable compiler instrument code for libFuzzer. FUZZ_PROFILE=dev
# builds in less time what runs slower. FUZZ_SANITIZER=address takes a nightly compiler, and looks for faults of memory as well.
set -eu

cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
seconds=${FUZZ_SECONDS:-60}
profile=${FUZZ_PROFILE:-release}
host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-$PWD/target}
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions"
if [ -n "${FUZZ_SANITIZER:-}" ]; then
	rustup run nightly rustc --version >/dev/null 2>&1 || {
		echo "NOT RUN: fuzzing under a sanitizer: there is no nightly toolchain; run: rustup toolchain install nightly" >&2
		exit 1
	}
	cargo="rustup run nightly cargo"
	flags="$flags -Zsanitizer=$FUZZ_SANITIZER"
	target=$target/fuzz-$FUZZ_SANITIZER
fi
command -v g++ >/dev/null || {
	echo "NOT RUN: fuzzing: libFuzzer needs a C++ compiler; run: make deps-test" >&2
	exit 1
}

# Without names all of them; a target is a program, and a directory of seeds beside it.
bins=--bins
[ $# = 0 ] || bins=$(printf -- '--bin %s ' "$@")
# With --target, what runs at build time isn't instrumented, and is that of the other builds in this directory.
# shellcheck disable=SC2086  # a list of words
RUSTFLAGS=$flags $cargo build --quiet --manifest-path fuzz/Cargo.toml --workspace $bins --profile "$profile" --target "$host" \
	--target-dir "$target"
built=$target/$host/$(echo "$profile" | sed 's/^dev$/debug/')
for source in dpdk-rs/fuzz/fuzz_targets/*.rs nf-core/fuzz/fuzz_targets/*.rs nf-ctl/fuzz/fuzz_targets/*.rs nf-ctl/ikev2/fuzz/fuzz_targets/*.rs; do
	name=$(basename "$source" .rs)
	case " $* " in
	"  " | *" $name "*) ;;
	*) continue ;;
	esac
	(
		cd "$(dirname "$source")/.."
		echo "fuzz: $name for $seconds s"
		mkdir -p "corpus/$name" "found/$name" "artifacts/$name"
		# Leaks are DPDK's own, whose memory lives as long as the process.
		ASAN_OPTIONS=detect_leaks=0 "$built/$name" "corpus/$name" "seeds/$name" "found/$name" \
			-artifact_prefix="artifacts/$name/" -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=1024 \
			-print_final_stats=1 >"$target/fuzz.log" 2>&1 || {
			cat "$target/fuzz.log"
			exit 1
		}
		grep -E '^(#[0-9]+.*DONE|stat::number_of_executed_units)' "$target/fuzz.log"
	)
done
