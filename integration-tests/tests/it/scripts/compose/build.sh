#!/bin/bash
# Makes every image of docker-compose.yml without a registry: a base of the machine's own package sources, the built programs, a stand-in for MariaDB's.
#   build.sh FOLDER PROGRAMS-FOLDER PROJECT-FOLDER
# Exit 77: the base cannot be made here, the reason is on standard error.
set -eu -o pipefail
folder=$1 programs=$2 project=$3
here=$(dirname "$(readlink -f "$0")")
export DOCKER_BUILDKIT=1

cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources >"$folder/sources" 2>/dev/null || true
. /etc/os-release
driver=$(docker info --format '{{.Driver}}' 2>/dev/null)
if [ "$driver" != overlay2 ]; then
  echo "the engine would copy every image whole (storage driver $driver)" >&2
  exit 77
fi
if ! mmdebstrap --quiet --mode=root --variant=minbase --include=ca-certificates,mariadb-server "$VERSION_CODENAME" "$folder/base.tar" - <"$folder/sources"; then
  echo "no base image can be made of this machine's package sources" >&2
  exit 77
fi
docker import "$folder/base.tar" ibex-test-base:local >/dev/null
rm "$folder/base.tar"

mkdir -p "$folder/context/bin"
for program in ibex ibex-{memcached,gearmand,mogstored,mogilefsd,schwartzd,journal,perlbal}; do
  strip -o "$folder/context/bin/$program" "$programs/$program"
done
for short in memcached gearmand mogstored mogilefsd schwartzd journal perlbal tool; do
  docker build --quiet --network host -f "$project/deploy/docker/Dockerfile" --target "prebuilt-$short" --tag "ibex-$short:local" \
    --build-arg RUNTIME_BASE=ibex-test-base:local --build-arg BUILD_BASE=ibex-test-base:local --build-arg PREBUILT=bin "$folder/context" >/dev/null
done
docker build --quiet --network host --tag mariadb:11.8 --build-arg RUNTIME_BASE=ibex-test-base:local "$here/db" >/dev/null
