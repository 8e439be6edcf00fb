#!/bin/sh
# Measures nf-core: from memory, and over net_pcap beside DPDK's ipsec-secgw.
# Usage: bench.sh [--quick|--try]
#
# The full run, a quarter of an hour, puts its figures into docs/benchmarks.md; the quick one, under two minutes, into target/bench.
# Both build first, which isn't counted. Nothing else should run on the machine meanwhile. --try shows whether everything
# runs: each case for a moment, so that its figures, in target/bench, mean nothing.
set -eu

cd "$(dirname "$0")/.."
out=target/bench
bin=${CARGO_TARGET_DIR:-target}/release
cargo=${CARGO:-cargo}
mkdir -p "$out"

say() {
	echo "$(date +%T) $*"
}

page=docs/benchmarks.md
memory=
compare=
case ${1:-} in
'') ;;
--quick)
	page=$out/benchmarks.md
	memory=--quick
	compare=--quick
	;;
--try)
	page=$out/benchmarks.md
	memory="--quick --laps 2"
	compare="--quick --seconds 0.3"
	;;
*)
	echo "usage: bench.sh [--quick|--try]" >&2
	exit 2
	;;
esac
[ "$page" = docs/benchmarks.md ] || cp docs/benchmarks.md "$page"

say "building"
secgw=$(scripts/build-secgw.sh "$out")
$cargo build --release -p nf-core -p pktgen-scenarios
$cargo bench -p nf-core --bench memory --no-run
# As the packaged service has it.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
say "measuring from memory"
# shellcheck disable=SC2086  # lists of words
$cargo bench -p nf-core --bench memory -- --json "$PWD/$out/memory.json" $memory
say "measuring over net_pcap, beside ipsec-secgw"
# shellcheck disable=SC2086
"$bin/pktgen-scenarios" bench --secgw "$secgw" --dir "$out" --json "$out/secgw.json" --memory "$out/memory.json" \
	--page "$page" $compare
say "done; figures: $page"
