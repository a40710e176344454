"""Names of modules that exclude each other."""

from __future__ import annotations

# Modules of these names are an MPI: a shell has one of them at a time.
MPI = frozenset({"openmpi", "mpich", "mvapich2", "intelmpi", "intel-oneapi-mpi"})
