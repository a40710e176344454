#!/bin/sh
# The other half of the hook scripts: processes with a deadline, facts of this node, messages and records.
# POSIX sh, ASCII only. Sourced after fetch.sh, which explains the hook; `make dist` puts both into single files.
# shellcheck disable=SC2034,SC2154  # the two halves share their variables

# --------------------------------------------------------------------------------------------- files and processes

# The directory for what was fetched: only root may look into it.
make_incoming() {
    mkdir -p "$home" 2>/dev/null || fail_local
    [ ! -L "$home" ] || fail_local
    (umask 077 && mkdir -p "$incoming") 2>/dev/null || fail_local
    { [ ! -L "$incoming" ] && [ "$(stat -c %u "$incoming")" = "$(id -u)" ] && chmod 0700 "$incoming"; } || fail_local
    remove_left
}

# What killed hooks left: parts are named .SHA256.PID..., and their process is gone.
remove_left() {
    for left in "$incoming"/.[0-9a-f]*; do
        owner=${left##*/.}
        owner=${owner#*.}
        kill -0 "${owner%%.*}" 2>/dev/null || rm -f "$left"
    done
}

fail_local() {
    fail archive-local "the package cannot be kept under $home" "it is not a directory that root can write, or the disk is full" \
        "check it: ls -ld $home $incoming; df -h $home"
}

regular() {
    [ -f "$1" ] && [ ! -L "$1" ]
}

# True if file $1 has the wanted checksum; what it has is in $found_sha256.
verify() {
    found_sha256=$(sha256sum <"$1" 2>/dev/null) || found_sha256=unreadable
    found_sha256=${found_sha256%% *}
    [ "$found_sha256" = "$sha256" ]
}

# Runs a command of the network for what is left of the budget; its messages go to $part.error.
bounded() {
    clock
    left=$((deadline - now))
    (umask 077 && exec timeout -k 2 $((left > 1 ? left : 1)) "$@" 2>"$part.error")
}

# Runs a command that may hang for good: $1 = seconds. It is given up even where it cannot be killed (a dead mount); its
# process is then in $stuck.
guarded() {
    clock
    seconds=$((deadline - now < $1 ? deadline - now : $1))
    [ $seconds -gt 0 ] || return 1
    given_up=$((now + seconds + 2))
    shift
    answer=$(mktemp "$part.XXXXXX") || return 1 # a file each: a command that was given up may still end
    (
        umask 077
        code=0
        bounded_by "$seconds" "$@" || code=$?
        echo $code >"$answer.new" && mv -f "$answer.new" "$answer"
    ) </dev/null >/dev/null 2>&1 &
    while [ ! -s "$answer" ]; do
        clock
        [ "$now" -lt $given_up ] || { stuck=$! && return 124; }
        sleep 0.02
    done
    return "$(cat "$answer")"
}

bounded_by() {
    limit=$1
    shift
    case $1 in
    copy) timeout -k 1 "$limit" head -c "$MAX_BYTES" -- "$2" >"$3" ;;
    *) timeout -k 1 "$limit" "$@" ;;
    esac
}

# ------------------------------------------------------------------------------------------------------- facts

# Until when archives are looked for, in $deadline. A hook of a compute or login node waits for nobody; the tool has the
# rest of its 10 s.
set_deadline() {
    [ -n "$role" ] || find_role
    longest_pause=8
    case $role in
    compute | login) budget=6 patience=1 ;;
    *) budget=60 patience=3 ;;
    esac
    case ${PETAL_FETCH_SECONDS-} in '' | *[!0-9]*) ;; *) budget=$PETAL_FETCH_SECONDS ;; esac
    if [ -n "$again" ]; then budget=$LATER_SECONDS patience=3 longest_pause=30; fi
    clock
    deadline=$((now + budget))
}

# This node's role as far as its own files tell it, in $role.
find_role() {
    word=$(sed -n 's/.*"node_type"[[:space:]]*:[[:space:]]*"\([A-Za-z]*\)".*/\1/p' "$prefix/etc/chef/dna.json" 2>/dev/null | head -n 1)
    [ -n "$word" ] || word=$(sed -n 's/^cfn_node_type="\{0,1\}\([A-Za-z]*\).*/\1/p' "$prefix/etc/parallelcluster/cfnconfig" 2>/dev/null | head -n 1)
    case $word in
    HeadNode) role="head" ;;
    ComputeFleet) role=compute ;;
    LoginNode) role=login ;;
    esac
}

# Seconds since this machine booted, in $now: a clock that nobody sets.
clock() {
    read -r now _ </proc/uptime
    now=${now%.*}
}

# The cluster's region, in $region; S3 clients have no other way to know it in a hook.
find_region() {
    region=$(sed -n 's/.*"region"[[:space:]]*:[[:space:]]*"\([a-z0-9-]*\)".*/\1/p' "$prefix/etc/chef/dna.json" 2>/dev/null | head -n 1)
    [ -n "$region" ] || region=$(sed -n 's/^cfn_region="\{0,1\}\([a-z0-9-]*\).*/\1/p' "$prefix/etc/parallelcluster/cfnconfig" 2>/dev/null | head -n 1)
    [ -n "$region" ] || region=${AWS_REGION:-${AWS_DEFAULT_REGION-}}
}

utc() {
    date -u +%Y-%m-%dT%H:%M:%SZ
}

# A file below /proc/sys/kernel/random, of the prefix if it has one.
kernel_random() {
    cat "$prefix/proc/sys/kernel/random/$1" 2>/dev/null || cat "/proc/sys/kernel/random/$1" 2>/dev/null
}

random_hex() {
    kernel_random uuid | cut -c 1-6
}

# ---------------------------------------------------------------------------------------------------- telling it

note() {
    printf 'petal-node %s: %s\n' "$event" "$(ascii "$1")"
}

# Records a failure, tells it, and ends: 0, or 1 with --strict. $1 = code, $2 = what, $3 = why, $4 = remedy.
fail() {
    record "$@"
    [ -n "$strict" ] || exit 0
    exit 1
}

record() {
    told="petal-node $event: $(ascii "$2")
why: $(ascii "$3")
remedy: $(ascii "$4")"
    printf '%s\n' "$told"
    printf '%s\n' "$told" >&2
    write_log "$@" 2>/dev/null
    write_record "$@" 2>/dev/null
    return 0
}

write_log() {
    mkdir -p "$prefix/var/log" || return
    (umask 027 && printf '{"time":"%s","level":"error","run_id":"%s","step":null,"message":"%s","event":"%s","code":"%s","why":"%s","remedy":"%s"}\n' \
        "$(utc)" "$run_id" "$(json "$2")" "$event" "$1" "$(json "$3")" "$(json "$4")" >>"$prefix/var/log/petal-node.log")
}

write_record() {
    runs=$prefix/var/lib/petal-node/runs
    mkdir -p "$runs" || return
    {
        printf '{"format":1,"run_id":"%s","verb":"hook","event":"%s","role":null,' "$run_id" "$event"
        printf '"host":"%s","package":null,"pid":%d,"boot_id":"%s",' "$(json "$(uname -n)")" $$ "$(json "$(kernel_random boot_id)")"
        printf '"started":"%s","finished":"%s","status":"degraded","exit":1,"release":null,"steps":[],' "$started" "$(utc)"
        printf '"errors":[{"code":"%s","what":"%s","why":"%s","remedy":["%s"]}]}\n' "$1" "$(json "$2")" "$(json "$3")" "$(json "$4")"
    } >"$runs/.$run_id.new" && mv -f "$runs/.$run_id.new" "$runs/$run_id.json"
}

# The last line that a client wrote, short enough for a message.
last_error() {
    text=$(grep -v '^[[:space:]]*$' "$part.error" 2>/dev/null | tail -n 1 | cut -c 1-300)
    echo "${text:-no answer in time}"
}

# One line of printable ASCII.
ascii() {
    printf '%s' "$1" | LC_ALL=C tr '\n\r\t' '   ' | LC_ALL=C tr -c '\040-\176' '?'
}

# The inside of a JSON string.
json() {
    ascii "$1" | sed 's/[\\"]/\\&/g'
}

# Arguments as words that a shell reads back, each after a blank.
shell_words() {
    for word; do printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"; done
}

# A key as part of a URL.
quoted() {
    printf '%s' "$1" | sed 's/%/%25/g; s/ /%20/g; s/+/%2B/g; s/#/%23/g; s/?/%3F/g; s/&/%26/g; s/=/%3D/g'
}
