#!/bin/busybox sh
# The guest's boot loader: asks which slot starts now, and hands over to it. Its disks are, in this order, slot a,
# slot b, and the one that stays.
export PATH=/bin HOME=/

mark() { echo "MARK $*" > /dev/console; }
halt() { mark "halt: $*"; poweroff -f; }

/bin/busybox mkdir -p /bin /proc /sys /dev /data /system
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec < /dev/console > /dev/console 2>&1

for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || halt "module $module"
done
mount -t ext4 /dev/vdc /data || halt "no data disk"

# A start of a version on trial is counted here. Without a state, the slot that started last does again.
slot=$(ioex --data /data/node ota boot --state /data/slots --installed 1 --running /data/running) || {
    mark "no slot state"
    slot=$(cat /data/running)
}
case "$slot" in
    a) disk=/dev/vda ;;
    b) disk=/dev/vdb ;;
    *) halt "slot '$slot'" ;;
esac
mark "boot $slot"
mount -t squashfs -o ro "$disk" /system || { mark "broken $slot"; reboot -f; }
for folder in proc sys dev data; do
    mount --move "/$folder" "/system/$folder"
done
exec switch_root /system /init "$slot"
