"""A stack that is built in a Slurm job: what the worker on the head node does, and what the job does."""
