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
# What cannot be had in that time is left to a unit of its own (petal-node-fetch-*), which runs the hook again as soon as
# shared storage or the network has the archive: where nothing is installed yet, there is no timer that could.
#
# Environment:
#   PETAL_FETCH_SECONDS  what shared storage and the network may take in all, retries included (default 60; 6 on
#                        compute and login nodes, whose hooks end within 10 s)
#   AWS_ENDPOINT_URL     another S3 (path style)
#   PETAL_PREFIX         for tests and image builds: goes before /opt, /var, /etc, /proc and mount points, and is handed
#                        to the tool as --root
#
# POSIX sh. ASCII only: ParallelCluster decodes stderr as UTF-8 and fails the node if it cannot.
# shellcheck disable=SC2034,SC2154  # common.sh is the other half: the two share their variables

MAX_BYTES=67108864 # an archive has 2 MB; what somebody put on shared storage must not fill the local disk
LATER_SECONDS=3600 # how long such a unit goes on trying

# ---------------------------------------------------------------------------------------------------- the flow

# $1 = event, then the hook's arguments.
main() {
    event=$1
    shift
    prepare
    parse "$@"
    arguments=$(shell_words "$@")
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
    package='' sha256='' strict='' role='' archive='' region='' part='' stuck=''
    again=${PETAL_HOOK_AGAIN-} # in a unit of try_later: its directory
    unset PETAL_HOOK_AGAIN PETAL_HOOK_STARTED
    if [ -n "$again" ]; then
        exec >>"$prefix/var/log/petal-node-worker.log" 2>&1
    else
        read -r PETAL_HOOK_STARTED _ </proc/uptime # the tool counts the hook's time from here
        export PETAL_HOOK_STARTED
    fi
    started=$(utc)
    run_id=$(date -u +%Y%m%dT%H%M%S.%3NZ)-$(random_hex)
    trap 'clean_up' EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
    trap 'exit 129' HUP
}

clean_up() {
    [ -z "$part" ] || rm -f "$part" "$part".*
    [ -z "$again" ] || rm -rf "$again"
}

# Picks out what the fetch needs; everything goes to the tool as it came.
parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --package=*) package=${1#*=} ;;
        --sha256=*) sha256=${1#*=} ;;
        --role=*) role=${1#*=} ;;
        --strict) strict=yes ;;
        --package | --sha256 | --role)
            [ $# -gt 1 ] || { missing_value=$1 && return; }
            case $1 in --package) package=$2 ;; --sha256) sha256=$2 ;; --role) role=$2 ;; esac
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
    set_deadline
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
# and only the local copy is verified and used. A mount that hangs is not alone: the others are not asked then.
shared_archive() {
    [ -z "$stuck" ] || ! kill -0 "$stuck" 2>/dev/null || return 1
    mounts=$(shared_mounts)
    while IFS= read -r mount; do
        source=$prefix$mount/petal/archive/$sha256
        found=0
        guarded "$patience" test -f "$source" || found=$?
        [ $found -ne 124 ] || return 1
        [ $found -eq 0 ] || continue
        guarded $((patience * 6)) copy "$source" "$part" || continue
        verify "$part" && return
        note "ignored $source: wrong checksum"
        rm -f "$part"
    done <<MOUNTS
$mounts
MOUNTS
    return 1
}

# Mount points to look at, one a line: /shared, then every network file system but ParallelCluster's own.
shared_mounts() {
    echo /shared
    [ -r "$prefix/proc/mounts" ] || return 0
    while read -r _ point type _; do
        case $point in /shared | /home | /home/* | /opt/*) continue ;; esac
        case $type in
        nfs | nfs4 | lustre | cifs | smb3 | ceph | beegfs* | gpfs | wekafs | fuse.*) printf '%b\n' "$point" ;;
        esac
    done <"$prefix/proc/mounts"
}

# (c) The network, with growing pauses inside the budget. A unit that tries later takes no answer for the last one, and
# looks on shared storage too: the head node may have put the archive there meanwhile.
network_archive() {
    find_region
    pause=1
    until attempt; do
        [ -n "$again" ] || [ -z "$final" ] || give_up
        clock
        [ $((now + pause)) -lt "$deadline" ] || give_up
        note "fetching failed ($why), trying again in $pause s"
        sleep $pause
        pause=$((pause < longest_pause ? pause * 2 : longest_pause))
        if [ -n "$again" ] && shared_archive; then return; fi
    done
}

# One try; what failed stands in $error, $what, $why and $remedy, and $final says that trying again is of no use.
attempt() {
    : >"$part.error" || fail_local
    final=yes outcome=0
    download || outcome=$?
    case $outcome in
    0)
        verify "$part" && return
        rm -f "$part"
        failure archive-checksum "the package has another checksum: $package" \
            "wanted $sha256, got $found_sha256; it was not executed" "upload the right file, or put its checksum into --sha256"
        ;;
    3) failure archive-missing "the package is not there: $package" "$(last_error)" "aws s3 cp dist/petal-node $package, or correct --package" ;;
    4) failure archive-forbidden "the package may not be read: $package" "$(last_error)" "$(forbidden_remedy)" ;;
    *)
        final=''
        failure archive-unreachable "the package could not be fetched: $package" "$(last_error)" \
            "check the route to S3 (gateway endpoint, proxy, region), then run this hook again"
        ;;
    esac
    return 1
}

failure() {
    error=$1 what=$2 why=$3 remedy=$4
}

give_up() {
    [ -n "$strict$again" ] || [ ! -d "$prefix/run/systemd/system" ] || try_later
    fail "$error" "$what" "$why" "$remedy"
}

# Leaves the hook to a unit that runs it again, with this environment and a copy of this script (ParallelCluster deletes
# its own). Nothing of the unit holds the hook's stdout or stderr. It takes the place of an earlier hook's, which may take
# its time to end. A reboot ends it.
try_later() {
    later=$incoming/$run_id
    (
        umask 077
        timeout 2 systemctl --no-block stop 'petal-node-fetch-*'
        mkdir "$later" && cp "$0" "$later/hook.sh" || exit 1
        [ -z "${folder-}" ] || cp "$folder/fetch.sh" "$folder/common.sh" "$later/" || exit 1 # run from a checkout
        unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN # no key is kept on a disk; the role has its own
        {
            export -p
            echo "PETAL_HOOK_AGAIN=$later && export PETAL_HOOK_AGAIN"
            echo "exec /bin/sh $later/hook.sh$arguments"
        } >"$later/start.sh"
        timeout 2 systemd-run --quiet --collect --no-block --unit="petal-node-fetch-$run_id" /bin/sh "$later/start.sh"
    ) >/dev/null 2>&1 || return 0
    note "goes on trying for $((LATER_SECONDS / 60)) minutes: systemctl status 'petal-node-fetch-*'"
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
