#!/bin/bash
# The unit under a real systemd, as init of a namespace: `make systemd`, as root, on Linux with systemd 250 or newer and overlayfs.
# Takes about two minutes. This machine's files, processes and network stay as they are: see boot.sh.
set -u
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../../.." && pwd)
[ "$(id -u)" -eq 0 ] || { echo "needs root, for namespaces" >&2; exit 2; }
[ -x /lib/systemd/systemd ] || { echo "needs systemd" >&2; exit 2; }

unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net bash "$here/boot.sh" "$repository" &
outer=$!
trap 'kill -9 $outer 2> /dev/null' EXIT
shown=0
for _ in $(seq 600); do
    sleep 0.5
    kill -0 $outer 2> /dev/null || { echo "the namespace ended" >&2; exit 1; }
    init=$(pgrep -P $outer | head -1)
    inside=/proc/${init:-none}/root  # what the namespace takes for /
    log=$(cat "$inside/trial.log" 2> /dev/null)
    lines=$(printf '%s' "$log" | grep -c '')
    [ "$lines" -gt "$shown" ] && printf '%s\n' "$log" | tail -n "+$((shown + 1))"
    shown=$lines
    if printf '%s' "$log" | grep -q '^the end$'; then
        ! printf '%s' "$log" | grep -q '^FAILED'
        exit
    fi
done
echo "not done within five minutes" >&2
exit 1
