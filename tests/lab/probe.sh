#!/bin/bash
# A hook that prints its arguments and its environment. Args: --event NAME, then any others.
umask 022
place=/var/log/parallelcluster/probe/$2
mkdir -p "$place"
cat "/proc/$$/environ" >"$place/environ"
printf '%s\0' "$@" >"$place/args"
printf '%s' "$0" >"$place/name"
pwd >"$place/cwd"
readlink "/proc/$$/fd/2" >"$place/stderr"
id -u >"$place/uid"
if mountpoint -q /shared; then echo mounted; elif [ -e /shared ]; then echo there; else echo absent; fi >"$place/shared"
command -v srun >"$place/srun" || echo none >"$place/srun"
if systemctl -q is-active munge; then # without munge each command takes 4 s
    /opt/slurm/bin/scontrol ping >"$place/ping" 2>&1
    /opt/slurm/bin/sinfo -h -N -o '%N %T' >"$place/sinfo" 2>&1
fi
systemctl is-active slurmd >"$place/slurmd"
echo "probe: $2"
echo "probe: hidden from the node's log" >&2
