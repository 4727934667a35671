#!/bin/sh
# Runs a systemd of its own, which knows the units of one folder and nothing of this machine's. Called
# within namespaces of its own for processes, mounts, control groups and the network:
#   sh systemd_alone.sh UNITS OPT ETC SRV
# The last three are seen as /opt, /etc/limelens and /srv.
set -eu
mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run
while umount -R /sys/fs/cgroup 2> /dev/null; do :; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount --rbind "$2" /opt
mount --rbind "$4" /srv
mkdir /run/etc
cp -a /etc/. /run/etc
cp -a "$3" /run/etc/limelens
mount --bind /run/etc /etc
# Secrets are mounted by a process with mounts of its own, and seen here.
mount --make-rshared /
exec env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin container=test "SYSTEMD_UNIT_PATH=$1" \
  /lib/systemd/systemd --system --unit=nothing.target --log-target=console --show-status=no
