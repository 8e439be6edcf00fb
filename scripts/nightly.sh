#!/bin/sh
# What only a nightly compiler can check. Usage: nightly.sh miri|asan
set -eu

cd "$(dirname "$0")/.."
not_run() {
	echo "NOT RUN: $what: $1" >&2
	exit 0
}
what=$1
rustup run nightly rustc --version >/dev/null 2>&1 || not_run "there is no nightly toolchain; run: rustup toolchain install nightly"
case $what in
miri)
	rustup run nightly cargo miri --version >/dev/null 2>&1 ||
		not_run "it isn't installed; run: rustup +nightly component add miri rust-src"
	# What cores share, what reads packets, and what is done with them; not what needs files, sockets or minutes.
	export MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=2
	rustup run nightly cargo miri test -p nf-core --no-default-features --lib --target-dir target/miri -- \
		lanes:: packet:: batch:: wire:: sa::table:: sa::outbound:: sa::lifetime:: policy:: prefix:: holding::
	# The part of it that doesn't call the library.
	rustup run nightly cargo miri test -p ipsec-mb --lib --target-dir target/miri -- wiped::
	;;
asan)
	# Leaks are DPDK's own, whose memory lives as long as the process.
	ASAN_OPTIONS=detect_leaks=0 RUSTFLAGS=-Zsanitizer=address rustup run nightly cargo test -p dpdk-rs --tests \
		--target x86_64-unknown-linux-gnu --target-dir target/asan
	;;
*)
	echo "usage: nightly.sh miri|asan" >&2
	exit 2
	;;
esac
