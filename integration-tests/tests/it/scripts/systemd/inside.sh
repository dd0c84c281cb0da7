#!/bin/bash
# Inside the container: takes every unit through its life. A line "ok UNIT WHAT" for each thing that holds, "FAIL UNIT WHAT: …" for what does not.
set -u

show() { systemctl show --value -p "$2" "ibex-$1"; }

# Repeats a command until it succeeds, for at most 60 s.
until_true() {
  local deadline=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

check() {
  local unit=$1 what=$2
  shift 2
  if "$@" >/var/ibex-test/said 2>&1; then
    echo "ok $unit $what"
  else
    echo "FAIL $unit $what: $(tail -c 600 /var/ibex-test/said | tr '\n' '|')"
    systemctl status --no-pager -n 15 "ibex-$unit" 2>&1 | sed 's/^/    /'
  fi
}

ready() { [ "$(curl -s -m 5 "http://127.0.0.1:$1/readyz")" = ok ]; }
active_anew() { [ "$(show "$1" ActiveState)" = active ] && [ "$(show "$1" MainPID)" != "$2" ] && [ "$(show "$1" MainPID)" != 0 ]; }
not_root() { ! [ "$(stat -c %u "/proc/$(show "$1" MainPID)")" = 0 ]; }
no_capability() { grep -q '^CapBnd:[[:space:]]*0000000000000000$' "/proc/$(show "$1" MainPID)/status"; }
restarted() { until_true active_anew "$1" "$2"; }
logged() { journalctl --no-pager -u "ibex-$1" | grep -q "$2"; }
killed() { local pid; pid=$(show "$1" MainPID); kill -9 "$pid" && restarted "$1" "$pid" && [ "$(show "$1" NRestarts)" -ge 1 ]; }
stalled() { local pid; pid=$(show "$1" MainPID); kill -STOP "$pid" && restarted "$1" "$pid" && until_true logged "$1" 'Watchdog timeout'; }
# The reload is over when the daemon says so, which is after systemctl has sent the signal.
reloaded() { systemctl reload "ibex-$1" && until_true logged "$1" 'configuration reloaded' && until_true is_active "$1"; }
is_active() { [ "$(show "$1" ActiveState)" = active ]; }
same_process() { [ "$(show "$1" MainPID)" = "$2" ]; }
stopped() { systemctl stop "ibex-$1" && [ "$(show "$1" Result)" = success ] && [ "$(show "$1" ExecMainStatus)" = 0 ] && until_true logged "$1" ' bye$'; }
has_fields() { journalctl --no-pager -o json -u "ibex-$1" | grep '"MESSAGE":"listening' | grep -q '"F_LISTENER":"'; }
has_status() { [ -n "$(show "$1" StatusText)" ]; }

life() {
  local unit=$1 port=$2 pid
  check "$unit" start systemctl start "ibex-$unit"
  [ "$(show "$unit" ActiveState)" = active ] || return
  check "$unit" ready until_true ready "$port"
  check "$unit" unprivileged not_root "$unit"
  check "$unit" capabilities no_capability "$unit"
  check "$unit" status until_true has_status "$unit"
  check "$unit" journal until_true has_fields "$unit"
  pid=$(show "$unit" MainPID)
  check "$unit" reload reloaded "$unit"
  check "$unit" reload-keeps-process same_process "$unit" "$pid"
  check "$unit" killed killed "$unit"
  check "$unit" ready-again until_true ready "$port"
  check "$unit" watchdog stalled "$unit"
  check "$unit" ready-after-watchdog until_true ready "$port"
}

# A machine that refuses even /bin/true in this sandbox says nothing about the units.
sandbox=(DynamicUser=yes PrivateUsers=yes PrivateDevices=yes PrivateTmp=yes ProtectSystem=strict ProtectProc=invisible ProcSubset=pid
  ProtectKernelTunables=yes RestrictNamespaces=yes MemoryDenyWriteExecute=yes SystemCallFilter=@system-service)
if ! systemd-run --quiet --wait "${sandbox[@]/#/--property=}" /bin/true >/var/ibex-test/said 2>&1; then
  echo "skip: this machine has no sandbox for units: $(tail -n 1 /var/ibex-test/said)"
  exit
fi

life memcached 9811
life gearmand 9815
life mogstored 9814
life mogilefsd 9813
life schwartzd 9816
life journal 9818
life perlbal 9812
for unit in perlbal journal schwartzd mogilefsd mogstored gearmand memcached; do
  check "$unit" stop stopped "$unit"
done

# Socket activation: the first client starts the daemon, is served, and the port survives the process.
version() { [ "$(printf 'version\n' | timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/4730; cat >&3; head -n 1 <&3')" != "" ]; }
check gearmand socket systemctl start ibex-gearmand.socket
check gearmand socket-starts-it until_true version
check gearmand socket-active until_true is_active gearmand
check gearmand socket-killed killed gearmand
check gearmand socket-serves-again until_true version
systemctl stop ibex-gearmand.socket ibex-gearmand.service
echo end
