#!/bin/sh
# The common part of the hook scripts: finds the archive with the right checksum, verifies it, runs it.
#
#   on_node_EVENT.sh --package URI --sha256 HEX --config URI [--strict] [any argument of `petal-node hook`]
#
# Looks in this order: what this node has (/opt/petal-node), shared storage (<mount>/petal/archive/<sha256>), the network
# (s3:// with the AWS CLI, else ParallelCluster's boto3, else https; https:// with curl; file:// for image builds).
# Not a byte of the archive is executed before its checksum was verified on a copy that only root can write.
#
# Ends with 0 whatever fails, because a broken stack must not cost a node. With --strict it ends with the tool's code, or 1.
# A failure is told on stdout and stderr, in /var/log/petal-node.log and in /var/lib/petal-node/runs/<run id>.json.
#
# Environment:
#   PETAL_FETCH_SECONDS  what the network may take in all, retries included (default 60)
#   AWS_ENDPOINT_URL     another S3 (path style)
#   PETAL_PREFIX         for tests and image builds: goes before /opt, /var, /etc, /proc and mount points, and is handed
#                        to the tool as --root
#
# POSIX sh. ASCII only: ParallelCluster decodes stderr as UTF-8 and fails the node if it cannot.

MAX_BYTES=67108864 # an archive has 2 MB; what somebody put on shared storage must not fill the local disk

# ---------------------------------------------------------------------------------------------------- the flow

# $1 = event, then the hook's arguments.
main() {
    event=$1
    shift
    prepare
    parse "$@"
    check_arguments
    find_archive
    run_archive "$@"
}

prepare() {
    exec </dev/null
    umask 022
    PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/aws/bin
    export PATH
    prefix=${PETAL_PREFIX-}
    prefix=${prefix%/}
    home=$prefix/opt/petal-node
    incoming=$home/incoming
    package='' sha256='' strict='' archive='' region='' part=''
    started=$(utc)
    run_id=$(date -u +%Y%m%dT%H%M%S.%3NZ)-$(random_hex)
    trap 'clean_up' EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
    trap 'exit 129' HUP
}

clean_up() {
    [ -z "$part" ] || rm -f "$part" "$part".*
}

# Picks out what the fetch needs; everything goes to the tool as it came.
parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --package=*) package=${1#*=} ;;
        --sha256=*) sha256=${1#*=} ;;
        --strict) strict=yes ;;
        --package | --sha256)
            [ $# -gt 1 ] || { missing_value=$1 && return; }
            if [ "$1" = --package ]; then package=$2; else sha256=$2; fi
            shift
            ;;
        esac
        shift
    done
}

check_arguments() {
    usage='correct Args in the cluster configuration: --package URI --sha256 HEX --config URI [--strict]'
    [ -z "${missing_value-}" ] || fail hook-usage "the hook's arguments are incomplete" "$missing_value has no value" "$usage"
    [ -n "$package" ] || fail hook-usage "the hook's arguments are incomplete" "--package is not given" "$usage"
    [ -n "$sha256" ] || fail hook-usage "the hook's arguments are incomplete" "--sha256 is not given" "$usage"
    sha256=$(printf '%s' "$sha256" | tr 'A-F' 'a-f')
    case $sha256 in *[!0-9a-f]*) sha256=bad ;; esac
    [ ${#sha256} -eq 64 ] || fail hook-usage "--sha256 is not a SHA-256" "it must be 64 hexadecimal digits" \
        "take it from petal-node.sha256, which stands beside the archive"
    ! has_secret "$package" || fail hook-usage "--package cannot be used" "it holds a password or a signature, and everybody can list the arguments of a process" \
        "use s3://, and give this node's role the right to read it"
    case $package in
    s3://?*/?* | https://?*/?* | file:///?*) ;;
    *) fail hook-usage "--package cannot be used: $package" "only s3://, https:// and file:// are accepted" "$usage" ;;
    esac
}

# True if URL $1 has a user before its host, or a parameter that is a secret by itself.
has_secret() {
    authority=${1#*://}
    case ${authority%%/*} in *@*) return 0 ;; esac
    case $1 in https://*[?\&]*) ;; *) return 1 ;; esac
    printf '%s' "${1#*[?]}" | grep -Eqi '(^|&)([^=&]*(signature|token|credential|passw|secret|access.?key|api.?key)[^=&]*|sig|auth[^=&]*)='
}

# Sets $archive, or ends.
find_archive() {
    installed_archive && return
    make_incoming
    archive=$incoming/$sha256
    if regular "$archive" && verify "$archive"; then return; fi
    part=$incoming/.$sha256.$$
    rm -rf "$archive" "$part"
    shared_archive || network_archive
    { chmod 0755 "$part" && mv -f "$part" "$archive"; } || fail_local
}

# Runs the tool as a child: whatever becomes of it, this script decides how the hook ends.
run_archive() {
    code=0
    "$archive" hook "$event" "$@" ${prefix:+--root "$prefix"} || code=$?
    if [ $code -ge 126 ] && [ ! -e "$archive" ] && installed_archive; then # another hook moved it meanwhile
        code=0
        "$archive" hook "$event" "$@" ${prefix:+--root "$prefix"} || code=$?
    fi
    [ $code -ne 0 ] || exit 0
    case $code in
    69) reason="it found no Python >= 3.9, or could not unpack (its message is above)" ;;
    126 | 127) reason="it could not be executed (code $code)" ;;
    *) reason="it ended with code $code" && [ $code -le 128 ] || reason="signal $((code - 128)) ended it" ;;
    esac
    if [ -z "$strict" ] || [ $code -eq 69 ] || [ $code -ge 126 ]; then
        record archive-failed "petal-node hook $event did not finish" "$reason" "run: $archive hook $event, and read /var/log/petal-node.log"
    fi
    [ -n "$strict" ] || exit 0
    [ $code -lt 126 ] || exit 1
    exit $code
}

# ------------------------------------------------------------------------------------------- where archives are

# (a) What this node has already. Sets $archive.
installed_archive() {
    for candidate in "$home"/*/petal-node; do
        if regular "$candidate" && verify "$candidate"; then
            archive=$candidate
            return 0
        fi
    done
    return 1
}

# (b) Shared storage. It may hang, and anybody may have put something there: nothing is read from it without a deadline,
# and only the local copy is verified and used.
shared_archive() {
    shared_mounts | while IFS= read -r mount; do
        source=$prefix$mount/petal/archive/$sha256
        guarded 3 test -f "$source" || continue
        guarded 20 copy "$source" "$part" || continue
        verify "$part" && exit 3 # found: out of the pipe's subshell
        note "ignored $source: wrong checksum"
        rm -f "$part"
    done
    [ $? -eq 3 ]
}

# Mount points to look at, one a line: /shared, then every network file system.
shared_mounts() {
    echo /shared
    [ -r "$prefix/proc/mounts" ] || return 0
    while read -r _ point type _; do
        case $type in
        nfs | nfs4 | lustre | cifs | smb3 | ceph | beegfs* | gpfs | wekafs | fuse.*)
            [ "$point" = /shared ] || printf '%b\n' "$point"
            ;;
        esac
    done <"$prefix/proc/mounts"
}

# (c) The network, with growing pauses inside one budget.
network_archive() {
    deadline=$(($(date +%s) + $(budget)))
    find_region
    pause=1
    while :; do
        : >"$part.error" || fail_local
        download
        case $? in
        0) break ;;
        3) fail archive-missing "the package is not there: $package" "$(last_error)" "aws s3 cp dist/petal-node $package, or correct --package" ;;
        4) fail archive-forbidden "the package may not be read: $package" "$(last_error)" "$(forbidden_remedy)" ;;
        esac
        [ $(($(date +%s) + pause)) -lt "$deadline" ] || fail archive-unreachable "the package could not be fetched: $package" \
            "$(last_error)" "check the route to S3 (gateway endpoint, proxy, region), then run this hook again"
        note "fetching failed ($(last_error)), trying again in $pause s"
        sleep $pause
        pause=$((pause < 8 ? pause * 2 : 8))
    done
    verify "$part" || { rm -f "$part" && fail archive-checksum "the package has another checksum: $package" \
        "wanted $sha256, got $found_sha256; it was not executed" "upload the right file, or put its checksum into --sha256"; }
}

budget() {
    case ${PETAL_FETCH_SECONDS-} in
    '' | *[!0-9]*) echo 60 ;;
    *) echo "$PETAL_FETCH_SECONDS" ;;
    esac
}

forbidden_remedy() {
    case $package in
    s3://*) echo "give this node's role s3:GetObject on it (S3Access; login nodes: AdditionalIamPolicies); a wrong key also looks so" ;;
    *) echo "make it readable for this node" ;;
    esac
}

# ------------------------------------------------------------------------------------------------ one attempt
# Each gives 0 = $part is there, 3 = there is none (final), 4 = forbidden (final), 1 = try again.

download() {
    case $package in
    file://*) from_file "${package#file://}" ;;
    https://*) from_https "$package" --proto '=https' --proto-redir '=https' --tlsv1.2 ;;
    s3://*) from_s3 ;;
    esac
}

from_s3() {
    bucket=${package#s3://}
    key=${bucket#*/}
    bucket=${bucket%%/*}
    client='' result=1
    if command -v aws >/dev/null 2>&1; then
        client=aws && with_aws_cli && return 0 || result=$?
    fi
    if [ $result -eq 1 ] && find_boto3; then
        client=boto3 && with_boto3 && return 0 || result=$?
    fi
    # Without a client, or where a client has no credentials: the object may be public.
    if [ -n "$client" ] && ! { [ $result -eq 1 ] && grep -Eqi 'credentials' "$part.error"; }; then
        return $result
    fi
    if [ -n "${AWS_ENDPOINT_URL-}" ]; then
        from_https "${AWS_ENDPOINT_URL%/}/$bucket/$(quoted "$key")" # what the administrator set, http too
    else
        from_https "$(s3_url)" --proto '=https' --proto-redir '=https' --tlsv1.2
    fi
}

with_aws_cli() {
    AWS_PAGER='' bounded aws s3 cp --only-show-errors --cli-connect-timeout 5 --cli-read-timeout 20 \
        ${region:+--region "$region"} ${AWS_ENDPOINT_URL:+--endpoint-url "$AWS_ENDPOINT_URL"} "$package" "$part"
    judge $?
}

with_boto3() {
    bounded "$boto3" -I -c '
import sys, boto3
bucket, key, target, region, endpoint = sys.argv[1:]
try:
    boto3.client("s3", region_name=region or None, endpoint_url=endpoint or None).download_file(bucket, key, target)
except Exception as error:
    sys.exit(str(error).encode("ascii", "replace").decode())
' "$bucket" "$key" "$part" "$region" "${AWS_ENDPOINT_URL-}"
    judge $?
}

# ParallelCluster's Python with boto3: the version in its path changes with patch releases.
find_boto3() {
    for boto3 in "$prefix"/opt/parallelcluster/pyenv/versions/*/envs/cookbook_virtualenv/bin/python; do
        [ ! -x "$boto3" ] || return 0
    done
    return 1
}

# What the AWS CLI's or boto3's end means ($1 = its code).
judge() {
    [ "$1" -ne 0 ] || return 0
    rm -f "$part"
    if grep -Eq '\(404\)|NoSuchKey|NoSuchBucket' "$part.error"; then return 3; fi
    if grep -Eq '\(403\)|AccessDenied|Forbidden' "$part.error"; then return 4; fi
    return 1
}

# $1 = URL, then options of curl.
from_https() {
    command -v curl >/dev/null 2>&1 || { echo "neither aws nor boto3 nor curl is installed" >"$part.error" && return 1; }
    url=$1
    shift
    status=$(bounded curl --silent --show-error --fail --location --globoff --connect-timeout 5 --max-filesize $MAX_BYTES \
        --output "$part" --write-out '%{http_code}' "$@" "$url") && return 0
    rm -f "$part"
    case $status in
    404 | 410) return 3 ;;
    401 | 403) return 4 ;;
    *) return 1 ;;
    esac
}

s3_url() {
    case $region in cn-*) domain=amazonaws.com.cn ;; *) domain=amazonaws.com ;; esac
    case $bucket in
    *.*) echo "https://s3${region:+.$region}.$domain/$bucket/$(quoted "$key")" ;; # a dot breaks the wildcard certificate
    *) echo "https://$bucket.s3${region:+.$region}.$domain/$(quoted "$key")" ;;
    esac
}

from_file() {
    guarded 10 test -e "$1" || { echo "no such file, or its file system does not answer" >"$part.error" && return 3; }
    guarded 10 test -f "$1" || { echo "it is not a regular file" >"$part.error" && return 4; }
    guarded 10 test -r "$1" || { echo "it cannot be read" >"$part.error" && return 4; }
    guarded 30 copy "$1" "$part" && return 0
    echo "it cannot be copied to $incoming (disk full?)" >"$part.error"
    return 1
}

# --------------------------------------------------------------------------------------------- files and processes

# The directory for what was fetched: only root may look into it.
make_incoming() {
    mkdir -p "$home" 2>/dev/null || fail_local
    [ ! -L "$home" ] || fail_local
    (umask 077 && mkdir -p "$incoming") 2>/dev/null || fail_local
    { [ ! -L "$incoming" ] && [ "$(stat -c %u "$incoming")" = "$(id -u)" ] && chmod 0700 "$incoming"; } || fail_local
    find "$incoming" -type f -name '.*' -mmin +60 -exec rm -f {} + # what killed hooks left
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
    left=$((deadline - $(date +%s)))
    (umask 077 && exec timeout -k 2 $((left > 1 ? left : 1)) "$@" 2>"$part.error")
}

# Runs a command that may hang for good: $1 = seconds. It is given up even where it cannot be killed (a dead mount).
guarded() {
    seconds=$1
    shift
    answer=$(mktemp "$part.XXXXXX") || return 1 # a file each: a command that was given up may still end
    (
        umask 077
        code=0
        bounded_by "$seconds" "$@" || code=$?
        echo $code >"$answer.new" && mv -f "$answer.new" "$answer"
    ) </dev/null >/dev/null 2>&1 &
    ticks=0
    while [ ! -s "$answer" ]; do
        [ $ticks -lt $(((seconds + 2) * 50)) ] || return 124
        ticks=$((ticks + 1))
        sleep 0.02
    done
    return "$(cat "$answer")"
}

bounded_by() {
    limit=$1
    shift
    case $1 in
    copy) timeout -k 1 "$limit" head -c $MAX_BYTES -- "$2" >"$3" ;;
    *) timeout -k 1 "$limit" "$@" ;;
    esac
}

# ------------------------------------------------------------------------------------------------------- facts

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

# A key as part of a URL.
quoted() {
    printf '%s' "$1" | sed 's/%/%25/g; s/ /%20/g; s/+/%2B/g; s/#/%23/g; s/?/%3F/g; s/&/%26/g; s/=/%3D/g'
}
