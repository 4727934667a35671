#!/bin/sh
# Runs a command as a container would: another root folder, read-only but for a small /tmp, an
# unprivileged user without a home, no capabilities. Called within a mount namespace of its own:
#   unshare --mount sh read_only_root.sh ROOT FOLDER… -- COMMAND…
# Each FOLDER is seen at its own path, read-only; FOLDER:PATH at that one.
set -eu
root=$1
shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir "$root/tmp"
mount -t tmpfs -o mode=1777,size=16m tmpfs "$root/tmp"
show() {
  mkdir -p "$root${1#*:}"
  mount --bind "${1%%:*}" "$root${1#*:}"
  mount -o remount,bind,ro "$root${1#*:}"
}
for folder in /bin /sbin /lib /lib64 /usr /etc; do
  if [ -L "$folder" ]; then
    cp -P "$folder" "$root$folder"
  elif [ -d "$folder" ]; then
    show "$folder"
  fi
done
while [ "$1" != -- ]; do
  show "$1"
  shift
done
shift
mkdir "$root/proc" "$root/dev"
mount --bind /proc "$root/proc"
for device in null urandom; do
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs \
  --bounding-set -all --inh-caps -all env -i "$@"
