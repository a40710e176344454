#!/bin/sh
# One node of the cluster in separate namespaces: an overlay of the machine's file system, a host name, a network.
#   node.sh NAME ADDRESS head|client
set -eu
name=$1 address=$2 role=$3
hostname "$name"
mount --make-rprivate /
top=/srv/$name
mkdir -p "$top"
mount -t tmpfs -o size=1g "$name" "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay -o "index=on,nfs_export=on,lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
cd "$top/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p shared srv/shared etc/chef etc/systemd/system
echo "$name" >etc/hostname
printf '%s\n' '127.0.0.1 localhost' '10.9.0.1 head' >etc/hosts
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up

case $role in
head) node_type=HeadNode ;;
*) node_type=ComputeFleet ;;
esac
printf '{"cluster": {"node_type": "%s", "stack_name": "nfs", "region": "us-east-1", "ebs_shared_dirs": "/shared"}}\n' \
    "$node_type" >etc/chef/dna.json

if [ "$role" = head ]; then
    truncate -s 600M "$top/disk"
    mkfs.ext4 -q -m 0 -O ^has_journal "$top/disk"
    mount -o loop "$top/disk" shared
    chmod 1777 shared
    mount --bind shared srv/shared
    echo '/srv/shared 10.9.0.0/24(rw,no_root_squash,no_subtree_check,fsid=1)' >etc/exports
fi
mount --move . /
exec chroot . sh /lab/start.sh "$role"
