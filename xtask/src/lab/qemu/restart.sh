#!/bin/sh
# Starts the device anew.
export PATH=/bin
echo "MARK restart" > /dev/console
sync
reboot -f
