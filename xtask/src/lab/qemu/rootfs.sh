#!/bin/sh
# One version of the firmware: brings up the network and starts the node, which does the rest. $1 is the slot that
# the boot loader has started.
export PATH=/bin HOME=/

mark() { echo "MARK $*" > /dev/console; }
ioex() { /bin/ioex --data /data/node "$@"; }

mount -t tmpfs tmpfs /tmp
mark "version $(cat /version) in $1"

# What the emulator's network expects of its guest.
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

mkdir -p /data/node
# The flags are separate words.
# shellcheck disable=SC2046
ioex node --config /node.toml $(cat /data/flags) > /data/node.log 2>&1 &
until ioex --json id > /tmp/id 2> /dev/null; do
    sleep 1
done
mark "uid $(sed 's/.*"uid":"\([^"]*\)".*/\1/' /tmp/id)"

# A device looks for new versions at its own pace. The lab does not wait for that.
while sleep 3; do
    ioex ota check > /dev/null 2>&1
done &

# What is running, and where an update stands, whenever it changes.
ioex --json ota follow | while read -r line; do
    running=${line#*\"running\":\"}
    stage=${line#*\"stage\":\"}
    now="${running%%\"*} ${stage%%\"*}"
    [ "$now" = "$before" ] || mark "state $now"
    before=$now
done
mark "halt: the node ended: $(tail -n 3 /data/node.log)"
