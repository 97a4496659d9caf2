# What the machine has: real objects of the kernel for every sensor that it can have one for. Says what is there.
modprobe -a raid1 raid456 dm_thin_pool xfs btrfs zram ip_vs st nf_conntrack softdog
modprobe i2c-stub chip_addr=0x48
bus=$(basename "$(dirname "$(grep -l 'SMBus stub' /sys/class/i2c-adapter/*/name | head -n 1)")")
modprobe lm75
echo lm75 0x48 > "/sys/bus/i2c/devices/$bus/new_device"
# A tape; its emulator is quick to make and has no data.
modprobe scsi_debug ptype=1

mdadm --quiet --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean /dev/sda /dev/sdb

modprobe bonding max_bonds=0
ip link add bond0 type bond mode active-backup miimon 100
for path in /sys/class/net/*/device; do
  name=$(basename "$(dirname "$path")")
  [ "$(basename "$(readlink "$path/driver")")" = e1000 ] || continue
  ip link set "$name" down
  ip link set "$name" master bond0
done
ip link set bond0 up
ip addr add 10.9.0.1/24 dev bond0

mkdir -p /srv/{btrfs,xfs,ext4,md,thin}
mkfs.btrfs -q -f -d raid1 -m raid1 /dev/sdc /dev/sdd
mount /dev/sdc /srv/btrfs
mkfs.xfs -q -f /dev/nvme0n1
mount /dev/nvme0n1 /srv/xfs
mkfs.ext4 -q /dev/vda
mount /dev/vda /srv/ext4
mkfs.ext4 -q /dev/md0
mount /dev/md0 /srv/md
pvcreate -q /dev/nvme1n1
vgcreate -q archive /dev/nvme1n1
lvcreate -q -y -L 256M --thinpool pool archive
lvcreate -q -y -V 1G --thin -n scans archive/pool
mkfs.ext4 -q /dev/archive/scans
mount /dev/archive/scans /srv/thin
dd if=/dev/urandom of=/srv/thin/scan bs=1M count=8 conv=fsync status=none
lvcreate -q -y --snapshot --setactivationskip n -n before archive/scans
zramctl -s 64M /dev/zram0
mkswap -q /dev/zram0
swapon /dev/zram0

# An NFS server as Debian has it, without the package's own scripts.
systemd-sysusers --inline 'u _rpc - "RPC" /run/rpcbind' 'u statd - "statd" /var/lib/nfs'
mkdir -p /run/rpcbind /run/sendsigs.omit.d /var/lib/nfs/{sm,v4recovery,rpc_pipefs} /srv/ext4/export /srv/nfs3 /srv/nfs4
touch /var/lib/nfs/{etab,rmtab,state}
modprobe nfsd
mount -t nfsd nfsd /proc/fs/nfsd
rpcbind -w
rpc.statd --no-notify
rpc.mountd
# A server that begins waits so long for the clients of an earlier one.
rpc.nfsd --grace-time 10 --lease-time 10 4
exportfs -i -o rw,no_root_squash,insecure,no_subtree_check,fsid=0 127.0.0.1:/srv/ext4/export
mount -t nfs4 -o vers=4.2,hard 127.0.0.1:/ /srv/nfs4
mount -t nfs -o vers=3,hard,nolock 127.0.0.1:/srv/ext4/export /srv/nfs3
echo read > /srv/nfs4/written
grep -q read /srv/nfs3/written

for class in scsi_tape power_supply thermal hwmon watchdog net nvme; do
  echo "$class: $(ls "/sys/class/$class" | wc -l)"
done > /run/devices
