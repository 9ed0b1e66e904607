#!/usr/bin/env bash
# A deployment that never runs twice at once: takes the lock or waits its turn, deploys, and
# releases in a trap, also when the deployment fails. Needs curl and jq.
#
#   deploy.sh LOCK COMMAND [ARG …]
#
# OARLOCK_URL   a node (default http://127.0.0.1:7400)
# OARLOCK_OWNER who to show as holder (default user@host:pid)
# Exit codes: the command's own; 75 if the lock could not be had in time.
set -euo pipefail

url=${OARLOCK_URL:-http://127.0.0.1:7400}
owner=${OARLOCK_OWNER:-$(id -un)@$(hostname):$$}
lock=$1
shift

# One request id for all tries: a lost answer costs no second place in the queue.
request_id=$(cat /proc/sys/kernel/random/uuid)
body=$(jq -nc --arg owner "$owner" --arg id "$request_id" \
    '{owner: $owner, ttl_ms: 60000, wait_ms: 300000, request_id: $id}')

lease=
for _ in $(seq 1 10); do
    answer=$(curl -sS --max-time 330 -d "$body" "$url/v1/locks/$lock" || true)
    lease=$(jq -r '.lease_id // empty' <<<"${answer:-null}")
    [ -n "$lease" ] && break
    # Another holder after the whole wait is final; everything else is worth another try.
    [ "$(jq -r '.status // 0' <<<"${answer:-null}")" = 409 ] && break
    sleep 1
done
if [ -z "$lease" ]; then
    jq -r '"not deploying: " + (.detail // "no answer")' <<<"${answer:-null}" >&2
    exit 75
fi

release() {
    kill "$renewer" 2>/dev/null || true
    curl -sS --max-time 30 -X DELETE "$url/v1/leases/$lease" >/dev/null || true
}
# A third of the TTL leaves two more tries before the lock is lost.
(while sleep 20; do curl -sS --max-time 15 -X POST "$url/v1/leases/$lease/renew" >/dev/null || true; done) &
renewer=$!
trap release EXIT

OARLOCK_TOKEN=$(jq -r .token <<<"$answer")
export OARLOCK_TOKEN
"$@"
