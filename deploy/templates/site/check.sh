#!/bin/sh
# The doctor: the station's half without a network, the courier's without data, each in its own container; exits with the worse of the two.
#
#   sh check.sh [--json]        one JSON object a half, on a line that begins with {. COMPOSE="podman-compose" for Podman
cd "$(dirname "$0")" || exit 2
half() {
    service=$1
    shift
    ${COMPOSE:-docker compose} run --rm -T --no-deps --entrypoint fedmets "$service" "$@"
}
half station client check --site /kit/site.toml "$@"
station=$?
half courier deploy reach /kit "$@"
courier=$?
[ "$station" -gt "$courier" ] && exit "$station"
exit "$courier"
