# What an operator does, inside the namespace of boot.sh: install, start, reload, a stuck loop, stop, a wrong configuration.
# Prints a line for each step, "ok" or "FAILED" first; the last line is "the end".
repository=$1
bin=$repository/.venv/bin
conf=/etc/subtitled/subtitled.toml
export SUBTITLE_SERVER=ipc:///run/subtitled/clients.sock

step() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then echo "ok      $name"; else echo "FAILED  $name"; echo "$output" | tail -30; fi
}
says() { [ "$(systemctl show -P "$1" subtitled)" = "$2" ] || { systemctl show -p "$1" subtitled; return 1; }; }
wait_until() {
    for _ in $(seq 120); do "$@" > /dev/null 2>&1 && return; sleep 1; done
    "$@"
}
as() { local who=$1; shift; setpriv --reuid="$who" --regid="$who" --init-groups "$@"; }
fails() { ! "$@"; }

# The environment under test, and the Python it was made with, may lie where only their owner gets in.
for folder in "$repository" "$(dirname "$(readlink -f "$bin/python")")"; do
    while [ "$folder" != / ]; do chmod o+rx "$folder"; folder=$(dirname "$folder"); done
done
cd /
mkdir -p /etc/subtitled
printf '[model]\nname = "demo"\nbeam_size = 1\n[pool]\ndevices = ["cpu"]\nprepare_workers = 1\n[[inbox]]\n' > $conf
# A TCP endpoint: libzmq then asks the kernel for its interfaces, over AF_NETLINK.
printf '[listen]\nclients = ["%s", "tcp://127.0.0.1:5570"]\n' "$SUBTITLE_SERVER" >> $conf
ip link set lo up 2> /dev/null

step "install-service writes the units" "$bin/subtitled" install-service --config $conf
step "systemd-sysusers makes the user" systemd-sysusers
step "systemd-tmpfiles makes the folders" systemd-tmpfiles --create subtitled.conf
step "systemctl daemon-reload" systemctl daemon-reload
step "systemctl start returns when a worker is ready" systemctl start subtitled
step "the unit is active" says ActiveState active
step "no capability is left" grep -q '^CapBnd:\s*0*$' "/proc/$(systemctl show -P MainPID subtitled)/status"
step "system calls are filtered" grep -q '^Seccomp:\s*2$' "/proc/$(systemctl show -P MainPID subtitled)/status"
useradd -M unknown
useradd -M -G subtitled friend
step "a member of the group speaks to it" as friend "$bin/subtitle" --timeout 30 ping
step "no other user does" fails as unknown "$bin/subtitle" --timeout 3 ping
as friend cp "$repository/daemon/subtitled/demo/demo-zh.flac" /srv/subtitled/inbox/talk.flac
step "a file becomes subtitles" wait_until test -s /srv/subtitled/outbox/talk.zh.srt
step "its source is moved" wait_until test -f /srv/subtitled/inbox/done/talk.flac
step "everybody may read them" as unknown cat /srv/subtitled/outbox/talk.zh.srt
step "status has its line" wait_until says StatusText "0 jobs"
step "reload succeeds" systemctl reload subtitled
workers=$(pgrep -f subtitled.worker | sort)
step "SIGUSR1 to the whole unit" systemctl kill -s USR1 subtitled
step "logs more" wait_until test "$(sleep 2; "$bin/subtitle" --timeout 30 admin log-level)" = debug
step "and disturbs no worker" test "$workers" = "$(pgrep -f subtitled.worker | sort)"
before=$(systemctl show -P MainPID subtitled)
kill -STOP "$before"
step "a stuck daemon is killed by the watchdog, and comes back" wait_until says NRestarts 1
step "it is ready again" wait_until says ActiveState active
step "stop is clean" systemctl stop subtitled
step "and successful" says Result success
sed -i 's/beam_size = 1/beam_size = 0/' $conf
step "a wrong configuration does not start" fails systemctl start subtitled
step "its status is 78" says ExecMainStatus 78
sleep 5
step "and it is not tried again" says ActiveState failed
sed -i 's/beam_size = 0/beam_size = 1/' $conf
systemctl reset-failed subtitled
step "it starts again" systemctl enable --now subtitled
step "install-service --remove stops and removes it" "$bin/subtitled" install-service --remove --yes --config $conf
step "it does not run any more" fails systemctl --quiet is-active subtitled
step "systemd does not know it any more" says LoadState not-found
step "the subtitles are kept" test -s /srv/subtitled/outbox/talk.zh.srt
step "the database is kept" test -s /var/lib/subtitled/subtitled.sqlite
echo "the end"
