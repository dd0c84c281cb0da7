#!/bin/bash
# Runs a command beside a container engine of its own, in namespaces of its own: nothing of the machine's engine, network or /run is touched.
#   unshare --pid --fork --kill-child --mount-proc --mount [--net] bash engine.sh FOLDER ENGINE-FLAGS COMMAND…
# The namespace of processes ends them all with it. FOLDER keeps images between calls. Exit 77: no engine can run here, the reason is on standard error.
set -u -o pipefail
# The engine's own client, not one that somebody put before it.
export PATH=/usr/bin:/usr/sbin:/bin:/sbin
folder=$1 flags=$2
shift 2

give_up() { echo "$*" >&2; exit 77; }

mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/engine || give_up "no private mounts"
ip link set lo up 2>/dev/null
files=$(ulimit -Hn)
# shellcheck disable=SC2086
dockerd --data-root "$folder/data" --exec-root /run/engine/exec --pidfile /run/engine/pid -H unix:///run/engine/socket \
  --default-ulimit "nofile=$files:$files" $flags >"$folder/engine.log" 2>&1 &
engine=$!
export DOCKER_HOST=unix:///run/engine/socket
deadline=$((SECONDS + 60))
until docker version >/dev/null 2>&1; do
  if ! kill -0 "$engine" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
    kill "$engine" 2>/dev/null
    give_up "the engine does not start: $(tail -n 3 "$folder/engine.log")"
  fi
  sleep 0.1
done
"$@"
code=$?
kill "$engine"
wait "$engine"
exit "$code"
