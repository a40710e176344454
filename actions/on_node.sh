#!/bin/sh
# The custom actions of ParallelCluster: find the archive of petal-node, verify its checksum, run `petal-node hook EVENT`.
# `make dist` makes dist/on_node_start.sh, on_node_configured.sh and on_node_updated.sh of this file.
#
#   on_node_EVENT.sh --package URI --sha256 HEX --config URI [--strict] [any option of `petal-node hook`]
#
# The archive is on this node (/opt/petal-node), on shared storage (<mount>/petal/archive/<sha256>) or at --package (s3:// by
# the AWS CLI, https:// by curl, file://). Nothing is executed before the checksum of a copy that only root can write was
# verified. If the archive cannot be fetched, petal-node-hook.service runs this hook again until it can.
#
# The exit code is 0 whatever fails, because a failed custom action terminates the node; with --strict it is the tool's, 2 for
# wrong arguments, or 1. A failure is one line on stdout, on stderr and in /var/log/petal-node.log.
#
#   PETAL_FETCH_SECONDS  time to find the archive (default: 60; 6 on compute and login nodes, whose hooks end within 10 s)
#   AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, HTTPS_PROXY, NO_PROXY, AWS_CA_BUNDLE, ...: as for the tool (docs/configuration.md)
#   PETAL_PREFIX         for tests and image builds: prefix of every path; the tool gets it as --root
#
# POSIX sh. ASCII only: ParallelCluster decodes stderr as UTF-8, and a byte that is not UTF-8 fails the node.

event=@EVENT@
MAX_BLOCKS=131072 # 64 MiB; an archive has 2. Limits what a server or a file on shared storage can write to the disk.
SECRETS='signature|token|credential|passw|secret|access.?key|api.?key' # parts of the names of parameters of a URL

exec </dev/null
umask 022
PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/aws/bin
export PATH
prefix=${PETAL_PREFIX-} prefix=${prefix%/}
home=$prefix/opt/petal-node
incoming=$home/incoming
retry=$incoming/retry
unit=$prefix/etc/systemd/system/petal-node-hook.service
facts="$prefix/etc/chef/dna.json $prefix/etc/parallelcluster/cfnconfig"
package='' sha256='' strict='' role='' child=''
retrying=${PETAL_HOOK_RETRY-}
unset PETAL_HOOK_RETRY
read -r PETAL_HOOK_STARTED _ </proc/uptime # the tool subtracts the time of this script from its own limit
export PETAL_HOOK_STARTED
part=$incoming/.part.$$
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; rm -f "$part" "$part".*' EXIT
trap 'exit 143' TERM INT HUP

# Reads and checks the arguments that this script needs; the tool gets all of them.
read_arguments() {
    option=''
    for word; do
        case $option in --package) package=$word ;; --sha256) sha256=$word ;; --role) role=$word ;; esac
        case $word in --package=*) package=${word#*=} ;; --sha256=*) sha256=${word#*=} ;; --role=*) role=${word#*=} ;; --strict) strict=yes ;; esac
        option=$word
    done
    usage='correct Args in the cluster configuration: --package URI --sha256 HEX --config URI [--strict]' why=''
    [ -n "$sha256" ] || why='--sha256 is missing'
    [ -n "$package" ] || why='--package is missing'
    case $option in --package | --sha256 | --role) why="$option has no value" ;; esac
    [ -z "$why" ] || fail hook-usage "the arguments cannot be used" "$why" "$usage"
    sha256=$(printf '%s' "$sha256" | tr 'A-F' 'a-f')
    case $sha256 in *[!0-9a-f]*) sha256=bad ;; esac
    [ ${#sha256} -eq 64 ] || fail hook-usage "--sha256 is not a SHA-256" "it must be 64 hexadecimal digits" \
        "copy it from petal-node.sha256, in the directory of the archive"
    ! printf '%s' "$package" | grep -Eqi "://[^/]*@|https://.*[?&]([^=&]*($SECRETS)[^=&]*|sig|auth[^=&]*)=" || fail hook-usage \
        "--package cannot be used" "it contains a password or a signature, and every user can list the arguments of a process" \
        "use s3://, and give the role of this node the right to read it"
    case $package in
    s3://?*/?* | https://?*/?* | file:///?*) ;;
    *) fail hook-usage "--package cannot be used: $package" "only s3://, https:// and file:// are accepted" "$usage" ;;
    esac
}

# Sets $archive to a verified file, or ends.
find_archive() {
    kept_archive "$home"/*/petal-node && return
    make_incoming
    kept_archive "$incoming/$sha256" && return
    set_deadline
    archive=$incoming/$sha256
    rm -rf "$archive"
    from_storage || from_package
    locally chmod 0755 "$part"
    locally mv -f "$part" "$archive"
}

# True if one of these files has the checksum; it is then in $archive.
kept_archive() {
    for candidate; do
        [ -f "$candidate" ] && [ ! -L "$candidate" ] && has_checksum "$candidate" && archive=$candidate && return
    done
    return 1
}

has_checksum() {
    echo "$sha256  $1" | sha256sum -c --status - 2>/dev/null
}

# Only root can read or write the directory for downloads.
make_incoming() {
    locally mkdir -p "$home"
    locally mkdir -p -m 0700 "$incoming"
    [ ! -L "$home" ] && [ ! -L "$incoming" ] || fail_local "$home or $incoming is a link"
    [ "$(stat -c %u "$incoming")" = "$(id -u)" ] || fail_local "$incoming belongs to another user"
    locally chmod 0700 "$incoming"
    find "$incoming" -maxdepth 1 -name '.part.*' -mmin +60 -exec rm -f {} + # of killed hooks
}

# Until when the archive is looked for. The hook of a compute or login node ends within 10 s, with the tool.
set_deadline() {
    budget=60
    # shellcheck disable=SC2086  # two files
    ! grep -Eqs '^cfn_node_type="?(ComputeFleet|LoginNode)|"node_type"[[:space:]]*:[[:space:]]*"(ComputeFleet|LoginNode)"' $facts || budget=6
    case $role in head) budget=60 ;; compute | login) budget=6 ;; esac
    case ${PETAL_FETCH_SECONDS-} in
    '') ;;
    0* | *[!0-9]* | ?????*) note "ignored PETAL_FETCH_SECONDS: it must be 1 to 9999" ;;
    *) budget=$PETAL_FETCH_SECONDS ;;
    esac
    patience=$((budget / 20 + 1)) # seconds for the first answer of a mount; a client tries as often before it gives its reason
    [ -z "$retrying" ] || budget=60
    clock
    deadline=$((now + budget))
}

# Seconds since boot, in $now. This clock is never set back.
clock() {
    read -r now _ </proc/uptime
    now=${now%.*}
}

# Runs a command for at most $1 seconds. A process in a dead mount cannot be killed: it is left alone 2 s later.
limited() {
    clock
    seconds=$((deadline - now < $1 ? deadline - now : $1))
    [ $seconds -gt 0 ] || return 124
    end=$((now + seconds + 2))
    shift
    (ulimit -f $MAX_BLOCKS && exec timeout -k 1 "$seconds" "$@") &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        clock
        [ "$now" -lt $end ] || { child='' && return 124; }
        sleep 0.05
    done
    status=0
    wait "$child" || status=$?
    child=''
    return $status
}

# Copies the archive from the first storage that has it: /shared, one that the cluster declares, or the one that this node
# has used. Other mounts may be those of a user. If one hangs, the others are not tried.
from_storage() {
    {
        echo /shared
        # shellcheck disable=SC2086  # two files
        grep -Ehos '(ebs|efs|fsx|raid)_shared_dirs?"?[[:space:]]*[:=][[:space:]]*["'\'']?[^"'\'']*' $facts |
            sed 's/.*[:="'\'']//' | tr -s ', ' '[\n*]' | sed -n 's/^\/*\([^/]\)/\/\1/p'
        sed -n 's/^ *"mount": "\(\/[^"]*\)".*/\1/p' "$prefix/var/lib/petal-node/storage.json" 2>/dev/null
    } | {
        while IFS= read -r mount; do
            source=$prefix$mount/petal/archive/$sha256 answer=0
            limited $patience test -f "$source" >/dev/null 2>&1 || answer=$?
            case $answer in 0) ;; 1) continue ;; *) break ;; esac
            limited $((patience * 6)) cat -- "$source" >"$part" 2>/dev/null || continue
            has_checksum "$part" && exit 0
            note "ignored $source: wrong checksum"
        done
        exit 1
    }
}

# The name of a variable with a proxy that no client can use, in $bad_proxy. curl would try it until its time is over, and the
# AWS CLI would print a part of the password.
find_bad_proxy() {
    bad_proxy=$(env | grep -Ei '^(https?|all)_proxy=.' | grep -Eivm 1 \
        '^[^=]*=([a-z0-9]+://)?([^]/?#@[:space:]["]*@)?([^]/?#@[:space:]["{}:]+|\[[0-9a-f:.]+\])(:[0-9]+)?(/[^@]*)?$') || :
    bad_proxy=${bad_proxy%%=*}
}

# The authorities that the tool trusts, in $ca: those of the system, and of the files and directories in the variables of any
# program. A client would load no authority of a file in which one is damaged: such a file is ignored.
collect_authorities() {
    ca=$part.ca
    set -- /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem
    IFS=:
    for place in "${AWS_CA_BUNDLE-}" "${REQUESTS_CA_BUNDLE-}" "${CURL_CA_BUNDLE-}" "${SSL_CERT_FILE-}" ${SSL_CERT_DIR-}; do
        for file in "$place" "${place:-/dev/null}"/*; do [ ! -f "$file" ] || set -- "$@" "$file"; done
    done
    unset IFS
    certificates "$@"
    can_load "$ca" && return
    for file; do
        shift
        if can_load "$file"; then
            set -- "$@" "$file"
        elif grep -qs 'BEGIN .*CERTIFICATE' "$file"; then
            note "ignored $file: a certificate in it is damaged"
        fi
    done
    certificates "$@"
    [ -s "$ca" ] || ca=''
}

certificates() { sed -n '/-----BEGIN [A-Z ]*CERTIFICATE-----/,/-----END/{s/^.*-----BEGIN/-----BEGIN/;p;}' "$@" 2>/dev/null >"$ca"; }
can_load() { ! command -v openssl >/dev/null || openssl crl2pkcs7 -nocrl -certfile "$1" >/dev/null 2>&1; }

from_package() {
    locally tee "$part.error" "$part.connect" # empty: the input of this script is /dev/null
    outcome=0
    collect_authorities
    kept=$incoming/.part.$sha256 # what an earlier try fetched
    mv -f "$kept" "$part" 2>/dev/null || locally cp /dev/null "$part"
    begun=$(wc -c <"$part")
    find_bad_proxy
    case $package in
    file://*) limited 30 cat -- "${package#file://}" >"$part" 2>"$part.error" || outcome=$? ;;
    s3://*) from_s3 || outcome=$? ;;
    https://*)
        limited "$budget" curl --silent --show-error --fail --location --globoff --proto '=https' --tlsv1.2 \
            ${ca:+--cacert "$ca"} --connect-timeout 5 --retry 6 ${bad_proxy:+--retry 0} --retry-connrefused --retry-max-time "$budget" \
            --continue-at - --output "$part" --write-out '%{http_connect}' "$package" >"$part.connect" 2>"$part.error" || outcome=$?
        ;;
    esac
    has_checksum "$part" && return
    if [ "$begun" -gt 0 ] && { [ $outcome -eq 0 ] || grep -Eq '\(33\)|error: 416|InvalidRange' "$part.error"; }; then
        from_package # from the start: the kept part is of another object, or the server cannot continue it
        return
    fi
    [ $outcome -eq 0 ] || fail_fetch
    actual=$(sha256sum <"$part")
    keep_trying
    fail fetch-checksum "$package has another checksum and was not executed" "expected $sha256, got ${actual%% *}" \
        "upload the right file, or correct --sha256"
}

# get-object, because HeadObject of `aws s3 cp` has no reason in its answer. The client retries by itself and follows the
# region that S3 names. Without credentials the object may still be public.
from_s3() {
    region=$(tr -d '\n' 2>/dev/null <"$prefix/etc/chef/dna.json" | # of the cluster, not of an object in it or after it
        sed -En 's/"cluster"[[:space:]]*:[[:space:]]*\{/\n/; s/^.*\n//; :a; s/\{[^{}]*\}//g; ta; s/\}.*//; s/.*"region"[[:space:]]*:[[:space:]]*"([a-z0-9-]+)".*/\1/p')
    [ -n "$region" ] || region=$(sed -n 's/^cfn_region="\{0,1\}\([a-z0-9-]*\).*/\1/p' "$prefix/etc/parallelcluster/cfnconfig" 2>/dev/null | head -n 1)
    key=${package#s3://} bucket='' endpoint=${AWS_ENDPOINT_URL_S3:-${AWS_ENDPOINT_URL-}}
    case $key in arn:*:accesspoint/*) bucket=${key%%/*}/ key=${key#*/} ;; esac
    bucket=$bucket${key%%/*} key=${key#*/} range=''
    direct=${no_proxy:-${NO_PROXY-}} metadata=${AWS_EC2_METADATA_SERVICE_ENDPOINT-} metadata=${metadata#*://} # never through a proxy
    [ "$direct" = '*' ] || direct="${direct:+$direct,}169.254.169.254,[fd00:ec2::254]${metadata:+,${metadata%%/*}}"
    [ "$begun" -eq 0 ] || range=bytes=$begun-
    rm -f "$part.new"
    for unsigned in '' --no-sign-request; do
        result=0
        limited "$budget" env AWS_PAGER= AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=$((patience + 2)) AWS_METADATA_SERVICE_NUM_ATTEMPTS=$((patience + 1)) \
            no_proxy="$direct" NO_PROXY="$direct" ${ca:+AWS_CA_BUNDLE="$ca"} aws s3api get-object $unsigned --cli-connect-timeout 5 \
            --cli-read-timeout 20 ${region:+--region "$region"} ${endpoint:+--endpoint-url "$endpoint"} \
            ${range:+--range "$range"} --bucket "$bucket" --key "$key" "$part.new" \
            >/dev/null 2>>"$part.error" || result=$?
        { [ "$result" -ne 0 ] && grep -q 'locate credentials' "$part.error"; } || break
    done
    if [ "$begun" -eq 0 ]; then
        mv -f "$part.new" "$part" 2>/dev/null || true # a disk may have no room for two copies
    elif [ -e "$part.new" ]; then
        cat "$part.new" 2>>"$part.error" >>"$part" || result=1
    fi
    return "$result"
}

# The reason that a client gives, on one line: the last line of a traceback, else the first line, with the next one if it
# ends with a colon. Without credentials S3 refuses the second client for another reason. Warnings count if nothing else is there.
reason_of() {
    LC_ALL=C awk '
        /^[[:space:]]*$/ || /^(usage:|To see help|  aws )/ || (warned && /^[[:space:]]/) { next }
        { warned = 0 }
        /[Ww]arning/ { warned = 1; if (warning == "") warning = $0; next }
        /^Traceback/ && reason == "" { traced = 1 }
        traced { reason = $0; next }
        reason == "" || reason ~ /:$/ { reason = reason (reason == "" ? "" : " ") $0 }
        END { print reason == "" ? warning : reason }' "$1" | cut -c 1-600
}

fail_fetch() {
    reason=$(reason_of "$part.error")
    full=$(LC_ALL=C head -c 8192 /dev/zero 2>&1 >"$part.room") || reason=$full # the client's own message may be lost then
    clock
    case $outcome in 124 | 137) [ "$now" -lt "$deadline" ] || outcome=124 reason=${reason:-no answer within $budget s} ;; esac
    [ -z "$(find "$part" -size +65535k 2>/dev/null)" ] || reason='it is larger than 64 MiB'
    case $reason:$bad_proxy in # a reason with a secret in it
    *'header value'*) reason='the credentials contain a character that no header may have' ;;
    *'Unsupported proxy'*:?* | *'Failed to parse'*:?* | *'Invalid IPv6 URL'*:?* | *'proxy URL'*:?*) reason="$bad_proxy is not the URL of a proxy" ;;
    esac
    # without names; an identity-based policy is that of the role
    words=$(printf '%s' "$reason" | sed 's/"[^"]*"//g; s/arn:[^ ]*//g; s/^cat: .*: //; s/because no identity-based//')
    connect=$(cat "$part.connect" 2>/dev/null) # what a proxy answered to CONNECT: curl may print it as the answer of the server
    case $outcome:$connect in 126:* | 127:* | 137:*) words='broken client' ;; 22:[345]* | 56:[345]*) words="proxy: $connect" ;; esac
    right=$(printf '%s' "$words" | sed -n 's/.*because no \([A-Za-z -]*\) allows the \([A-Za-z0-9:]*\).*/\2 in the \1/p')
    case $package in https:*) url=$package ;; *) url=${endpoint:-https://s3.${region:-us-east-1}.amazonaws.com} ;; esac
    object="--bucket $bucket --key '$key'" path=${package#file://}
    explain "${package%%:*}: $words"
    case $code in file-* | fetch-too-large) ;; *) [ ! -s "$part" ] || mv -f "$part" "$kept" ;; esac # the next try continues it
    keep_trying
    fail "$code" "$package could not be fetched" "${reason:-code $outcome}" "$remedy"
}

# Sets $code and $remedy for a reason ($1). The first row that matches counts. Words of the kernel are about the file of a
# file://, and for other packages about the client and its own files.
explain() {
    code=fetch-unreachable
    access='give the role of this node s3:GetObject on it (S3Access; login nodes: AdditionalIamPolicies), and check the key'
    broken='check that aws or curl is installed and runs (aws --version), and has memory (journalctl -k) and a /tmp without noexec'
    keys='aws sts get-caller-identity; correct or unset AWS_PROFILE, AWS_CONFIG_FILE (credential_process), AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN'
    case $1 in
    *'No space left on device'*) code=file-no-space remedy="df -h $home; df -i $home" ;;
    *'Disk quota exceeded'*) code=file-quota remedy="quota -v; df -h $home" ;;
    *'larger than'*) code=fetch-too-large remedy="upload the archive of make dist, or correct --package" ;;
    file:*'No such file'* | file:*' directory') code=fetch-missing remedy="correct --package: ls -ld '$path'" ;;
    file:*'ermission denied' | file:*'not permitted') code=fetch-forbidden remedy="ls -ld '$path'" ;;
    file:*) remedy="findmnt -T '$path'" ;;
    *'config file'*) code=fetch-no-credentials remedy="correct the file that AWS_CONFIG_FILE names, or ~/.aws/config" ;;
    *'occurred ()'*) code=fetch-refused remedy="it is not an answer of S3: check HTTPS_PROXY, HTTP_PROXY, NO_PROXY and AWS_ENDPOINT_URL" ;;
    *'reached max retries'* | *'error: 5'[0-9][0-9]* | *'error: 408'* | *'error: 429'*) remedy="the server is busy: try again later" ;;
    *'explicit deny'*) code=fetch-forbidden remedy="correct that Deny statement: it counts more than the rights of the role" ;;
    *TooSkewed* | *RequestExpired* | *'est has expired'* | *'ture expired'* | *'ture not yet'*) code=fetch-refused remedy="timedatectl; chronyc makestep" ;;
    *InvalidObjectState*' tier'*) code=fetch-refused remedy="aws s3api restore-object $object --restore-request '{}'" ;;
    *InvalidObjectState*) code=fetch-refused remedy="aws s3api restore-object $object --restore-request Days=7" ;;
    *[Rr]equester?[Pp]ays*) code=fetch-refused remedy="copy it into a bucket of yours (aws s3 cp --request-payer requester)" ;;
    *'(KMS.'[!A]*) code=fetch-forbidden remedy="enable the KMS key, cancel its deletion, or encrypt the object with another key" ;;
    *'because no '*[a-z]' allows '*) code=fetch-forbidden remedy="allow $right" ;;
    *kms:[A-Z]* | *KMS*) code=fetch-forbidden remedy="allow kms:Decrypt on the key, in the policies of the key and of the role of this node" ;;
    *HeaderMalformed* | *Redirect\)* | *'(30'[1-8]\)* | *IllegalLocation* | *IncorrectEnd*) code=fetch-region remedy="correct AWS_REGION and AWS_ENDPOINT_URL" ;;
    *NoSuchBucket* | *NoSuchAccess* | *InvalidBucket* | *'Parameter valid'*) code=fetch-missing remedy="correct --package, or create the bucket" ;;
    *\(404\)* | *'error: 404'* | *'error: 410'* | *NoSuchKey*) code=fetch-missing remedy="upload it (aws s3 cp dist/petal-node $package), or correct --package" ;;
    *'locate cred'* | *iam-role*) code=fetch-no-credentials remedy="give the instance a role that may read it; its metadata service (169.254.169.254) must answer" ;;
    *'fig profile'* | *[Cc]redentials* | *[Tt]oken* | *InvalidAccessKeyId* | *SignatureDoes* | *AssumeRole*) code=fetch-no-credentials remedy=$keys ;;
    *'error: 40'[13]*) code=fetch-forbidden remedy="curl -sSIL '$package'; it is read without credentials: use s3:// if the role of this node may read it" ;;
    *'error: 4'[0-9][0-9]*) code=fetch-refused remedy="curl -sSIL '$package'" ;;
    *\(403\)* | *AccessDenied* | *Forbidden*) code=fetch-forbidden remedy=$access ;;
    *'An error occurred ('*) code=fetch-refused remedy="aws s3api head-object $object" ;;
    *'broken client'* | *'aws: error:'* | *[a-z]Error:* | *'Error loading Python'* | *PYI-* | *'Missing Dependency'*) remedy=$broken ;;
    *'SSL validation'*'[Errno'* | *\(77\)* | *'PEM lib'* | *'CA certificate'*) remedy="correct or unset AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE" ;;
    *'[Errno'*) code=fetch-no-credentials remedy=$keys ;;
    *'not yet valid'* | *'has expired'*) remedy="check the clock of this node (timedatectl), then renew the certificate of the server" ;;
    *[Hh]'ostname'* | *'subject name'*) remedy="correct the name of the host in --package or AWS_ENDPOINT_URL, or its certificate" ;;
    *[Cc]ertificate* | *CERTIFICATE*) remedy="add the authority to the store of the system, or name its file in AWS_CA_BUNDLE" ;;
    *'Invalid endpoint'*) remedy="correct AWS_ENDPOINT_URL: https://HOST[:PORT] or http://HOST[:PORT]" ;;
    *'URL of a proxy'*) remedy="correct $bad_proxy (http://HOST:PORT): in its password, write / ? # @ as %2F %3F %23 %40" ;;
    *'proxy: 407') remedy="correct the user and the password in HTTPS_PROXY" ;;
    *'proxy: 4'*) remedy="let the proxy allow this host, or add it to NO_PROXY" ;;
    *'resolve host'* | *'resolve proxy'*) remedy="correct the name in --package or HTTPS_PROXY: getent hosts NAME" ;;
    *proxy*) remedy="check the proxy in HTTPS_PROXY; its answer: curl -sSI '$url'" ;;
    *) remedy="check the route to it (S3 gateway endpoint, proxy, region), and that aws or curl is installed" ;;
    esac
}

# Runs a command that fails only for a reason of this node, which it prints.
locally() {
    why=$(LC_ALL=C "$@" 2>&1) || fail_local "$why"
}

fail_local() {
    fail archive-local "the archive cannot be kept under $home" "$1" \
        "findmnt -T $home; ls -ld $home $incoming; df -h $home; df -i $home"
}

# Lets systemd run this hook again: now, and after a reboot. ParallelCluster deletes its own copy of this script.
keep_trying() {
    [ -z "$strict$retrying" ] && [ -d "$prefix/run/systemd/system" ] || return 0
    (
        umask 077
        mkdir -p "$retry" && cp "$0" "$retry/hook.sh" || exit 1
        unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN # no key on a disk; the role of the node has its own
        {
            export -p
            printf 'PETAL_HOOK_RETRY=yes; export PETAL_HOOK_RETRY\nexec /bin/sh %s%s\n' "$retry/hook.sh" "$arguments"
        } >"$retry/start.sh" || exit 1
        umask 022
        mkdir -p "${unit%/*}/multi-user.target.wants" && ln -sf "../${unit##*/}" "${unit%/*}/multi-user.target.wants/" || exit 1
        cat >"$unit" <<UNIT || exit 1
[Unit]
Description=petal-node: the hook again, until its archive can be fetched
Wants=network-online.target
After=network-online.target remote-fs.target
StartLimitIntervalSec=1d
StartLimitBurst=120

[Service]
ExecStart=/bin/sh $retry/start.sh
Restart=on-failure
RestartSec=30s
TimeoutStopSec=10s

[Install]
WantedBy=multi-user.target
UNIT
        for file in "$retry/hook.sh" "$retry/start.sh" "$unit"; do # after a power cut, systemd would ignore an empty unit
            dd if=/dev/null of="$file" conv=notrunc,fsync || exit 1
        done
        timeout 1 systemctl reset-failed "${unit##*/}" || : # an earlier one may have used up its starts
        timeout 1 systemctl --no-block restart "${unit##*/}"
    ) >/dev/null 2>&1 || return 0
    note "${unit##*/} tries again every 30 s, 120 times: journalctl -u ${unit##*/}"
}

remove_unit() {
    [ -e "$unit" ] || return 0
    rm -rf "$unit" "${unit%/*}/multi-user.target.wants/${unit##*/}" "$retry"
    [ -n "$retrying" ] || timeout 2 systemctl --no-block stop "${unit##*/}" >/dev/null 2>&1 || :
}

# Prints text as ASCII, without the user and the password of a URL, up to the last @ of the word: a client prints a proxy that
# it cannot parse. An s3:// or file:// URI has no user.
note() {
    printf 'petal-node %s: %s\n' "$event" "$1" | LC_ALL=C tr -c '\040-\176\n' '?' |
        sed -E 's#(s3|file)://#\1:/\n/#g; s#://[^ ]*@#://***@#g; s#:/\n/#://#g'
}

# Writes one line and ends. $1 = code, $2 = what failed, $3 = why, $4 = remedy.
fail() {
    record "$@"
    [ -z "$retrying" ] || exit 75 # systemd starts the unit again
    [ -n "$strict" ] || exit 0
    [ "$1" != hook-usage ] || exit 2 # as for an unknown option
    exit 1
}

record() {
    line=$(note "$(printf '%s [%s]: %s. Remedy: %s' "$2" "$1" "$3" "$4" | tr '\n\r\t' '   ')")
    printf '%s\n' "$line"
    printf '%s\n' "$line" >&2
    [ -z "$retrying" ] || return 0
    (umask 027 && mkdir -p "$prefix/var/log" && printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$line" >>"$prefix/var/log/petal-node.log") 2>/dev/null
    return 0
}

# Runs the tool as a child, because this script decides the exit code. If another hook installs the archive and removes it
# from here at that moment, the installed one runs.
run_archive() {
    for _ in first second; do
        exit_code=0
        "$archive" hook "$event" "$@" ${prefix:+--root "$prefix"} || exit_code=$?
        { [ $exit_code -ge 126 ] && [ ! -e "$archive" ] && kept_archive "$home"/*/petal-node; } || break
    done
    if [ "$exit_code" -eq 69 ] || [ "$exit_code" -ge 126 ] || { [ "$exit_code" -ne 0 ] && [ -z "$strict" ]; }; then # the tool could not record it
        reason="it ended with code $exit_code" remedy="run $archive hook $event, and read /var/log/petal-node.log"
        case $exit_code in
        69) # a tool that cannot start prints the reason again
            why=$(timeout 9 "$archive" version 2>&1 >/dev/null) || :
            case $why in *?remedy:*) remedy=${why##*remedy: } why=${why%?remedy:*} reason=${why#petal-node: } ;; esac
            ;;
        126)
            place=$(findmnt -rno OPTIONS,TARGET -T "$archive" 2>/dev/null)
            case ,${place%% *}, in *,noexec,*) reason="${place##* } is mounted noexec" remedy="mount -o remount,exec ${place##* }" ;; esac
            ;;
        esac
        record archive-failed "petal-node hook $event did not finish" "$reason" "$remedy"
    fi
    [ -n "$strict" ] || exit 0
    [ "$exit_code" -lt 126 ] || exit 1
    exit "$exit_code"
}

# @IS_TRUSTED@: make dist puts the function of bootstrap/archive/header.sh here

# sudo -E keeps a user's variables. Nothing is written below such a prefix, not even the log.
problem=''
case $event in
@*) problem='this is a source file. Remedy: run make dist, and upload dist/on_node_configured.sh' ;;
*) [ -z "$prefix" ] || is_trusted "$prefix" ||
    problem="PETAL_PREFIX=$prefix is not used by root: the path is missing, or other users could change it. Remedy: unset PETAL_PREFIX" ;;
esac
if [ -n "$problem" ]; then
    note "$problem" >&2
    case " $* " in *' --strict '*) exit 1 ;; esac
    exit 0
fi
read_arguments "$@"
arguments=$(for word; do printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"; done) # "$@" as a shell reads it
find_archive
remove_unit
run_archive "$@"
