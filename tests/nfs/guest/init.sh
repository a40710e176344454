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
modprobe -a virtio_pci virtio_console virtio_rng loop ext4 overlay veth bridge nfsd nfs nfsv4
hostname machine
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
# Unpacked and compiled here once, for all nodes: each start of Python costs this machine seconds.
/lab/petal-node version
ln -s /var/cache/petal-node/*-x86_64 /lab/tree
python3 -c 'import sys; sys.path.insert(0, "/lab/tree"); import bootstrap.run, jinja2, psutil, tenacity, yaml'
exec python3 /lab/agent.py
