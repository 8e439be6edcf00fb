#!/bin/sh
# Builds DPDK's ipsec-secgw from Debian's copy of the examples, for the comparison in `make bench`.
# Usage: build-secgw.sh DIRECTORY
#
# One line differs from the original: it asks every port for receive checksum offloads, which net_pcap doesn't have.
set -eu

out=$1
examples=/usr/share/dpdk/examples
program=$out/ipsec-secgw/build/ipsec-secgw

if [ -x "$program" ] && [ "$program" -nt "$examples/ipsec-secgw/ipsec-secgw.c" ]; then
	echo "$program"
	exit 0
fi
if [ ! -d "$examples/ipsec-secgw" ]; then
	"$(dirname "$0")/deps.sh" dpdk-doc >&2
fi
mkdir -p "$out"
cp -r "$examples/ipsec-secgw" "$examples/common" "$out/"
sed -i 's/\.offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM,/.offloads = 0,/' "$out/ipsec-secgw/ipsec-secgw.c"
make -C "$out/ipsec-secgw" shared >&2
echo "$program"
