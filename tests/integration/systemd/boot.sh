# PID 1 of a namespace: makes a root that is this machine's as seen through an overlay in memory, and starts systemd in it.
# Nothing outside the overlay can be written. systemd's own housekeeping would empty a /tmp that it shares: hence every step here.
set -e
[ $$ -eq 1 ] || { echo "boot.sh is run by trial.sh alone" >&2; exit 1; }
repository=$1

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
    # shellcheck disable=SC2086
    set -- $node
    mknod -m 666 "dev/$1" c 1 "$2"
done
mkdir dev/shm dev/pts run/lock old-root
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s /proc/self/fd dev/fd
pivot_root . old-root
cd /
umount -l /old-root
[ "$(stat -f -c %T /)" = overlayfs ] || { echo "the root is no overlay" >&2; exit 1; }
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# Of this machine's units only what a target of ours asks for is started, and of the rest nothing that cleans or updates.
units=/etc/systemd/system
for unit in systemd-tmpfiles-setup.service systemd-tmpfiles-clean.timer systemd-timesyncd.service systemd-udevd.service \
    timers.target sockets.target; do
    ln -sf /dev/null "$units/$unit"
done
mkdir -p "$units/trial.target.wants"
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' > "$units/trial.target"
printf '[Service]\nType=oneshot\nExecStart=/bin/bash %s/tests/integration/systemd/steps.sh %s\nTimeoutStartSec=infinity\n' \
    "$repository" "$repository" > "$units/trial.service"
printf 'StandardOutput=file:/trial.log\nStandardError=file:/trial.log\nEnvironment=PATH=%s\n' "$PATH" >> "$units/trial.service"
ln -s ../trial.service "$units/trial.target.wants/trial.service"
rm -rf /var/log/journal
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other \
    /lib/systemd/systemd --system --log-target=journal --show-status=0 --unit=trial.target < /dev/null
