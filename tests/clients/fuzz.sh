#!/usr/bin/env bash
# Fuzzes the native API of a three-node cluster from its own description (/openapi.json).
#
#     tests/clients/fuzz.sh [examples per call] [seed]
#
# Fails on server errors, on statuses, content types and bodies that the description does not know,
# and on bad input that is not refused. Nothing is skipped: what is missing is installed into the
# target directory, and when that cannot be done the run fails.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

examples=${1:-30}
seed=${2:-1}
version=4.32.5
target=${CARGO_TARGET_DIR:-target}
port=${OARLOCK_FUZZ_PORT:-27400}

cargo build --locked --quiet
tools=$target/fuzz-tools
if ! "$tools/bin/schemathesis" --version 2>/dev/null | grep -qF "$version"; then
    rm -rf "$tools"
    if ! python3 -m venv "$tools" >/dev/null 2>&1; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
        python3 -m venv "$tools"
    fi
    "$tools/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

work=$(mktemp -d)
"$target/debug/oarlock" dev --port-base "$port" >"$work/dev.log" 2>&1 &
dev=$!
stop() {
    kill "$dev" 2>/dev/null || true
    wait "$dev" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT

url=http://127.0.0.1:$port
for attempt in $(seq 300); do
    curl -fsS "$url/readyz" >/dev/null 2>&1 && break
    if [ "$attempt" = 300 ] || ! kill -0 "$dev" 2>/dev/null; then
        cat "$work/dev.log"
        echo "the cluster did not come up"
        exit 1
    fi
    sleep 0.1
done

"$tools/bin/schemathesis" --config-file tests/clients/schemathesis.toml run "$url/openapi.json" \
    --url "$url" --seed "$seed" --max-examples "$examples" --generation-database none --no-color

for node in 0 10 20; do
    status=$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$((port + node))/readyz")
    if [ "$status" != 200 ]; then
        echo "the node at port $((port + node)) is not ready after the run: $status"
        exit 1
    fi
done
