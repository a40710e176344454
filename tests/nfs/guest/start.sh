#!/bin/sh
# The second half of node.sh, in the node's own root: the NFS server on the head node, then systemd.
set -eu
if [ "$1" = head ]; then
    mount -t nfsd nfsd /proc/fs/nfsd
    mkdir -p /run/rpc_pipefs /var/lib/nfs/nfsdcld
    mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
    nfsdcld
    # Instead of the default of 90 s: after this time the server frees the locks of a dead client.
    echo 10 >/proc/fs/nfsd/nfsv4leasetime
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    exportfs -ra
    rpc.nfsd -N 3 8
    rpc.mountd -N 2 -N 3
fi
# The tests do not need these units, and each delays every node by seconds: systemctl has a separate socket.
for unit in dbus.service dbus.socket systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done
cd /
export container=lab
exec /lib/systemd/systemd --log-target=null
