#!/bin/sh
# Put the files of a lab node where a ParallelCluster node has them. Runs during the image build.
set -eu
cd /opt/lab
install -D -m 0755 custom_action_executor.py fetch_and_run -t /opt/parallelcluster/scripts
install -D -m 0644 units/petal-lab-imds.service units/petal-lab-resolver.service -t /etc/systemd/system
install -D -m 0644 units/petal-lab.conf -t /etc/systemd/system.conf.d
chmod 0755 ./*.sh ./*.py
systemctl -q enable petal-lab-imds.service petal-lab-resolver.service
if [ -d /opt/slurm/etc ]; then
    install -m 0644 units/slurmctld.service units/slurmd.service -t /etc/systemd/system
    install -m 0644 slurm.conf -t /opt/slurm/etc
    # Slurm treats an empty prolog.d as a failed prolog.
    for when in prolog.d epilog.d; do
        install -m 0755 health_check.sh "/opt/slurm/etc/scripts/$when/90_pcluster_health_check_manager"
    done
    # Later versions of Slurm need an option to run without cgroups; Slurm 22.05 does not know it.
    case $(/opt/slurm/sbin/slurmd -V) in
        *' 22.'*) ;;
        *) echo CgroupPlugin=disabled >/opt/slurm/etc/cgroup.conf ;;
    esac
fi
# The phases "config" and "finalize" start these, as in ParallelCluster, not the boot.
for unit in munge slurmctld slurmd; do rm -f "/etc/systemd/system/multi-user.target.wants/$unit.service"; done
rm -f /etc/munge/munge.key /etc/fstab
# Each daemon-reload runs every generator. A node without disks, passwords and consoles needs only this one.
mkdir -p /etc/systemd/system-generators
for generator in /usr/lib/systemd/system-generators/*; do
    case $generator in
    */systemd-fstab-generator) ;;
    *) ln -s /dev/null "/etc/systemd/system-generators/${generator##*/}" ;;
    esac
done
mkdir -p /lab/shared /lab/cluster
