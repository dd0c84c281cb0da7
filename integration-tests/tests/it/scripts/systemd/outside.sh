#!/bin/bash
# Boots this machine's own systemd as a container over a copy-on-write view of /, with the family's programs, units and example configurations in their
# places, and runs inside.sh in it. Called as root in new mount and network namespaces:
#   unshare --mount --net bash outside.sh EMPTY-FOLDER PROGRAMS-FOLDER DEPLOY-FOLDER INSIDE-SCRIPT
# Its answer is inside.sh's. Exit 77: no container can be booted here, the reason is on standard error.
set -u -o pipefail
work=$1 programs=$2 deploy=$3 inside=$4

give_up() { echo "$*" >&2; exit 77; }

mount --make-rprivate / || give_up "mounts cannot be made private"
ip link set lo up || give_up "no loopback"
umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup || give_up "no cgroup2"
mount -t tmpfs tmpfs "$work" && mkdir "$work"/{upper,work,root} || give_up "no tmpfs"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root" || give_up "no overlay"

root=$work/root
# What docs/ops/systemd.md says, in a machine that has neither configuration nor state of the family yet.
rm -rf "$root"/etc/{ibex,perlbal} "$root/var/lib/ibex" "$root/var/mogdata"
mkdir -p "$root"/etc/{ibex,perlbal,sysusers.d,tmpfiles.d,systemd/system} "$root/var/ibex-test" || exit 1
cp "$deploy"/sysusers.d/*.conf "$root/etc/sysusers.d/" || exit 1
cp "$deploy"/tmpfiles.d/*.conf "$root/etc/tmpfiles.d/" || exit 1
cp "$deploy/examples/perlbal.conf" "$root/etc/perlbal/" || exit 1
cp "$deploy"/systemd/*.{service,socket,slice,target} "$root/etc/systemd/system/" || exit 1
cp "$deploy"/examples/*.toml "$root/etc/ibex/" || exit 1
cp "$inside" "$root/var/ibex-test/inside.sh" || exit 1
binds=()
for program in "$programs"/ibex "$programs"/ibex-{memcached,gearmand,mogstored,mogilefsd,schwartzd,journal,perlbal}; do
  touch "$root/usr/bin/${program##*/}"
  binds+=("--bind-ro=$program:/usr/bin/${program##*/}")
done
# The watchdog in test time; everything else as shipped.
for unit in "$deploy"/systemd/ibex-*.service; do
  mkdir -p "$root/etc/systemd/system/${unit##*/}.d"
  printf '[Service]\nWatchdogSec=4\n' >"$root/etc/systemd/system/${unit##*/}.d/test.conf"
done
cat >"$root/etc/systemd/system/ibex-test.service" <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/bash /var/ibex-test/inside.sh
ExecStopPost=/bin/systemctl poweroff --no-block
StandardOutput=append:/var/ibex-test/answer
StandardError=append:/var/ibex-test/console
UNIT
cat >"$root/etc/systemd/system/ibex-test.target" <<'UNIT'
[Unit]
Requires=basic.target
After=basic.target
Wants=ibex-test.service
UNIT
ln -sf ibex-test.target "$root/etc/systemd/system/default.target"

timeout --kill-after=10 200 systemd-nspawn --quiet --register=no --keep-unit --machine=ibex-test --boot "${binds[@]}" -D "$root" </dev/null >"$work/console" 2>&1
code=$?
if [ ! -s "$root/var/ibex-test/answer" ]; then
  tail -n 30 "$work/console" >&2
  give_up "the container did not come up (exit $code)"
fi
grep -q '^skip: ' "$root/var/ibex-test/answer" && give_up "$(cat "$root/var/ibex-test/answer")"
cat "$root/var/ibex-test/answer"
