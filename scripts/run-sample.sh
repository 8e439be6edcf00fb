#!/bin/sh
# Plays a sample capture through the network function and shows what became of it.
# Usage: run-sample.sh DIRECTORY
set -eu

out=$1
bin=${CARGO_TARGET_DIR:-target}/release

echo "== A sample capture: valid, replayed, forged and unknown-SPI packets"
"$bin/pktgen-scenarios" gen mixed --out "$out" --packets 400

echo
echo "== Through nf-core, over net_pcap"
"$bin/nf-core" replay --config "$out/nf.toml" --stats-json "$out/stats.json" "$out/mixed.pcap" "$out/decapsulated.pcap"
echo "decapsulated packets: $out/decapsulated.pcap"

nf_ctl() {
	echo
	echo "\$ nf-ctl $*"
	"$bin/nf-ctl" --stats-file "$out/stats.json" "$@"
}
nf_ctl show counters
nf_ctl show platform hardware qfp active statistics drop
nf_ctl show platform hardware qfp active feature ipsec datapath drops
