"""How long petal-node waits for an operation, and how often it repeats one, in seconds.

The same kind of operation has the same time everywhere. Times with one use stay in the modules that use them, as do the
parts of a hook's budget (``cluster/limits.py``).
"""

from __future__ import annotations

REPORTS = 1.0  # the reports of all nodes from shared storage
PROBE = 5.0  # one look at shared storage or a directory that may be on it: it hangs if its server is down
LOOK = 8.0  # one input of a plan, which asks for all of them at once
WRITE = 10.0  # one record written to shared storage; systemd waits as long for a stopped unit
REQUEST = 15.0  # one object of a build cache that may be missing
COMMAND = 30.0  # a short program: squeue, sinfo, gcc -dumpversion, mount --bind
PROGRAM = 60.0  # a program that may start slowly: systemctl, mount, gpg, Python on NFS, one of check.run
DOCUMENT = 60.0  # one small file without which the run cannot continue: configuration, key, petal-node itself
LOCK = 120.0  # the lock of one node, which another run holds for minutes at most if it does not build
SCAN = 300.0  # the names and modes of all files of the releases or the store, on NFS
INDEX = 600.0  # Spack reads all recipes, or Lmod all modules, for the first time and on NFS
FLUSH = 900.0  # the data of an install reaches the disk
FETCH = 900.0  # one large tarball from S3, or to S3
SOLVE = 1800.0  # Spack solves a stack, or writes the modules of all packages
BULK = 7200.0  # the content of every file of a store: 50 GiB from a busy disk
PACK = 14_400.0  # Spack packs all packages of a stack, or unpacks them
INSTALL = 86_400.0  # Spack builds a stack; also the longest time of a build job

POLL = 2.0  # between two looks at Slurm's queue or nodes, or at a record
REFRESH = 5.0  # between two writes of a record of progress to shared storage, and two looks at it
HEARTBEAT = 60.0  # between two lines that say that a long operation continues

# Ages.
SILENCE = 120.0  # without a sign of life on shared storage; an NFS client may show it 60 s late (nfs(5), acregmax)
EXPIRY = 30 * 86_400.0  # after which the report of a node, or a file that was moved aside, is not needed
RECENT = 3600.0  # the age up to which a record or log may belong to a run that continues
