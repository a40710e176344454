#!/bin/sh
# Turn a bare distribution into a ParallelCluster-like node image. Runs inside the image, as root:
#   provision.sh packages   the distribution's packages (apt or dnf; needs the network)
#   provision.sh layout     users, /opt/slurm, /opt/amazon/openmpi, launchers (offline)
# base.sh calls it in a chroot; Dockerfile.test calls it for bases from a registry.
set -eu

DEBIAN_PACKAGES="systemd systemd-sysv dbus python3 git gcc g++ gfortran make patch bzip2 xz-utils file
  perl-base tar gzip lmod slurm-wlm munge iproute2 procps dos2unix jq curl ca-certificates openmpi-bin
  libopenmpi-dev tcsh fish zsh strace unzip squashfs-tools sudo tclsh kmod bsdutils less
  libreadline-dev libncurses-dev tcl-dev pkgconf bc"
# Rocky 9 has Slurm, munge and Lmod in EPEL; Amazon Linux 2023 lacks all three, so it only runs hooks.
RPM_PACKAGES="systemd dbus python3 git gcc gcc-c++ gcc-gfortran make patch bzip2 xz file perl tar gzip iproute
  procps-ng dos2unix jq ca-certificates openmpi-devel tcsh zsh strace unzip squashfs-tools sudo tcl kmod
  util-linux hostname findutils which"
RPM_OPTIONAL="Lmod slurm slurm-slurmctld slurm-slurmd munge fish"

packages_apt() {
    # The lab needs no manuals and no translations: exclude both when dpkg unpacks.
    cat >/etc/dpkg/dpkg.cfg.d/90petal-lab <<'CFG'
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/groff/*
force-unsafe-io
CFG
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o Acquire::Languages=none update
    # shellcheck disable=SC2086  # a list of words
    apt-get -q -y -o APT::Install-Recommends=0 -o APT::Keep-Downloaded-Packages=1 install $DEBIAN_PACKAGES
}

packages_dnf() {
    if grep -q '^ID="rocky"' /etc/os-release; then dnf -y -q install epel-release dnf-plugins-core && dnf config-manager --set-enabled crb; fi
    # shellcheck disable=SC2086  # a list of words
    dnf -y -q --setopt=install_weak_deps=0 --setopt=tsflags=nodocs --allowerasing install $RPM_PACKAGES
    for package in $RPM_OPTIONAL; do
        dnf -y -q --setopt=install_weak_deps=0 install "$package" || echo "left out: $package" >&2
    done
    dnf clean all
}

packages() {
    # Create the users with ParallelCluster's ids before a package creates them with other ids.
    add_user pcluster-admin 400
    add_user slurm 401
    add_user munge 402
    if command -v apt-get >/dev/null; then packages_apt; else packages_dnf; fi
}

add_user() { # NAME UID
    getent group "$1" >/dev/null || groupadd -g "$2" "$1"
    getent passwd "$1" >/dev/null || useradd -u "$2" -g "$1" -d "/var/lib/$1" -M -s /usr/sbin/nologin "$1"
}

cluster_user() {
    if getent passwd 1000 >/dev/null; then userdel -r "$(getent passwd 1000 | cut -d: -f1)" 2>/dev/null || true; fi
    groupadd -f -g 1000 ec2-user
    # The home directory is created in the shared /home (node/phase.py).
    useradd -u 1000 -g 1000 -d /home/ec2-user -M -s /bin/bash ec2-user
    echo 'ec2-user ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/90-ec2-user
    chmod 0440 /etc/sudoers.d/90-ec2-user
}

# ParallelCluster builds Slurm into /opt/slurm; nothing of it is on a hook's PATH.
slurm_prefix() {
    [ ! -d /opt/slurm ] || return 0
    command -v slurmctld >/dev/null || { echo "no Slurm in this image: hooks only" >&2; return 0; }
    mkdir -p /opt/slurm/bin /opt/slurm/sbin /opt/slurm/etc/scripts/prolog.d /opt/slurm/etc/scripts/epilog.d
    for tool in srun sbatch scontrol sinfo squeue scancel salloc sacct sacctmgr sattach sbcast sdiag sprio \
        sreport sshare sstat strigger scrontab; do
        if [ -e "/usr/bin/$tool" ]; then mv "/usr/bin/$tool" /opt/slurm/bin/; fi
    done
    for daemon in slurmctld slurmd slurmstepd; do
        # slurmd starts slurmstepd by a path fixed at build time.
        if [ -e "/usr/sbin/$daemon" ]; then mv "/usr/sbin/$daemon" /opt/slurm/sbin/; fi
    done
    ln -s /opt/slurm/sbin/slurmstepd /usr/sbin/slurmstepd
    rm -rf /etc/slurm && ln -s /opt/slurm/etc /etc/slurm
    rm -f /lib/systemd/system/slurmd.service /lib/systemd/system/slurmctld.service
    cat >/opt/slurm/etc/slurm.sh <<'PROFILE'
PATH=$PATH:/opt/slurm/bin
PROFILE
    ln -s /opt/slurm/etc/slurm.sh /etc/profile.d/slurm.sh
}

# The EFA installer's place. mpirun finds its prefix from its own absolute path, so orted must be there too.
openmpi_prefix() {
    prefix=/opt/amazon/openmpi
    mkdir -p "$prefix/bin"
    if [ -d /usr/lib64/openmpi ]; then
        rmdir "$prefix/bin"
        ln -s /usr/lib64/openmpi/bin /usr/lib64/openmpi/lib "$prefix/"
        ln -s /usr/include/openmpi-* "$prefix/include"
        return
    fi
    for tool in mpirun mpiexec orterun orted prte prted mpicc mpicxx mpifort ompi_info; do
        if [ -e "/usr/bin/$tool" ]; then ln -s "/usr/bin/$tool" "$prefix/bin/$tool"; fi
    done
    for lib in /usr/lib/*/openmpi; do
        ln -s "$lib/lib" "$prefix/lib"
        ln -s "$lib/include" "$prefix/include"
    done
}

# ParallelCluster's Python: its version changes with patch releases, so no code may depend on it.
virtual_environments() {
    version=$(python3 -c 'import platform; print(platform.python_version())')
    cookbook=/opt/parallelcluster/pyenv/versions/$version/envs/cookbook_virtualenv
    wheels=/var/tmp/petal-lab-wheels
    if ! [ -d "$wheels" ]; then # a base from a registry: the network is there
        if command -v apt-get >/dev/null; then apt-get -q -y --no-install-recommends install python3-venv; fi
        python3 -m venv /var/tmp/pip
        /var/tmp/pip/bin/pip download -q -d "$wheels" -r /opt/lab/requirements.txt
        rm -rf /var/tmp/pip
    fi
    virtual_environment "$cookbook" boto3 requests PyYAML
    virtual_environment /opt/awscli awscli
    virtual_environment /opt/moto moto flask flask-cors py-partiql-parser PyYAML
    ln -sf /opt/awscli/bin/aws /usr/local/bin/aws
    rm -rf "$wheels"
}

virtual_environment() { # PREFIX REQUIREMENT...
    prefix=$1
    shift
    python3 -m venv --without-pip "$prefix"
    # pip runs from its wheel and is not installed.
    "$prefix/bin/python3" "$(echo "$wheels"/pip-*.whl)/pip" install -q --no-index --find-links "$wheels" \
        --no-warn-script-location --root-user-action ignore --no-cache-dir "$@"
}

trim() {
    rm -rf /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /var/cache/apt/archives/*.deb \
        /var/lib/apt/lists/* /var/log/*.log /var/log/apt /etc/machine-id /var/cache/debconf/*-old
    : >/etc/machine-id
}

# Disable units that a container does not need, and units that ParallelCluster starts later.
quiet_units() {
    systemctl mask -q systemd-udevd.service systemd-logind.service getty.target console-getty.service \
        systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
        fstrim.timer dpkg-db-backup.timer systemd-resolved.service || true
    systemctl disable -q munge.service 2>/dev/null || true
}

layout() {
    mkdir -p /opt/parallelcluster/tmp /opt/parallelcluster/scripts /etc/parallelcluster /etc/chef \
        /var/log/parallelcluster
    cluster_user
    slurm_prefix
    openmpi_prefix
    virtual_environments
    quiet_units
    trim
}

"$1"
