#!/bin/sh
# The machine's first process: kernel modules, one bridge for all nodes, then the agent that the tests talk to.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs nodes /srv
mount -t cgroup2 cgroup2 /sys/fs/cgroup
modprobe -a loop ext4 overlay veth bridge nfsd nfs nfsv4
hostname machine
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
/lab/petal-node version # everything is unpacked and compiled; this reads it once for all nodes
ln -s /var/cache/petal-node/*-x86_64 /lab/tree
exec python3 /lab/agent.py
