"""Real NFS: a small machine in QEMU with a server, which is the head node, and two clients."""
