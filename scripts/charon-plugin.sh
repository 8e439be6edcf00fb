#!/bin/sh
# Builds charon's plugin kernel-nf-core for the strongSwan that is installed.
# Usage: charon-plugin.sh [DIRECTORY]; the plugin is DIRECTORY/libstrongswan-kernel-nf-core.so then.
#
# A plugin is built against one strongSwan's headers, which Debian has in its source package only. It is downloaded and
# verified by apt, with lists of its own: the system's configuration of apt stays as it is.
set -eu

out=${1:-${CARGO_TARGET_DIR:-target}/charon-plugin}
here=$(cd "$(dirname "$0")/.." && pwd)/nf-ctl/charon-plugin
plugin=libstrongswan-kernel-nf-core.so

fail() {
	echo "charon-plugin: $1" >&2
	exit 1
}

# What a headers' configuration depends on is the upstream version; Debian's patches change no header.
version=$(dpkg-query -W -f '${source:Upstream-Version}' libstrongswan 2>/dev/null) ||
	fail "libstrongswan isn't installed; run: make deps-test"
mkdir -p "$out"
out=$(cd "$out" && pwd)
tree=$out/strongswan-$version

if [ ! -e "$tree/config.h" ]; then
	apt=$out/apt
	mkdir -p "$apt/lists/partial"
	# shellcheck disable=SC2016  # apt's variables
	apt-get indextargets --format \
		'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(RELEASE) $(COMPONENT)|$(ORIGIN)' \
		'Created-By: Packages' | sed -n 's/|Debian$//p' >"$apt/sources.list"
	[ -s "$apt/sources.list" ] || fail "apt knows no Debian archive; run: apt-get update"
	in_private() {
		apt-get -qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
			-o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt" -o APT::Sandbox::User=root "$@"
	}
	echo "charon-plugin: fetching the source of strongSwan $version"
	(
		cd "$apt"
		in_private update
		# Of the package's files only the upstream archive is needed, the same for all of Debian's revisions.
		in_private source --download-only --tar-only strongswan >/dev/null
	) || fail "the source package of strongSwan can't be had: no network, or an archive without sources"
	[ -e "$apt/strongswan_$version.orig.tar.bz2" ] ||
		fail "the archive has the source of another strongSwan than $version; run: apt-get upgrade"
	tar -C "$out" -xf "$apt/strongswan_$version.orig.tar.bz2"
	echo "charon-plugin: configuring its headers"
	(cd "$tree" && ./configure --disable-defaults --enable-charon --enable-ikev1 --enable-ikev2 >"$out/configure.log" 2>&1) ||
		fail "its headers can't be configured; see $out/configure.log"
fi

new=$(mktemp "$out/new.XXXXXX")
trap 'rm -f "$new"' EXIT
# -Wno-format: strongSwan's printf() has conversions of its own, such as %H for an address.
# shellcheck disable=SC2046  # lists of words
${CC:-cc} -std=gnu11 -shared -fPIC -O2 -g -Wall -Wextra -Werror -Wno-format -Wno-unused-parameter -Wno-sign-compare \
	-fvisibility=hidden -fstack-protector-strong -D_FORTIFY_SOURCE=2 \
	-include "$tree/config.h" -isystem "$tree/src/libstrongswan" -isystem "$tree/src/libcharon" \
	-o "$new" "$here"/*.c $(pkg-config --cflags --libs json-c) -Wl,-z,relro,-z,now
chmod 644 "$new"
mv "$new" "$out/$plugin"
echo "$out/$plugin"
