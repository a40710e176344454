"""The lab: a ParallelCluster-like cluster in containers."""
