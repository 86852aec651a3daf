#!/usr/bin/env bash
# With the word `packages`: Debian's packages only, and the browser that the live page is tested in.
# Exit status 3: this machine cannot be made ready (no packages to be had); anything else but 0 is a fault of ours.
# Make a Debian machine ready for containers without an engine's service: podman, buildah, a base image of Debian's own, and the three images.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ]; then echo "make test-hospital needs root: it installs packages and makes networks" >&2; exit 3; fi
needed="podman buildah runc netavark aardvark-dns debootstrap iptables iproute2 nginx-light curl"
if [ "${1:-}" = packages ]; then needed="$needed chromium"; fi
missing=""
for package in $needed; do dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"; done
if [ -n "$missing" ]; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
        || { echo "Debian's packages$missing cannot be installed here" >&2; exit 3; }
fi
if [ "${1:-}" = packages ]; then exit 0; fi
# plain runc, and limits that a machine without systemd's defaults does not give
conf=/etc/containers/containers.conf
if [ ! -e "$conf" ]; then
    mkdir -p /etc/containers
    cat > "$conf" <<'CONF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
CONF
fi
base=localhost/fedmets-base:bookworm
if ! podman image exists "$base"; then
    root="$(mktemp -d)"
    trap 'rm -rf "$root"' EXIT
    # from where this machine's own packages come
    mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -1)"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,nginx-light bookworm "$root/fs" ${mirror:+"$mirror"} > "$root/log" || { tail -20 "$root/log" >&2; exit 3; }
    tar -C "$root/fs" -cf - . | podman import - "$base" >/dev/null
fi
make images BASE="$base"
