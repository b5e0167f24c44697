#!/usr/bin/env bash
# Starts the server on a free port, runs a command with POLYRANK_URL set, and stops the server.
#   usage: serving.sh BINARY_DIR ADAPTERS COMMAND...
set -euo pipefail
binaries=$1 adapters=$2
shift 2
log=$(mktemp)
env -u POLYRANK_API_KEY -u POLYRANK_API_KEY_FILE RUST_LOG=info \
  "$binaries/polyrank" serve --model-id default --adapters "$adapters" --hostname 127.0.0.1 --port 0 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
  POLYRANK_URL=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$log" | head -1 || true)
  [ -n "$POLYRANK_URL" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.1
done
[ -n "$POLYRANK_URL" ] || { echo "the server printed no address:" >&2; cat "$log" >&2; exit 1; }
export POLYRANK_URL
"$@"
