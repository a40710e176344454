"""Real NFS: a small machine of its own (user-mode Linux) with a server, which is the head node, and two clients."""
