#!/bin/sh
# One version of the firmware: brings up the network, starts the node, and asks itself whether it is healthy.
# $1 is the slot that the boot loader has started.
export PATH=/bin
slot=$1
case "$slot" in
    a) other=b other_disk=/dev/vdb ;;
    *) other=a other_disk=/dev/vda ;;
esac

mark() { echo "MARK $*" > /dev/console; }
ioex() { /bin/ioex --data /data/node "$@"; }
joined() { ioex --json status 2> /dev/null | grep -q '"joined":true'; }

mount -t tmpfs tmpfs /tmp
mark "version $(cat /version) in $slot"

# What the emulator's network expects of its guest.
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

mkdir -p /data/node
# The flags are separate words.
# shellcheck disable=SC2046
ioex node $(cat /data/flags) > /data/node.log 2>&1 &

# The health check: a firmware that works has joined the network within a minute.
tries=0
until joined; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || break
    sleep 1
done
if joined && [ ! -e /broken ]; then
    mark "healthy"
else
    mark "unhealthy"
    tail -n 5 /data/node.log
fi

# What the lab wants to see after that; a word on the kernel's command line.
case "$(sed 's/.*lab=//; s/ .*//' /proc/cmdline)" in
    switch)
        echo "$other" > /data/slot.new
        mv /data/slot.new /data/slot
        sync
        reboot -f
        ;;
    write)
        mark "writing $other"
        # Until the power is cut.
        while true; do
            dd if=/dev/urandom of="$other_disk" bs=64k count=256 conv=fsync 2> /dev/null
            mark "written $other"
        done
        ;;
esac
wait
