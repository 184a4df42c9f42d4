#!/bin/busybox sh
# Which slot starts now.
cat /data/slot
