#!/bin/sh
# Counts the instructions that nf-core needs for a packet, of a core and of a worker around it, and holds them against nf-core/benches/instructions/limits.txt.
# Usage: instructions.sh [--record]
#
# Fails where a count is above its limit by more than the tolerance. --record writes what is counted as the new limits.
set -eu

cd "$(dirname "$0")/.."
limits=nf-core/benches/instructions/limits.txt
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo=${CARGO:-cargo}
counts=$target/gungraun/counts

not_run() {
	echo "NOT RUN: the limits on instructions: $1" >&2
	exit 0
}
command -v valgrind >/dev/null || not_run "valgrind is missing; run: make deps-test"
# valgrind's CPU is modelled on the one that it runs on.
grep -qw avx2 /proc/cpuinfo || not_run "the limits are for a CPU with AVX2, which this one isn't"

# The library and its runner must be of one version.
version=$(sed -n 's/^gungraun = "=\(.*\)"$/\1/p' Cargo.toml)
runner=$target/tools/bin/gungraun-runner
if [ "$("$runner" --version 2>/dev/null)" != "gungraun-runner $version" ]; then
	echo "instructions: installing gungraun-runner $version into $target/tools"
	$cargo install --quiet --locked --debug --root "$target/tools" --version "$version" gungraun-runner
fi

rm -rf "$counts"
mkdir -p "$counts"
GUNGRAUN_RUNNER=$runner GUNGRAUN_HOME=$counts $cargo bench -p nf-core --no-default-features --features instructions \
	--bench instructions >"$counts/log" 2>&1 || {
	cat "$counts/log" >&2
	exit 1
}

# callgrind writes the sum of a benchmark as "totals: COUNT"; each one takes 1024 packets.
find "$counts" -name 'callgrind.*.out' -exec awk '
	/^totals: / { name = FILENAME; sub(/.*\/callgrind\./, "", name); sub(/\.out$/, "", name); print name, $2 / 1024 }' {} + |
	sort >"$counts/table"

# A packet's whole way through a worker, from the driver's receive function to its transmit function without the two: what
# nf-core itself needs, by the ports that `nf-core replay` has. Bursts are full.
field() {
	sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$fixture.json"
}
fixture=nf-core/tests/fixtures/v4-tunnel-gcm128
dir=$counts/worker
laps=1024
mkdir "$dir"
$cargo build --quiet --release -p nf-core
{
	printf '[crypto]\nengine = "ipsec-mb"\n[[local]]\naddress = "%s"\n[[sa]]\nmode = "tunnel"\nreplay_window = 0\n' "$(field dst)"
	printf 'spi = %s\nsrc = "%s"\ndst = "%s"\nalg = "%s"\nkey = "%s"\n' \
		"$(field spi)" "$(field src)" "$(field dst)" "$(field alg)" "$(field key)"
} >"$dir/nf.toml"
cat "$fixture.pcap" >"$dir/in.pcap"
lap=1
while [ "$lap" -lt "$laps" ]; do
	tail -c +25 "$fixture.pcap"
	lap=$((lap + 1))
done >>"$dir/in.pcap"
valgrind --tool=callgrind --toggle-collect='*runtime::worker::Worker::poll' --callgrind-out-file="$dir/callgrind.out" \
	"$target/release/nf-core" replay --config "$dir/nf.toml" --stats-json "$dir/stats.json" "$dir/in.pcap" "$dir/out.pcap" \
	>"$dir/log" 2>&1 || {
	cat "$dir/log" >&2
	exit 1
}
# The first two numbers of packets are those received and sent.
packets=$(sed -n '/"packets"/s/[^0-9]//gp' "$dir/stats.json" | head -n 1)
sent=$(sed -n '/"packets"/s/[^0-9]//gp' "$dir/stats.json" | sed -n 2p)
if [ "$packets" != "$sent" ]; then
	echo "instructions: of $packets packets through a worker $sent came out" >&2
	exit 1
fi
# What functions of the program cost themselves: a line after `calls=` is what a call costs.
awk -v packets="$packets" '
	/^c?ob=/ {
		id = substr($1, index($1, "("))
		if (NF > 1) program[id] = $2 ~ /\/nf-core$/
		if (/^ob/) ours = program[id]
		next
	}
	/^calls=/ { called = 1; next }
	/^[0-9+*-]/ { if (!called && ours) sum += $2; called = 0 }
	END { print "worker.receive_to_transmit", sum / packets }' "$dir/callgrind.out" >>"$counts/table"

if [ "${1:-}" = --record ]; then
	{
		sed -n '/^#/p' "$limits"
		sed -n '/^tolerance/p' "$limits"
		awk '{ printf "%-32s %8.1f\n", $1, $2 }' "$counts/table"
	} >"$counts/limits"
	cp "$counts/limits" "$limits"
fi

awk '
	FNR == NR && /^#/ { next }
	FNR == NR && $1 == "tolerance" { tolerance = $2; next }
	FNR == NR { limit[$1] = $2; next }
	FNR == 1 { printf "%-32s %12s %9s %6s\n", "instructions a packet", "counted", "limit", "ratio" }
	!($1 in limit) { printf "%-32s %12.1f has no limit\n", $1, $2; failed = failed "\n  " $1 " has no limit"; next }
	{
		ratio = $2 / limit[$1]
		printf "%-32s %12.1f %9.1f %6.3f\n", $1, $2, limit[$1], ratio
		seen[$1] = 1
		if (ratio > 1 + tolerance / 100)
			failed = failed sprintf("\n  %s takes %.1f, %.1f %% more than %.1f", $1, $2, (ratio - 1) * 100, limit[$1])
		if (ratio < 1 - tolerance / 100)
			better = better " " $1
	}
	END {
		for (name in limit) if (!(name in seen)) failed = failed "\n  " name " was not counted"
		if (better != "") print "below the limit by more than the tolerance, so it may be lowered:" better
		if (failed == "") exit 0
		print "instructions: more than " tolerance " % over the limit:" failed | "cat >&2"
		print "Find out where they are with callgrind_annotate on the files in '"$counts"'; if the cost is worth it, run" | "cat >&2"
		print "scripts/instructions.sh --record and say why in the commit." | "cat >&2"
		exit 1
	}' "$limits" "$counts/table"
