#!/usr/bin/env bash
# Everything that needs a GPU, in one go on a machine that has one. The first half runs where the project is built, the second where
# the GPU is: there it needs neither cargo nor a network, but python3 with torch, transformers and peft.
#
#   tests/gpu/check.sh build [--cpu]
#       builds for the GPU (nvcc is $NVCC or on the PATH; CARGO_TARGET_DIR counts) and bundles binaries and data into .gpu/check.
#       --cpu: the debug build without CUDA, to rehearse the second half
#   tests/gpu/check.sh run [--device cuda|cpu] [--out DIR] [--seconds 480] [--only STEPS]
#       runs the steps, the most important first, each within a limit. DIR/results.md and DIR/log.txt grow as they end; the table comes
#       last. STEPS is a list such as tests,mixed. With --device cpu everything is tiny: only its working is shown, no speed.
#
# A test counts as passed only if it ran; a step for which no time is left is `not run`.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
check="$root/.gpu/check"

fail() { echo "check.sh: $*" >&2; exit 1; }

build() {
  local profile=(--release) features=(--features polyrank/cuda,polyrank-training/cuda)
  if [ "${1:-}" = --cpu ]; then
    # The runtime need not be fast, only built soon.
    profile=(--config 'profile.dev.package.polyrank.opt-level=0') features=()
  fi
  cd "$root" || exit 1
  rm -rf "$check"
  mkdir -p "$check/bin"
  local log="$check/build.json"
  # One command for all: cargo builds the dependencies again for packages that are selected alone. The tests bring the binaries.
  cargo test "${profile[@]}" --no-run --workspace --lib --test main --bench gpu --bench serving "${features[@]}" \
    --message-format=json > "$log" || fail "the build failed"
  python3 - "$log" "$check/bin" <<'PYTHON' || fail "a binary is missing"
import json, shutil, sys
wanted = {("bin", "polyrank"): "polyrank", ("bin", "polyrank-train"): "polyrank-train", ("lib", "polyrank"): "unit",
          ("test", "main"): "main", ("test", "training-main"): "training-main", ("bench", "gpu"): "gpu", ("bench", "serving"): "serving"}
found = {}
for line in open(sys.argv[1]):
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("executable"):
        target = message["target"]
        # Both packages have a test named main.
        package = "training-" if target["src_path"].endswith("training/tests/main.rs") else ""
        found[target["kind"][0], package + target["name"]] = message["executable"]
for key, name in wanted.items():
    shutil.copy(found[key], f"{sys.argv[2]}/{name}")
PYTHON
  strip "$check"/bin/* || fail "strip failed"
  echo "$root" > "$check/root"
  git -C "$root" rev-parse HEAD > "$check/commit" 2> /dev/null || echo unknown > "$check/commit"
  rm "$log"
  # The binaries share most of their content: xz sees it with a window that spans two of them.
  (cd "$check" && tar -cf - bin root commit -C "$root" tests/goldens tests/gpu examples/data | xz -T1 --lzma2=preset=3,dict=128MiB > bundle.tar.xz) ||
    fail "the bundle could not be written"
  rm -rf "$check/bin"
  cp "$here/check.sh" "$check/"
  local size
  size=$(du -m "$check/bundle.tar.xz" | cut -f1)
  echo "$check: $size MiB"
  [ "$size" -lt 60 ] || fail "the bundle is larger than 60 MiB"
}

# step NAME SECONDS COMMAND...: runs a command in at most so many seconds; what it prints goes to the log.
step() {
  local name=$1 limit=$2 left started result rc
  shift 2
  # Most steps need the bases.
  if [ -n "$only" ] && [ "$name" != bases ] && [[ ",$only," != *",${name%%:*},"* ]]; then return 0; fi
  left=$((deadline - SECONDS))
  if [ "$left" -lt 8 ]; then
    echo "| $name | not run | no time was left |" | tee -a "$results"
    bad=$((bad + 1))
    return 0
  fi
  # A rehearsal shows that steps work; how long they take on this machine says nothing.
  [ "$device" != cpu ] || limit=$((10 * limit))
  [ "$limit" -lt "$left" ] || limit=$left
  started=$SECONDS
  echo "== $name: $*" >> "$log"
  # `timeout` starts programs, not functions.
  if declare -F "$1" > /dev/null; then set -- bash -c '"$@"' step "$@"; fi
  timeout -k 5 "$limit" "$@" > "$out/step.txt" 2>> "$out/step.err"
  rc=$?
  grep -h '^{' "$out/step.txt" | grep '"row"' >> "$out/results.jsonl"
  cat "$out/step.txt" "$out/step.err" >> "$log"
  [ "$rc" -eq 0 ] || bad=$((bad + 1))
  case $rc in
    0) result=passed ;;
    124 | 137) result="not finished in $limit s" ;;
    *) result="failed ($rc): $(grep -hE 'panicked|Error|error|differs|ERROR' "$out/step.err" "$out/step.txt" | head -1 | tr '|\n' '/ ' | cut -c1-200)" ;;
  esac
  # Rust's test binaries end with counts.
  local counts
  counts=$(grep -hE '^test result|ERROR SUMMARY|RACECHECK SUMMARY' "$out/step.txt" "$out/step.err" | tr '\n|' '; ' | cut -c1-200)
  echo "| $name | $result | $((SECONDS - started)) s. $counts |" | tee -a "$results"
  rm -f "$out/step.txt" "$out/step.err"
}

# Runs a test binary. One that found nothing to run proves nothing.
tests_in() {
  "$@" 2>&1 | tee "$out/tests.txt"
  [ "${PIPESTATUS[0]}" -eq 0 ] && ! grep -q '^test result: ok. 0 passed' "$out/tests.txt"
}

# The kernels' tests under one of the sanitizer's tools, with few random cases, because it is slow. A kernel is looked for in one module
# after the other, which the driver answers with errors of its interface; they are not what is looked for here.
sanitize() {
  [ "$device" != cpu ] || { echo "the sanitizer needs a GPU; its command is not rehearsed" && "$bin/unit" --list ops::tests | tail -1 && return; }
  PROPTEST_CASES=2 tests_in compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9 --print-limit 5 "$bin/unit" ops::tests cuda::
}

training() {
  # shellcheck disable=SC2086
  "$bin/polyrank-train" bench --model-id "$bases/roberta-large" --device "$device" --method sora $train_flags |
    sed 's/^{/{"row": "training", /'
  [ "${PIPESTATUS[0]}" -eq 0 ] || return 1
  # shellcheck disable=SC2086
  python3 tests/gpu/peer_training.py --device "$device" $peer_train_flags | sed 's/^{/{"row": "peer-training", /'
  [ "${PIPESTATUS[0]}" -eq 0 ]
}

# A server whose adapters are swapped, under load, for at most two minutes.
soak() {
  "$bin/serving" soak --seconds "$soak_seconds" --polyrank "$bin/polyrank" --model-id tests/goldens/bert --folder "$work" --dumps "$work" \
    --flag=--device --flag="$device"
}
export -f tests_in sanitize training soak

run() {
  device=cuda only="" seconds=480 out="$root/.gpu/out"
  while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 needs a value"
    case $1 in
      --device) device=$2 ;;
      --out) out=$2 ;;
      --seconds) seconds=$2 ;;
      --only) only=$2 ;;
      *) fail "unknown flag $1" ;;
    esac
    shift 2
  done
  SECONDS=0 bad=0
  deadline=$seconds
  mkdir -p "$out"
  out=$(cd "$out" && pwd)
  results="$out/results.md" log="$out/log.txt"
  : > "$results"; : > "$log"; : > "$out/results.jsonl"; : > "$out/step.err"
  work=$(mktemp -d "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)/polyrank-check-XXXXXX") || fail "no folder to work in"
  trap 'rm -rf "$work"' EXIT
  bases="$work/bases"
  # The tests look for their data at the path that they were built at.
  tar -xJf "$check/bundle.tar.xz" -C "$work" 2> /dev/null || python3 -m tarfile -e "$check/bundle.tar.xz" "$work" > /dev/null || fail "there is no bundle: run 'check.sh build' first"
  bin="$work/bin" built=$(cat "$work/root")
  chmod +x "$bin"/*
  # The mark says that an earlier run put the files there, and was stopped. They may be those of another bundle. A checkout is left alone.
  local mark="$built/.polyrank-check"
  if [ ! -e "$built/Cargo.toml" ] && { [ ! -e "$built/tests" ] || [ -e "$mark" ]; }; then
    # Tests of training look for `training/../tests`.
    trap 'rm -rf "$work" "$built/tests" "$built/examples" "$built/training" "$built/.polyrank-check"' EXIT
    rm -rf "$built/tests" "$built/examples"
    mkdir -p "$built/training" && touch "$mark" && cp -r "$work/tests" "$work/examples" "$built/" || fail "cannot make $built"
  fi
  [ -e "$built/tests/goldens" ] || fail "$built has no tests/goldens: it is neither a checkout nor empty"
  cd "$built" || exit 1
  # The toolkit's libraries, or those of torch's packages.
  local libraries
  libraries=$(ls -d /usr/local/cuda/lib64 /usr/local/cuda-13*/lib64 2> /dev/null | tr '\n' ':')
  libraries+=$(python3 -c 'import glob, site, sys
print(":".join(sorted({path for base in {*site.getsitepackages(), *sys.path} for path in glob.glob(f"{base}/nvidia/*/lib")})))' 2> /dev/null)
  export LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}"
  export PATH="$PATH:/usr/local/cuda/bin" HF_HUB_OFFLINE=1 POLYRANK_TEST_DEVICE="$device" XDG_CACHE_HOME="$work/cache" POLYRANK_HOME="$work/home"
  export RUST_BACKTRACE=0 PYTHONUNBUFFERED=1 device out bin bases work

  local bench=(--device "$device" --folder "$work" --seconds 2) peer=(--device "$device") tiny=() cases=48
  export train_flags="--dtype bf16 --steps 30" peer_train_flags="--steps 30" soak_seconds=120
  local sizes=() peer_sizes=() ceiling=() many=(--many 1000) halves=()
  if [ "$device" = cpu ]; then
    bench=(--device cpu --folder "$work" --dtype f32 --seconds 0.1) peer+=(--dtype f32 --seconds 0.1) tiny=(--tiny) cases=1
    sizes=(--texts 4 --adapters 2) peer_sizes=(--texts 4 --adapters 2) ceiling=(--size 256) many=(--many 5)
    train_flags="--dtype f32 --steps 2 --warmup-steps 1 --batch-size 4" soak_seconds=5
    peer_train_flags="--hidden 32 --layers 2 --heads 2 --intermediate 64 --vocab 100 --steps 2 --warmup-steps 1 --dtype f32 --batch-size 4"
    # These tests choose GPUs among the backends, and find the one that emulates a GPU.
    halves=(env -u POLYRANK_TEST_DEVICE)
  fi
  echo "polyrank $(cut -c1-12 "$work/commit"), device $device, $(nproc) cores, $(date -u +%F)" | tee -a "$results"
  printf '\n| step | result | |\n| --- | --- | --- |\n' | tee -a "$results"
  [ "$device" = cpu ] || step card 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
  export PROPTEST_CASES=$cases
  step bases 60 python3 tests/gpu/bases.py "$bases" --device "$device" "${tiny[@]}"
  # On the CPU, kernels' tests run without a device's name: they emulate a GPU.
  local unit=(env)
  [ "$device" = cpu ] && unit=(env -u POLYRANK_TEST_DEVICE)
  step tests:kernels 90 tests_in "${unit[@]}" "$bin/unit" ops::tests cuda:: engine::tests
  step tests:goldens-f32 60 tests_in "$bin/main" parity::adapters_alone parity::packed parity::hidden parity::adapter_of prefix::short prefix::every
  step tests:goldens-half 45 tests_in "${halves[@]}" "$bin/main" parity::half_types
  step tests:training 45 tests_in "${unit[@]}" "$bin/training-main" device::
  step ceiling 30 python3 tests/gpu/peers.py ceiling "$bases/roberta-large" "${peer[@]}" "${ceiling[@]}" --seconds 1
  step mixed:roberta 40 "$bin/gpu" mixed latency --model-id "$bases/roberta-large" "${bench[@]}" "${sizes[@]}"
  step mixed:deberta 40 "$bin/gpu" mixed latency attention --model-id "$bases/deberta-v3-base" "${bench[@]}" "${sizes[@]}"
  step mixed:roberta-sst2 30 "$bin/gpu" mixed --length sst2 --model-id "$bases/roberta-large" "${bench[@]}" "${sizes[@]}"
  step mixed:deberta-sst2 30 "$bin/gpu" mixed --length sst2 --model-id "$bases/deberta-v3-base" "${bench[@]}" "${sizes[@]}"
  step peers:roberta 50 python3 tests/gpu/peers.py mixed "$bases/roberta-large" --length 128 sst2 "${peer[@]}" "${peer_sizes[@]}"
  step peers:deberta 50 python3 tests/gpu/peers.py mixed "$bases/deberta-v3-base" --length 128 sst2 "${peer[@]}" "${peer_sizes[@]}"
  step peers:attention 20 python3 tests/gpu/peers.py attention "$bases/deberta-v3-base" "${peer[@]}" "${peer_sizes[@]}"
  step peers:latency 75 python3 tests/gpu/peers.py latency "$bases/roberta-large" "${peer[@]}" --seconds 2
  step training 60 training
  step delta 25 "$bin/gpu" delta --model-id "$bases/roberta-large" "${bench[@]}" "${sizes[@]}"
  step delta:peers 30 python3 tests/gpu/peers.py delta "$bases/roberta-large" "${peer[@]}" "${peer_sizes[@]}" --seconds 0.2
  step sanitizer:memcheck 45 sanitize memcheck
  step many 70 "$bin/gpu" many "${many[@]}" --model-id "$bases/roberta-large" "${bench[@]}" "${sizes[@]}"
  step sanitizer:racecheck 45 sanitize racecheck
  step tests:prefix 60 tests_in "$bin/main" prefix::
  # At most two minutes, and less where little time is left.
  [ "$device" = cpu ] || soak_seconds=$((deadline - SECONDS - 40 < 120 ? deadline - SECONDS - 40 : 120))
  if [ "$device" = cpu ] || [ "$soak_seconds" -ge 20 ]; then
    step soak $((soak_seconds + 35)) soak
  elif [ -z "$only" ]; then
    echo "| soak | not run | a soak of less than 20 s shows nothing |" | tee -a "$results"
    bad=$((bad + 1))
  fi
  {
    printf '\n%s\n\n' "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null || echo "no GPU: a rehearsal")"
    python3 tests/gpu/table.py "$out/results.jsonl"
  } | tee -a "$results"
  rm -f "$out"/step.* "$out"/tests.txt
  [ "$bad" -eq 0 ]
}

case ${1:-} in
  build) shift; build "$@" ;;
  run) shift; run "$@" ;;
  *) sed -n '2,14p' "$0"; exit 2 ;;
esac
