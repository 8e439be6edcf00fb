#!/bin/sh
# Installs the Debian packages that building and testing need.
set -eu

installed() {
	dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'
}
had_charon=no
if installed strongswan-charon; then
	had_charon=yes
fi

# What docs/pktgen.md has commands of, and what its scripts are checked with.
packages="dpdk lua5.4"
# What metrics are checked with.
packages="$packages python3-prometheus-client"
# What the package is built with.
packages="$packages dpkg-dev"
# Peers and eyes for the tests in network namespaces.
packages="$packages iproute2 iputils-ping ethtool tcpdump nftables strongswan-charon strongswan-swanctl strongswan-pki
	libstrongswan-standard-plugins libstrongswan-extra-plugins libcharon-extra-plugins"
# libFuzzer.
packages="$packages g++"
# Counting instructions, and other CPUs than this one.
packages="$packages valgrind qemu-user"
# Setting a program's clock.
packages="$packages libfaketime"
# charon's plugin.
packages="$packages libjson-c-dev make bzip2"
# shellcheck disable=SC2086  # a list of words
"$(dirname "$0")/deps.sh" $packages

# strongswan-charon brings a service that holds UDP 500 and 4500 of this machine. The tests start daemons of their own.
if [ $had_charon = no ] && [ -d /run/systemd/system ]; then
	if [ "$(id -u)" = 0 ]; then
		systemctl disable --quiet --now strongswan-starter
	else
		sudo -n systemctl disable --quiet --now strongswan-starter
	fi
fi
