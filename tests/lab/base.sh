#!/bin/sh
# Make the lab's base image from Debian's packages, because an image registry may be unreachable.
#   base.sh [SUITE]     bookworm (default) or trixie; root, Docker and debootstrap are needed
# The image petal-lab-base:SUITE carries a hash of its recipe; it is made again only if the recipe changes.
# DEBIAN_MIRROR  where packages come from (http://deb.debian.org/debian)
# PYTHON         a Python with pip that fetches the image's wheels (python3)
set -eu
suite=${1:-bookworm}
image=petal-lab-base:$suite
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
here=$(cd "$(dirname "$0")" && pwd)
recipe=$(cat "$here/base.sh" "$here/provision.sh" "$here/requirements.txt" | sha256sum | cut -c1-16)

have=$(docker image inspect -f '{{index .Config.Labels "petal-lab.recipe"}}' "$image" 2>/dev/null || true)
if [ "$have" = "$recipe" ]; then
    echo "lab: $image is up to date" >&2
    exit 0
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/petal-node/lab/debs-$suite
work=$(mktemp -d /var/tmp/petal-lab-base.XXXXXX)
root=$work/root
mkdir -p "$cache" "$root"
cleanup() {
    umount "$root/proc" 2>/dev/null || true
    # Do not remove it while something is still mounted in it: that could be a directory of the host.
    if ! grep -q " $work/" /proc/mounts; then rm -rf "$work"; fi
}
trap cleanup EXIT

echo "lab: making $image ($suite, $mirror): debootstrap, packages, wheels; a minute or two" >&2
debootstrap --variant=minbase --include=ca-certificates --cache-dir="$cache" "$suite" "$root" "$mirror" \
    >"$work/debootstrap.host.log" 2>&1 || { tail -n 20 "$work/debootstrap.host.log" >&2; exit 1; }
{
    echo "deb $mirror $suite main"
    echo "deb $mirror $suite-updates main"
    if [ -z "${DEBIAN_MIRROR:-}" ]; then echo "deb http://deb.debian.org/debian-security $suite-security main"; fi
} >"$root/etc/apt/sources.list"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/opt/lab"
cp "$here/provision.sh" "$here/requirements.txt" "$root/opt/lab/"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # nothing starts in the chroot
chmod 0755 "$root/usr/sbin/policy-rc.d"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
find "$cache" -name '*.deb' -exec cp -lf -t "$root/var/cache/apt/archives" {} + 2>/dev/null || true
chroot "$root" sh /opt/lab/provision.sh packages >"$work/packages.log" 2>&1 ||
    { tail -n 20 "$work/packages.log" >&2; exit 1; }
find "$root/var/cache/apt/archives" -name '*.deb' -exec cp -lf -t "$cache" {} + 2>/dev/null || true

version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
machine=$(uname -m)
"${PYTHON:-python3}" -m pip download -qq --no-deps -d "$root/var/tmp/petal-lab-wheels" --only-binary=:all: \
    --python-version "$version" --platform "manylinux2014_$machine" --platform "manylinux_2_28_$machine" \
    -r "$here/requirements.txt"
chroot "$root" sh /opt/lab/provision.sh layout >"$work/layout.log" 2>&1 ||
    { tail -n 20 "$work/layout.log" >&2; exit 1; }
umount "$root/proc"
rm -f "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf"
touch "$root/etc/petal-lab-base"

tar -C "$root" -c . | docker import \
    -c "LABEL petal-lab.recipe=$recipe" -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    -m "petal-node lab, $suite" - "$image" >&2
