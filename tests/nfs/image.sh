#!/bin/sh
# Make the machine's kernel and root file system from Debian's packages: image.sh DIRECTORY uml|qemu
# writes DIRECTORY/kernel and DIRECTORY/root.cpio.gz. It installs nothing on the host.
#   uml   Debian's user-mode-linux, a kernel that is a program; its C library is stored next to it. Versions older
#         than 6.16 do not know seccomp=, and fail on a processor with AVX-512.
#   qemu  Debian's kernel for any PC
# DEBIAN_MIRROR  where packages come from (http://deb.debian.org/debian)
set -eu
target=$(mkdir -p "$1" && cd "$1" && pwd)
suite=bookworm
case $2 in
uml) kernel_suite=forky kernel_package=user-mode-linux kernel_modules=usr/lib/uml/modules ;;
qemu) kernel_suite=$suite kernel_package=linux-image-amd64 kernel_modules=lib/modules ;;
esac
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=python3,nfs-kernel-server,nfs-common,kmod,iproute2,procps,lmod,systemd,systemd-sysv,dbus
modules="nfsd nfs nfsv4 overlay loop ext4 veth bridge"

cache=$target/../debs-$suite
work=$(mktemp -d /var/tmp/petal-nfs.XXXXXX)
root=$work/root
mkdir -p "$cache" "$root"
cache=$(cd "$cache" && pwd)
cleanup() {
    # Do not remove it while something is still mounted in it: that could be a directory of the host.
    if ! grep -q " $work/" /proc/mounts; then rm -rf "$work"; fi
}
trap cleanup EXIT
quietly() { "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }; }

quietly debootstrap --variant=minbase --include="$packages" --cache-dir="$cache" "$suite" "$root" "$mirror"

printf '%s\n' "deb $mirror $kernel_suite main" >"$root/etc/apt/sources.list"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/kernel"
# shellcheck disable=SC2016 # expanded in the chroot
quietly chroot "$root" sh -ec '
    apt-get -q -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false update # mirrors may be outdated
    cd /kernel
    apt-get -q download $(apt-cache depends --important "$1" | sed "s/.* //") # with its direct dependencies
    for package in ./*.deb; do dpkg-deb -x "$package" .; done
    mv "$2" /lib/modules
    version=$(ls /lib/modules)
    depmod "$version"' -- "$kernel_package" "$kernel_modules"
version=$(ls "$root/lib/modules")
case $2 in
uml)
    rm -rf "${target:?}/lib"
    cp -a "$root/kernel/usr/lib/x86_64-linux-gnu" "$target/lib"
    patchelf --set-interpreter "$target/lib/ld-linux-x86-64.so.2" --set-rpath "$target/lib" \
        --output "$target/kernel" "$root/kernel/usr/bin/linux.uml"
    ;;
qemu) cp "$root/kernel/boot/vmlinuz-$version" "$target/kernel" ;;
esac

# Keep only the loaded modules with their dependencies; remove documentation, locales and package lists.
# shellcheck disable=SC2016,SC2086 # expanded in the chroot; a list
quietly chroot "$root" sh -ec '
    version=$1; shift
    mkdir /slim
    for module; do
        modprobe -S "$version" --show-depends "$module"
    done |
        sed -n "s/^insmod \([^ ]*\).*/\1/p" | sort -u | xargs cp --parents -t /slim
    cp "/lib/modules/$version"/modules.builtin* "/lib/modules/$version"/modules.order "/slim/lib/modules/$version/"
    rm -rf "/lib/modules/$version"
    mv "/slim/lib/modules/$version" "/lib/modules/$version"
    depmod "$version"' -- "$version" $modules
# Mask units that nodes do not need: hardware, logins, existing mounts, and NFS's own units.
for unit in apt-daily-upgrade.timer apt-daily.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    console-getty.service getty@tty1.service systemd-logind.service kmod-static-nodes.service modprobe@.service \
    systemd-modules-load.service systemd-sysctl.service systemd-udevd.service systemd-udev-trigger.service \
    systemd-journal-flush.service systemd-sysusers.service systemd-tmpfiles-clean.timer systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-user-sessions.service systemd-remount-fs.service \
    systemd-timesyncd.service systemd-networkd.service systemd-resolved.service \
    dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount proc-fs-nfsd.mount run-rpc_pipefs.mount nfs-blkmap.service nfs-client.target \
    nfs-idmapd.service nfs-mountd.service nfs-server.service nfsdcld.service rpc-gssd.service rpc-statd-notify.service \
    rpc-statd.service rpcbind.service rpcbind.socket; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
rm -rf "$root/kernel" "$root/slim" "$root/var/lib/apt/lists" "$root/var/cache/apt" "$root/etc/resolv.conf"
rm -rf "$root/usr/share/doc" "$root/usr/share/man" "$root/usr/share/locale" "$root/usr/share/i18n"
rm -rf "$root/usr/lib/x86_64-linux-gnu/gconv" "$root/usr/lib/udev/hwdb.bin" "$root/var/lib/dpkg/info"
find "$root/usr/lib/python3.11" -name '*.pyc' -delete
chroot "$root" python3 -m compileall -q /usr/lib/python3.11 || true # saves seconds at each start of Python in the machine

(cd "$root" && find . -print0 | cpio --null --quiet -o -H newc | gzip -1) >"$work/root.cpio.gz"
mv "$work/root.cpio.gz" "$target/root.cpio.gz"
