#!/bin/sh
# Makes one cluster of the servers in $NODES (host:port, separated by spaces), and repeats that every $INTERVAL seconds.
#
# Each server without slots gets its share of the 16384. A server that came back under another address meets the others again.
# A server that lost its nodes.conf has another name: the others forget the old name, and the server gets the slots.
set -u
: "${NODES:?write host:port of each server}" "${PASSWORD_FILE:?write the path of the file with the password of the user admin}"
JOINED=${JOINED:-/tmp/joined} INTERVAL=${INTERVAL:-10}
REDISCLI_AUTH=$(cat "$PASSWORD_FILE") || exit 1
VALKEYCLI_AUTH=$REDISCLI_AUTH
export REDISCLI_AUTH VALKEYCLI_AUTH

# ask HOST:PORT COMMAND..
ask() {
    server=$1
    shift
    valkey-cli -e --user admin --no-auth-warning -h "${server%:*}" -p "${server##*:}" "$@"
}

count=0
for node in $NODES; do count=$((count + 1)); done

once() {
    i=0 whole=0
    for node in $NODES; do
        first=$((i * 16384 / count)) last=$(((i + 1) * 16384 / count - 1)) i=$((i + 1))
        known=$(ask "$node" cluster nodes) || { echo "$node does not answer" >&2; continue; }
        # Of a line, field 3 has the flags, field 8 the state of the link, and the fields from 9 on the slots.
        connected=$(echo "$known" | awk '$8 == "connected" && $3 !~ /fail|handshake|noaddr/' | wc -l)
        has_slots=$(echo "$known" | awk '$3 ~ /myself/ && NF > 8' | wc -l)
        if [ "$connected" -lt "$count" ]; then
            for peer in $NODES; do
                address=$(getent ahostsv4 "${peer%:*}" | awk '{ print $1; exit }')
                [ -z "$address" ] || ask "$node" cluster meet "$address" "${peer##*:}" >/dev/null
            done
        else
            for old in $(echo "$known" | awk '$3 ~ /fail|noaddr/ { print $1 }'); do ask "$node" cluster forget "$old" >/dev/null; done
        fi
        if [ "$has_slots" -eq 0 ]; then
            echo "$node gets the slots $first to $last"
            ask "$node" cluster addslotsrange "$first" "$last" >/dev/null
        elif [ "$(echo "$known" | awk '$8 == "connected" && NF > 8' | wc -l)" -ge "$count" ]; then
            whole=$((whole + 1))
        fi
    done
    [ "$whole" -eq "$count" ]
}

while true; do
    if once; then
        [ -e "$JOINED" ] || echo "the cluster is whole"
        touch "$JOINED"
    else
        rm -f "$JOINED"
        sleep 1
        continue
    fi
    sleep "$INTERVAL"
done
