"""MPI across nodes: what each rank does (rank), what is made of it (judge), and the job (proof)."""

from __future__ import annotations

# Modules of these names are an MPI: a shell has one of them at a time.
MPI = frozenset({"openmpi", "mpich", "mvapich2", "intelmpi", "intel-oneapi-mpi"})
