#!/usr/bin/env bash
# Classifies a text with curl: by one adapter, and by several in one request.
#   usage: classify.sh URL TEXT ADAPTER...        POLYRANK_API_KEY is sent if it is set
set -euo pipefail
[ $# -ge 3 ] || { sed -n '3s/^# *//p' "$0" >&2; exit 2; }
url=$1 text=$2
shift 2

# A JSON string: backslashes, quotes, tabs and line ends are escaped; other control characters become blanks.
quote() { printf '"%s"' "$(printf '%s' "$1" | tr '\001-\010\013-\037' ' ' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }')"; }

post() { # PATH BODY
  # The key does not stand in curl's arguments, which other users can see.
  printf '%s' "${POLYRANK_API_KEY:+authorization: Bearer $POLYRANK_API_KEY}" |
    curl --silent --show-error --fail-with-body --max-time 30 "$url$1" -H 'content-type: application/json' -H @- --data-binary "$2"
  echo
}

# A name in an address: bytes other than letters, digits and a few signs are escaped.
escape() { printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n' | sed -e 's/../%&/g'; }

post "/classify/$(escape "$1")" "{\"inputs\": $(quote "$text"), \"parameters\": {\"top_k\": 1}}"

names=$(for adapter in "$@"; do quote "$adapter"; printf ','; done)
post /classify "{\"inputs\": $(quote "$text"), \"adapters\": [${names%,}]}"
