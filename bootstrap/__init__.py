"""petal-node: makes HPC software work on every node of an AWS ParallelCluster."""

__version__ = "0.1.0"
