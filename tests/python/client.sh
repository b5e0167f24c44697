#!/usr/bin/env bash
# Starts the server on a free port and lets huggingface_hub's InferenceClient ask each adapter of a folder.
#   usage: client.sh PYTHON BINARY_DIR ADAPTERS
set -euo pipefail
python=$1 binaries=$2 adapters=$3
log=$(mktemp)
"$binaries/polyrank" serve --model-id default --adapters "$adapters" --port 0 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
  url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$log" | head -1 || true)
  [ -n "$url" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.1
done
[ -n "$url" ] || { echo "the server told no address:" >&2; cat "$log" >&2; exit 1; }
for adapter in "$adapters"/*/; do
  "$python" "$(dirname "$0")/client.py" "$url" "$(basename "$adapter")" "My parcel never came and nobody answers." "Thanks, all good now!"
done
