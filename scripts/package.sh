#!/bin/sh
# Builds the Debian package of nf-core and nf-ctl.
# Usage: package.sh [--bin DIRECTORY] [--version VERSION] [--fast] [OUT]; the package's name is the last line of the output.
#
# --bin takes programs that are built already. Without it, they are built optimised. --fast spares the time to compress well.
set -eu

cd "$(dirname "$0")/.."
bin=
compression=
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)-1
out=target/package
while [ $# -gt 0 ]; do
	case $1 in
	--bin) bin=$2 && shift ;;
	--version) version=$2 && shift ;;
	--fast) compression="-Zgzip -z1" ;;
	*) out=$1 ;;
	esac
	shift
done
if [ -z "$bin" ]; then
	"${CARGO:-cargo}" build --release -p nf-core -p nf-ctl
	bin=${CARGO_TARGET_DIR:-target}/release
fi
for program in nf-core nf-ctl; do
	[ -x "$bin/$program" ] || {
		echo "package: $bin/$program isn't there: build it first" >&2
		exit 1
	}
done

mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
doc=$root/usr/share/doc/nf-core
arch=$(dpkg --print-architecture)

install -D -m 755 "$bin/nf-core" "$root/usr/sbin/nf-core"
install -D -m 755 "$bin/nf-ctl" "$root/usr/bin/nf-ctl"
strip "$root/usr/sbin/nf-core" "$root/usr/bin/nf-ctl"
install -D -m 640 packaging/nf.toml "$root/etc/nf-core/nf.toml"
chmod 750 "$root/etc/nf-core"
install -D -m 644 packaging/logrotate "$root/etc/logrotate.d/nf-core"
for unit in nf-core nf-agent; do
	install -D -m 644 packaging/$unit.service "$root/lib/systemd/system/$unit.service"
done

mkdir -p "$root/usr/share/man/man1"
"$bin/nf-ctl" man "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*
complete() {
	mkdir -p "$root/$(dirname "$2")"
	"$bin/nf-ctl" completions "$1" >"$root/$2"
}
complete bash usr/share/bash-completion/completions/nf-ctl
complete zsh usr/share/zsh/vendor-completions/_nf-ctl
complete fish usr/share/fish/vendor_completions.d/nf-ctl.fish

install -D -m 644 packaging/60-nf-core.conf "$doc/examples/60-nf-core.conf"
install -D -m 644 docs/grafana/nf-core.json "$doc/examples/grafana.json"
install -m 644 packaging/debian/copyright "$doc/copyright"
for page in README.md docs/*.md; do
	gzip -9nc "$page" >"$doc/$(basename "$page").gz"
done
printf 'nf-core (%s) unstable; urgency=medium\n\n  * See README.md and the commits.\n\n -- nf-core maintainers <nf-core@localhost>  %s\n' \
	"$version" "$(date -uR)" | gzip -9n >"$doc/changelog.Debian.gz"
find "$root" -type d ! -path "$root/etc/nf-core" -exec chmod 755 {} +
find "$root/usr/share" -type f -exec chmod 644 {} +

# dpkg-shlibdeps wants a source package around it.
mkdir -p "$work/debian"
printf 'Source: nf-core\n\nPackage: nf-core\nArchitecture: any\n' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O root/usr/sbin/nf-core root/usr/bin/nf-ctl 2>"$work/shlibdeps.log") || {
	cat "$work/shlibdeps.log" >&2
	exit 1
}
mkdir "$root/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$(du -sk "$root" | cut -f1)/" \
	-e "s/@DEPENDS@/${depends#shlibs:Depends=}/" packaging/debian/control.in >"$root/DEBIAN/control"
printf '/etc/nf-core/nf.toml\n/etc/logrotate.d/nf-core\n' >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
	install -m 755 packaging/debian/$script "$root/DEBIAN/$script"
done
(cd "$root" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/conffiles" "$root/DEBIAN/md5sums"

package=$out/nf-core_${version}_$arch.deb
# shellcheck disable=SC2086  # a list of words
dpkg-deb --root-owner-group $compression --build "$root" "$package" >/dev/null
echo "$package"
