#!/bin/sh
# Counts the instructions that nf-core needs for a packet, of a core and of a worker around it, and holds them against nf-core/instructions/limits.txt.
# Usage: instructions.sh [--gate] [--record]
#
# Fails where a count is above its limit by more than the tolerance. Counted is the release build; with --gate a core alone, of a build
# that shares most with that of the tests, for `make test`. --record writes what is counted as the new limits.
set -eu

cd "$(dirname "$0")/.."
limits=nf-core/instructions/limits.txt
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo=${CARGO:-cargo}
counts=$target/instructions
build=release
record=no
for option; do
	case $option in
	--gate) build=gate ;;
	--record) record=yes ;;
	*)
		echo "instructions: there is no option $option; give --gate, --record or none" >&2
		exit 2
		;;
	esac
done

not_run() {
	echo "NOT RUN: the limits on instructions: $1" >&2
	exit 0
}
command -v valgrind >/dev/null || not_run "valgrind is missing; run: make deps-test"
# valgrind's CPU is modelled on the one that it runs on.
grep -qw avx2 /proc/cpuinfo || not_run "the limits are for a CPU with AVX2, which this one isn't"

rm -rf "$counts"
mkdir -p "$counts"
options=
[ $build = release ] || options="--config nf-core/instructions/profile.toml --profile dev"
# shellcheck disable=SC2086  # a list of words
bench=$($cargo bench --quiet $options -p nf-core-instructions --bench instructions --no-run --message-format=json-render-diagnostics |
	sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
[ -n "$bench" ] || exit 1

# What gungraun's runner does, which takes longer to build than all else here: it has valgrind run the bench for one benchmark after the
# other. The harness finds one by its numbers, which `--list` prints in front of its name.
export bench counts
"$bench" --list >"$counts/list"
# shellcheck disable=SC2016  # it's the inner shell that expands them
xargs -P "$(nproc)" -L 1 sh -c '
	valgrind --tool=callgrind --toggle-collect="*::__gungraun_wrapper_mod::*" --callgrind-out-file="$counts/callgrind.$3.out" \
		"$bench" --gungraun-run d:d:000000 0 "$1" "$2" >"$counts/$3.log" 2>&1 || {
		cat "$counts/$3.log" >&2
		exit 1
	}' count <"$counts/list"

# callgrind writes the sum of a benchmark as "totals: COUNT"; each one takes 1024 packets.
awk '
	FNR == 1 { name = FILENAME; sub(/.*\/callgrind\./, "", name); sub(/\.out$/, "", name) }
	/^totals: / { print name, $2 / 1024 }' "$counts"/callgrind.*.out >"$counts/table"

field() {
	sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$fixture.json"
}
# A packet's whole way through a worker, from the driver's receive function to its transmit function without the two: what
# nf-core itself needs, by the ports that `nf-core replay` has. Bursts are full.
count_worker() {
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
}
if [ $build = release ]; then
	count_worker
fi

# The columns behind a name: the limit of the release build, and that of the gate's. "-" is none.
column=2
[ $build = release ] || column=3
if [ $record = yes ]; then
	awk -v column=$column '
		function row() { if ($2 != "-" || $3 != "-") printf "%-32s %8s %8s\n", $1, $2, $3 }
		FNR == NR { count[$1] = sprintf("%.1f", $2); next }
		/^#/ || $1 == "tolerance" { print; next }
		{ $column = $1 in count ? count[$1] : "-"; delete count[$1]; row() }
		END { for (name in count) { $0 = name " - -"; $column = count[name]; row() } }' "$counts/table" "$limits" >"$counts/limits"
	cp "$counts/limits" "$limits"
fi

awk -v column=$column '
	FNR == NR && /^#/ { next }
	FNR == NR && $1 == "tolerance" { tolerance = $2; next }
	FNR == NR { if ($column != "-") limit[$1] = $column; next }
	FNR == 1 { printf "%-32s %12s %9s %6s\n", "instructions a packet", "counted", "limit", "ratio" }
	$2 == 0 { failed = failed "\n  nothing was counted of " $1 }
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
		print "scripts/instructions.sh --record and scripts/instructions.sh --gate --record, and say why in the commit." | "cat >&2"
		exit 1
	}' "$limits" "$counts/table"
