#!/bin/busybox sh
# The machine's first program: its root is the host's own, below Debian's packages and what is written, which stays in memory.
PATH=/bin
busybox() { /bin/busybox "$@"; }
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
for module in @MODULES@; do busybox insmod "/modules/$module"; done
shared="trans=virtio,version=9p2000.L,msize=512000"
busybox mount -t 9p -o "$shared,cache=loose,ro" host /host
busybox mount -t 9p -o "$shared,cache=loose,ro" layer /layer
busybox mount -t 9p -o "$shared" work /work
busybox mount -t tmpfs -o size=80% tmpfs /written
busybox mkdir /written/upper /written/own
busybox mount -t overlay -o lowerdir=/layer:/host,upperdir=/written/upper,workdir=/written/own root /new
busybox mkdir -p /new/mnt/work
busybox mount --move /work /new/mnt/work
busybox mount --move /dev /new/dev
busybox mount -t tmpfs tmpfs /new/run
# The machine is no container, whatever the host is, and its disks are others.
busybox rm -f /new/.dockerenv /new/etc/fstab
busybox umount /proc /sys
exec /bin/busybox switch_root /new /usr/lib/systemd/systemd --unit=machine.target
