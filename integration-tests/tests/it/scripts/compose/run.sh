#!/bin/bash
# Runs docker-compose.yml as it is, on images that build.sh made: up, everything healthy, the site, one of each pair killed, the site again, a clean stop.
# A line "ok WHAT" for each thing that holds, "FAIL WHAT: …" for what does not.
#   run.sh PROJECT-FOLDER
set -u
cd "$1" || exit 1
compose() { docker-compose --project-name ibex-test "$@"; }
said=$(mktemp)

check() {
  local what=$1
  shift
  if "$@" >"$said" 2>&1; then
    echo "ok $what"
  else
    echo "FAIL $what: $(tail -c 1500 "$said")"
  fi
}

# Repeats a command until it succeeds, for at most 90 s.
until_true() {
  local deadline=$((SECONDS + 90))
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}

states() { docker ps --all --format '{{.Names}} {{.Status}}' --filter label=com.docker.compose.project=ibex-test; }
setups_done() { [ "$(states | grep -c -e '-setup_1 Exited (0)')" = 2 ]; }
all_healthy() { ! states | grep -v -e '-setup_1 ' | grep -v -F '(healthy)'; }
page() { curl --silent --show-error --fail --max-time 20 "http://127.0.0.1:8080$1"; }
front() { page / | grep -q '<article class="entry">'; }
entry() { page "$(page / | grep -o '/users/[a-z]*/[0-9]*\.html' | head -n 1)" | grep -q 'class="entry-title"'; }
# From the balancer to the journal, which names the storage node that the balancer then asks.
picture() { page "$(page / | grep -o '/userpic/[0-9]*/[0-9]*' | head -n 1)" | head -c 8 | grep -q -a PNG; }
# What was killed has ended by that, everything else by itself.
exits() {
  local name code wanted
  for name in $(states | cut -d ' ' -f 1); do
    code=$(docker inspect --format '{{.State.ExitCode}}' "$name")
    case " ${killed[*]} " in *" ${name} "*) wanted=137 ;; *) wanted=0 ;; esac
    [ "$code" = "$wanted" ] || { echo "$name ended with $code"; docker logs --tail 5 "$name"; return 1; }
  done
}

# Containers, a network and a published port of any kind; without them nothing can be said of ours.
if ! docker run --detach --name ibex-test-probe --publish 127.0.0.1:8080:8080 ibex-test-base:local sleep 60 >"$said" 2>&1; then
  echo "no container can be run here: $(tail -n 2 "$said")" >&2
  exit 77
fi
docker rm --force ibex-test-probe >/dev/null

check up compose up --detach --no-build
check setup until_true setups_done
check healthy until_true all_healthy
check front front
check entry entry
check picture picture
killed=()
for one in memcached1 gearmand1 mogilefsd1 mogstored1 journal1; do
  killed+=("ibex-test_${one}_1")
done
check killed docker kill "${killed[@]}"
check front-after until_true front
check entry-after until_true entry
check picture-after until_true picture
check stop compose stop --timeout 40
check exits exits
check down compose down --volumes
echo end
