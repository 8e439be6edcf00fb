#!/bin/sh
# Measures nf-core: from memory, and over net_pcap beside DPDK's ipsec-secgw.
# Usage: bench.sh [--quick]
#
# The full run puts its figures into docs/benchmarks.md; the quick one, under two minutes once all is built, into target/bench.
# Nothing else should run on the machine meanwhile.
set -eu

cd "$(dirname "$0")/.."
out=target/bench
bin=${CARGO_TARGET_DIR:-target}/release
cargo=${CARGO:-cargo}
mkdir -p "$out"

secgw=$(scripts/build-secgw.sh "$out")
$cargo build --release -p nf-core -p pktgen-scenarios
page=docs/benchmarks.md
if [ "${1:-}" = --quick ]; then
	cp "$page" "$out/benchmarks.md"
	page=$out/benchmarks.md
fi
$cargo bench -p nf-core --bench memory -- --json "$PWD/$out/memory.json" "$@"
"$bin/pktgen-scenarios" bench --secgw "$secgw" --dir "$out" --json "$out/secgw.json" --memory "$out/memory.json" \
	--page "$page" "$@"
echo "figures: $page"
