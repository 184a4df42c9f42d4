#!/bin/sh
# Whether this firmware works: it joins the network within a minute. One that is broken does not say so.
export PATH=/bin HOME=/
mark() { echo "MARK $*" > /dev/console; }

tries=0
while [ ! -e /broken ] && [ "$tries" -lt 60 ]; do
    if ioex --json --data /data/node status 2> /dev/null | grep -q '"joined":true'; then
        mark "healthy"
        exit 0
    fi
    tries=$((tries + 1))
    sleep 1
done
mark "unhealthy"
exit 1
