#!/usr/bin/env bash
# Shows the whole way to served adapters: builds, pulls the default base, trains and prunes three SoRA adapters on examples/data,
# shows their ranks, serves them and classifies texts over HTTP. Needs Rust 1.89 or later, and python3.
#   usage: quickstart.sh [--once]        with --once, the server stops after the answers
#   environment: PORT (8080; 0 chooses a free one), PROFILE (dev, which `cargo test` reuses; or release), CARGO_TARGET_DIR
set -euo pipefail
case "${1:-}" in
  "" | --once) ;;
  *) sed -n '2,5s/^# *//p' "$0"; [ "$1" = --help ]; exit ;;
esac
cd "$(dirname "$0")/.."
profile=${PROFILE:-dev}
target=${CARGO_TARGET_DIR:-target}
binaries=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")
adapters=runs/quickstart/adapters
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

step "Building ($profile)"
cargo build --profile "$profile" --locked

step "Pulling the default base"
"$binaries/polyrank" pull

for task in intent sentiment urgency; do
  step "Training and pruning: $task"
  "$binaries/polyrank-train" train --method sora --model-id default --data "examples/data/$task" --output "$adapters/$task" \
    --target-ratio 0.65 --overwrite
done

step "Evaluating on the validation split"
for task in intent sentiment urgency; do
  "$binaries/polyrank-train" evaluate --model-id default --adapter "$adapters/$task" --data "examples/data/$task" --json
done

step "Serving"
log=$(mktemp)
# Variables for another server do not count here.
env -u POLYRANK_API_KEY -u POLYRANK_API_KEY_FILE RUST_LOG=info \
  "$binaries/polyrank" serve --model-id default --adapters "$adapters" --hostname 127.0.0.1 --port "${PORT:-8080}" 2>"$log" &
server=$!
stop() { kill -TERM "$server" 2>/dev/null && wait "$server" || true; rm -f "$log"; }
trap stop EXIT
trap 'exit 130' INT TERM
url=
for _ in $(seq 100); do
  url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$log" | head -n 1 || true)
  [ -n "$url" ] && break
  kill -0 "$server" 2>/dev/null || { echo "the server did not start:" >&2; cat "$log" >&2; exit 1; }
  sleep 0.1
done
[ -n "$url" ] || { echo "the server did not print its address within 10 s:" >&2; cat "$log" >&2; exit 1; }

ask() { # adapter text
  python3 - "$url/classify/$1" "$2" <<'PY'
import json, sys, urllib.request
body = json.dumps({"inputs": sys.argv[2], "parameters": {"top_k": 2}}).encode()
request = urllib.request.Request(sys.argv[1], body, {"content-type": "application/json"})
best = json.load(urllib.request.urlopen(request))[0]
print("  ", ", ".join(f"{x['label']} {x['score']:.3f}" for x in best))
PY
}
for text in "I was charged twice this month, sort it out today please!" "The parcel came early, thank you so much."; do
  echo "$text"
  for task in intent sentiment urgency; do ask "$task" "$text"; done
done

echo
echo "Try it:"
for task in intent sentiment urgency; do
  echo "  curl -s $url/classify/$task -H 'content-type: application/json' -d '{\"inputs\": \"Where is my order?\"}'"
done
if [ "${1:-}" != --once ]; then
  echo "Open $url in a browser for a page with the adapters and their ranks."
  echo "Serving at $url until Ctrl-C."
  wait "$server"
fi
