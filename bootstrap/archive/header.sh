#!/bin/sh
# petal-node @VERSION@ (content @CONTENT@): this file is a program and a zip archive (unzip -l shows its content).
# Needs Python >= 3.9 and nothing else. Environment:
#   PETAL_PYTHON  the interpreter to use instead of the first one found
#   PETAL_PREFIX  for tests and image builds: goes before /usr, /opt and /var below
# Candidates are executed without a version check. If one is too old, the loader executes this file again with the
# candidate in PETAL_TRIED, after the number of this process, so that no interpreter is started twice.

boot='try:  # until a verb runs, Ctrl-C ends Python as it ends other programs, without a traceback
    from _signal import SIGINT, SIG_DFL, default_int_handler, getsignal, signal
    if getsignal(SIGINT) is default_int_handler:  # not ignored
        signal(SIGINT, SIG_DFL)
except ImportError:  # Python 2
    pass
import sys, zipimport
sys.argv[:1] = []
try:
    code = zipimport.zipimporter(sys.argv[0]).get_code("__main__")
except Exception as error:
    sys.stderr.write("petal-node: the archive is damaged: %s\n" % sys.argv[0])
    sys.stderr.write("why: %s\n" % (error,))
    sys.stderr.write("remedy: fetch it again and compare it with its .sha256 file\n")
    sys.exit(69)
exec(code)'

# The first line that ps shows: "# petal-node" and the verb.
title() {
    case ${1-} in
    *[!a-z]*) boot="# petal-node
$boot" ;;
    *) boot="# petal-node ${1-}
$boot" ;;
    esac
}

# Sets $self to the absolute path of this file.
find_self() {
    case $0 in
    /*) self=$0 ;;
    *) if [ -f "$0" ]; then self=${PWD:-.}/$0; else self=$(command -v -- "$0") || self=$0; fi ;;
    esac
}

# Executes Python ($1: the interpreter, then the arguments of the tool). Returns if this one cannot be used.
become() {
    python=$1
    shift
    case $PETAL_TRIED: in *":$python:"*) return ;; esac
    [ -f "$python" ] && [ -s "$python" ] && [ -x "$python" ] || return # a shell would run an empty file as a script
    PETAL_TRIED=$PETAL_TRIED:$python
    export PETAL_TRIED
    exec "$python" -I -S -X utf8 -c "$boot" "$self" "$@"
}

# True if root alone can change a path. `make dist` copies this function into the hook scripts.
is_trusted() (
    PATH=/usr/bin:/bin
    [ "$(id -u)" -eq 0 ] || exit 0
    path=$(readlink -f -- "$1" 2>/dev/null) || path=
    sticky='' # allowed above the path, as /tmp is, not for the path itself, in which users could make files
    # shellcheck disable=SC2086  # two words
    while [ -n "$path" ] && [ -n "$(find "$path" -prune -user 0 \( ! -perm -020 ! -perm -002 $sticky \))" ]; do
        [ "$path" != / ] || exit 0
        path=${path%/*} path=${path:-/} sticky='-o -perm -1000'
    done
    exit 1
)

# Refuses a path ($2) in a variable ($1) of root's environment that other users could change: sudo -E keeps a user's
# variables.
refuse_changeable() {
    is_trusted "$2" && return
    echo "petal-node: $1=$2 is not used by root: the path is missing, or other users could change it" >&2
    echo "remedy: unset $1" >&2
    exit 69
}

# The interpreter in PETAL_PYTHON is used or refused, never ignored.
become_chosen() {
    PETAL_PYTHON=$(command -v -- "$PETAL_PYTHON" || echo "$PETAL_PYTHON")
    refuse_changeable PETAL_PYTHON "$PETAL_PYTHON"
    if ! "$PETAL_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 9))' </dev/null >/dev/null 2>&1; then
        echo "petal-node: PETAL_PYTHON=$PETAL_PYTHON is not a Python >= 3.9" >&2
        echo "remedy: unset PETAL_PYTHON, or set it to the path of one" >&2
        exit 69
    fi
    exec "$PETAL_PYTHON" -I -S -X utf8 -c "$boot" "$self" "$@"
}

# Interpreters with the version in the name of the file or of ParallelCluster's directory.
become_named() {
    for minor in 13 12 11 10 9 14 15 16 17; do
        become "$prefix/usr/bin/python3.$minor" "$@"
        become "$prefix/usr/local/bin/python3.$minor" "$@"
    done
    for directory in "$prefix"/opt/parallelcluster/pyenv/versions/*/bin; do
        case $directory in */versions/3.9.*|*/versions/3.[1-9][0-9].*) become "$directory/python3" "$@" ;; esac
    done
}

become_from_path() {
    for name in python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.14 python3.15; do
        found=$(command -v "$name") && become "$found" "$@"
    done
}

# Prints which package of this distribution to install, and exits 69.
give_up() {
    tried=${PETAL_TRIED#"$$"} tried=${tried#:}
    release=
    # shellcheck source=/dev/null
    [ -r "$prefix/etc/os-release" ] && release=$(. "$prefix/etc/os-release" && echo "${ID-}:${VERSION_ID-}")
    case $release in
    rhel:8*|rocky:8*|almalinux:8*|centos:8*) install='dnf install -y python39' ;;
    rhel:*|rocky:*|almalinux:*|centos:*|fedora:*|amzn:2023*) install='dnf install -y python3' ;;
    ubuntu:20.04) install='apt-get install -y python3.9' ;;
    debian:*|ubuntu:*) install='apt-get install -y python3' ;;
    *) install='the package python3 (RHEL 8: python39; Ubuntu 20.04: python3.9)' ;;
    esac
    echo "petal-node: no Python >= 3.9 on this node (${tried:+too old: $tried; }looked in /usr, /opt/parallelcluster and PATH)" >&2
    echo "remedy: $install" >&2
    exit 69
}

find_self
title "$@"
case ${PETAL_TRIED-} in "$$":*) ;; *) PETAL_TRIED=$$ ;; esac
prefix=${PETAL_PREFIX-}
[ -z "$prefix" ] || refuse_changeable PETAL_PREFIX "$prefix"
[ -z "${PETAL_PYTHON-}" ] || become_chosen "$@"
become "$prefix/usr/bin/python3" "$@"
become_named "$@"
become_from_path "$@"
give_up # sh reads no further: what follows is the zip
