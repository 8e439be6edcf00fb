#!/bin/sh
# The tests that need root: network namespaces, TUN/TAP, packet sockets, mounts, IKE daemons.
set -eu

not_run() {
	echo "NOT RUN: the tests of net_tap, net_af_packet, IKE's ports, strongSwan and full disks: $1" >&2
	exit 0
}

scripts/test-package.sh "${CARGO_TARGET_DIR:-target}/debug"

[ "$(id -u)" = 0 ] || not_run "they need root; run: sudo make test"
probe=nf-probe-$$
if ! { ip netns add "$probe" && ip netns exec "$probe" true; }; then
	ip netns del "$probe" 2>/dev/null || true
	not_run "this root may not use network namespaces, as in a container or chroot"
fi
ip netns del "$probe"

tests="--test daemon --test virtual_ports --test host --test strongswan --test ikev2_charon --test vici --test xfrm --test udp --test agent"
if scripts/charon-plugin.sh; then
	tests="$tests --test charon_plugin"
else
	echo "NOT RUN: the tests of charon's plugin: it can't be built here, see above" >&2
fi
# They wait for timers of IKE and of daemons more than they compute.
: "${RUST_TEST_THREADS:=$((2 * $(nproc)))}"
export RUST_TEST_THREADS
# With the whole workspace's features, or everything would be compiled once more.
# shellcheck disable=SC2086  # a list of words
exec "${CARGO:-cargo}" test --workspace $tests -- --ignored
