#!/bin/sh
# The second half of node.sh, in the node's own root: the NFS server on the head node, then systemd.
set -eu
if [ "$1" = head ]; then
    mount -t nfsd nfsd /proc/fs/nfsd
    mkdir -p /run/rpc_pipefs /var/lib/nfs/nfsdcld
    mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
    nfsdcld
    # What the default of 90 s would make of a dead client's lock, in seconds that a test can wait.
    echo 10 >/proc/fs/nfsd/nfsv4leasetime
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    exportfs -ra
    rpc.nfsd -N 3 8
    rpc.mountd -N 2 -N 3
fi
# Nothing here needs them, and each costs every node seconds: systemctl has a socket of its own.
for unit in dbus.service dbus.socket systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done
cd /
export container=lab
exec /lib/systemd/systemd --log-target=null
