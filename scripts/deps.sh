#!/bin/sh
# Installs the Debian packages that building needs, and those that are named, as far as they are missing.
# Usage: deps.sh [PACKAGE..]
set -eu

packages="gcc libc6-dev pkg-config libdpdk-dev libclang-dev libipsec-mb-dev libpcap-dev $*"

missing=""
for package in $packages; do
	status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
	[ "$status" = "install ok installed" ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
	exit 0
fi

command -v apt-get >/dev/null || {
	echo "deps: this isn't a Debian system; install what these packages hold:$missing" >&2
	exit 1
}
if [ "$(id -u)" = 0 ]; then
	sudo=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	sudo="sudo -n"
else
	echo "deps: packages are missing and only root may install them; run: sudo apt-get install$missing" >&2
	exit 1
fi

echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
install() {
	# shellcheck disable=SC2086  # lists of words
	$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
# A package list that is old or absent is the usual reason for a first failure.
install 2>/dev/null || {
	$sudo apt-get update -qq
	install
}
