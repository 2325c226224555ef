#!/bin/sh
# Restarts the servers of a HAProxy one after the other, each when the one before takes
# posts again:
#
#     rolling-restart.sh 'ssh "$1" systemctl restart logiss' logiss-1 logiss-2 ...
#
# The first argument is a command; in it "$1" is the server, as haproxy.cfg names it. The
# servers have to have a DRAIN_DELAY: what HAProxy has not seen go down has been given
# posts until its end, and this script stops there. It also stops when the command fails
# or a server does not come back, so that a bad release stays on one of them.
#
# STATS    where HAProxy tells of itself (http://127.0.0.1:8404)
# BACKEND  whose servers they are (ready)
# PATIENCE seconds for a server to go down and come back (60)
# PAUSE    seconds between two servers (0)

set -eu

stats=${STATS:-http://127.0.0.1:8404}
backend=${BACKEND:-ready}
patience=${PATIENCE:-60}
pause=${PAUSE:-0}

stop() {
    echo "rolling-restart: $1" >&2
    exit 1
}

# How often the checks of a server have failed for good so far, and what it is now, as
# "0 UP" or "0 UP 2/3"; nothing of one that HAProxy does not know. Fails when HAProxy
# does not answer.
look() {
    table=$(curl --silent --show-error --fail --max-time 5 "$stats/;csv") || return 1
    printf '%s\n' "$table" | awk -F, -v backend="$backend" -v server="$1" '
        NR == 1 { sub(/^# /, ""); for (i = 1; i <= NF; i++) at[$i] = i }
        $1 == backend && $2 == server { print $at["chkdown"], $at["status"] }
    '
}

silent() {
    stop "HAProxy does not answer at $stats; is it full (maxconn), or elsewhere (STATS)?"
}

# None of them is away by itself.
all_up() {
    for one; do
        seen=$(look "$one") || silent
        [ -n "$seen" ] || stop "$one: HAProxy knows no such server in $backend; look at $stats"
        # "UP 2/3" is one of which a check has failed.
        case ${seen#* } in
            UP*) ;;
            *) stop "$one: is ${seen#* }; mend it first" ;;
        esac
    done
}

[ $# -ge 2 ] || stop "give a command, and the servers behind it"
restart=$1
shift

for server; do
    # One less than all of them is what is meant to be away.
    all_up "$@"
    before=$(look "$server") || silent
    before=${before%% *}
    echo "$server: restarting"
    sh -c "$restart" rolling-restart "$server" || stop "$server: the command has failed"
    deadline=$(($(date +%s) + patience))
    # One look in vain is no reason to leave it: the next may not be.
    while now=$(look "$server") || now=; [ "${now%% *}" = "$before" ] || [ "${now#* }" != UP ]; do
        if [ "$(date +%s)" -ge "$deadline" ]; then
            [ -n "$now" ] || silent
            [ "${now%% *}" != "$before" ] ||
                stop "$server: did not go down for HAProxy; give it a longer DRAIN_DELAY"
            stop "$server: is ${now#* }, and has not come back in $patience s"
        fi
        sleep 0.2
    done
    echo "$server: takes posts"
    sleep "$pause"
done
