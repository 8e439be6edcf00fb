#!/bin/sh
# The tests that need root: network namespaces, TUN/TAP, packet sockets.
set -eu

if [ "$(id -u)" != 0 ]; then
	echo "NOT RUN: the tests of net_tap and net_af_packet need root; run: sudo make test" >&2
	exit 0
fi
exec "${CARGO:-cargo}" test -p nf-ctl --test virtual_ports -- --ignored
