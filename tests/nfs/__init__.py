"""Real NFS: a small machine (user-mode Linux or QEMU) with a server, which is the head node, and two clients."""
