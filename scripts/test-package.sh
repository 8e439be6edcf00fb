#!/bin/sh
# Installs, starts, upgrades and removes the Debian package, in an overlay of this host that nothing of stays behind.
# Usage: test-package.sh BIN; BIN is the directory of the built programs. Needs root.
set -eu

cd "$(dirname "$0")/.."
not_run() {
	echo "NOT RUN: the test of the package: $1" >&2
	exit 0
}
fail() {
	echo "test-package: $1" >&2
	exit 1
}

if [ "${NF_PACKAGE_STAGE:-}" = "" ]; then
	[ "$(id -u)" = 0 ] || not_run "it needs root"
	for tool in dpkg-deb dpkg-shlibdeps unshare python3; do
		command -v $tool >/dev/null || not_run "there is no $tool"
	done
	# A mount namespace of its own: what is mounted there ends with it.
	unshare --mount true 2>/dev/null || not_run "this root may not make mount namespaces, as in a container"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	bin=$(cd "$1" && pwd)
	old=$(scripts/package.sh --fast --bin "$bin" --version 0.0.9-1 "$work/packages" | tail -n 1)
	new=$(scripts/package.sh --fast --bin "$bin" --version 0.1.0-1 "$work/packages" | tail -n 1)
	mkdir "$work/mnt"
	NF_PACKAGE_STAGE=overlay NF_WORK=$work NF_OLD=$old NF_NEW=$new unshare --mount --pid --fork "$0"
	exit
fi

if [ "$NF_PACKAGE_STAGE" = overlay ]; then
	mount --make-rprivate /
	mount -t tmpfs tmpfs "$NF_WORK/mnt"
	mkdir "$NF_WORK/mnt/upper" "$NF_WORK/mnt/work" "$NF_WORK/mnt/root"
	root=$NF_WORK/mnt/root
	mount -t overlay -o "lowerdir=/,upperdir=$NF_WORK/mnt/upper,workdir=$NF_WORK/mnt/work" overlay "$root" ||
		not_run "this kernel mounts no overlay here"
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount --rbind /sys "$root/sys"
	mount -t tmpfs tmpfs "$root/run"
	mkdir "$root/packages"
	cp "$NF_OLD" "$NF_NEW" scripts/test-package.sh "$root/packages/"
	NF_OLD=/packages/$(basename "$NF_OLD") NF_NEW=/packages/$(basename "$NF_NEW") NF_PACKAGE_STAGE=inside \
		exec chroot "$root" /packages/test-package.sh
fi

# From here on: inside.
export DEBIAN_FRONTEND=noninteractive NF_LOG=info
cd /
# The index of manual pages takes minutes, and nothing here asks for it.
rm -f /var/lib/man-db/auto-update

echo "package: install"
dpkg -i "$NF_OLD" >/dev/null || fail "it can't be installed"
[ "$(dpkg-query -W -f '${Status} ${Version}' nf-core)" = "install ok installed 0.0.9-1" ] || fail "it isn't installed"
getent group nf-core >/dev/null || fail "there is no group nf-core"
[ "$(stat -c '%a %G' /etc/nf-core)" = "750 nf-core" ] || fail "/etc/nf-core is open to others"
nf-core check --config /etc/nf-core/nf.toml >/dev/null || fail "the default configuration isn't sound"
for file in /usr/share/man/man1/nf-core.1.gz /usr/share/man/man1/nf-ctl-sa-add.1.gz \
	/usr/share/bash-completion/completions/nf-ctl /usr/share/doc/nf-core/troubleshooting.md.gz; do
	[ -s "$file" ] || fail "$file is missing"
done
if command -v bash >/dev/null; then
	bash -n /usr/share/bash-completion/completions/nf-ctl || fail "bash can't read the completions"
fi
if command -v systemd-analyze >/dev/null; then
	for unit in nf-core nf-agent; do
		systemd-analyze verify --man=no /lib/systemd/system/$unit.service || fail "$unit.service isn't sound"
		# 0 is safest, 10 is worst.
		exposure=$(systemd-analyze security --offline=true --no-pager /lib/systemd/system/$unit.service | sed -n 's/.*Overall exposure level for .*: \([0-9.]*\) .*/\1/p')
		echo "package: $unit.service: exposure $exposure"
		[ "${exposure%%.*}" -le 3 ] || fail "$unit.service is exposed: $exposure"
	done
else
	echo "NOT RUN: systemd-analyze verify and security: there is no systemd-analyze" >&2
fi
[ -d /run/systemd/system ] || echo "NOT RUN: the units under systemd itself: it isn't what this host was started by; their commands are run by hand" >&2

# What the unit does, by hand: its directories, its command, its sockets.
cat >/etc/nf-core/nf.toml <<'CONFIG'
[eal]
args = ["--no-huge", "--no-pci", "-m", "256", "--vdev=net_null0,no-rx=1", "--vdev=net_null1,no-rx=1"]
cores = [0]
idle = "sleep"
[control]
group = "nf-core"
audit_file = "/var/log/nf-core/audit.jsonl"
[[port]]
name = "net_null0"
role = "unprotected"
[[port]]
name = "net_null1"
role = "protected"
CONFIG
mkdir -p /run/nf-core /var/log/nf-core
cat >/packages/start.py <<'PYTHON'
"""Starts a service as systemd does, waits for what it has to say, and leaves it running: its process on stdout."""
import os, socket, subprocess, sys, time
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("/run/notify")
listener.settimeout(30)
seconds = 1
def environment():
    os.environ.update(NOTIFY_SOCKET="/run/notify", RUNTIME_DIRECTORY="/run/nf-core",
                      WATCHDOG_USEC=str(seconds * 1000000), WATCHDOG_PID=str(os.getpid()))
log = open("/run/log", "ab")
service = subprocess.Popen(["sh", "-c", "export WATCHDOG_PID=$$; exec " + sys.argv[1]], preexec_fn=environment, stdout=log, stderr=log)
messages = [listener.recv(4096).decode() for _ in range(4)]
assert messages[0].startswith("READY=1\nSTATUS=1 workers"), messages
assert messages[1:] == ["WATCHDOG=1"] * 3, messages
os.unlink("/run/notify")
print(service.pid)
PYTHON
command_line=$(sed -n 's/^ExecStart=//p' /lib/systemd/system/nf-core.service)
start() {
	pid=$(/usr/bin/python3 /packages/start.py "$command_line") || {
		cat /run/log >&2
		fail "nf-core doesn't start"
	}
}
echo "package: start"
start
nf-ctl show status >/dev/null || fail "nf-ctl finds no nf-core"
[ "$(stat -c '%a %G' /run/nf-core/nf-core.sock)" = "660 nf-core" ] || fail "the socket isn't the group's"
[ -S "$(find /run/nf-core/dpdk -name 'dpdk_telemetry.v2' | head -n 1)" ] || fail "DPDK's files aren't in RUNTIME_DIRECTORY"
nf-ctl show tech-support | grep -q 'workers: 1' || fail "there is no tech-support"
echo '[notify]
inv_spi_interval_s = 30' >>/etc/nf-core/nf.toml
# As the unit has it.
reload=$(sed -n 's/^ExecReload=//p' /lib/systemd/system/nf-core.service)
$reload | grep -q 'taken over: \[notify\]' || fail "it isn't reloaded"
grep -q '"request":"reload".*"result":"done"' /var/log/nf-core/audit.jsonl || fail "the reload isn't recorded"

echo "package: upgrade"
dpkg --force-confold -i "$NF_NEW" >/dev/null || fail "it can't be upgraded"
[ "$(dpkg-query -W -f '${Version}' nf-core)" = 0.1.0-1 ] || fail "it isn't upgraded"
grep -q inv_spi_interval_s /etc/nf-core/nf.toml || fail "the upgrade changed the configuration"
kill -0 "$pid" || fail "the upgrade ended nf-core"
nf-ctl show status >/dev/null || fail "the new nf-ctl can't speak with the nf-core that runs"
kill -TERM "$pid"
tries=0
while kill -0 "$pid" 2>/dev/null; do
	tries=$((tries + 1))
	[ $tries -lt 100 ] || fail "SIGTERM doesn't end nf-core"
	sleep 0.1
done
start
kill -TERM "$pid"

echo "package: remove"
touch /etc/nf-core/branch.psk
dpkg -r nf-core >/dev/null || fail "it can't be removed"
[ ! -e /usr/sbin/nf-core ] && [ ! -e /lib/systemd/system/nf-core.service ] || fail "programs or units stay behind"
[ -e /etc/nf-core/nf.toml ] || fail "to remove it takes the configuration away"
dpkg -P nf-core >/dev/null || fail "it can't be purged"
[ ! -e /etc/nf-core/nf.toml ] && [ ! -e /var/log/nf-core ] || fail "to purge it leaves files behind"
[ -e /etc/nf-core/branch.psk ] || fail "to purge it takes the operator's keys away"
echo "package: ok"
