#!/usr/bin/env bash
# Compiles every kernel for Hopper with nvcc, with the flags of build.rs, and links nothing:  compile.sh OUT [DIR]
# OUT keeps what was compiled; a kernel is compiled again when it or a header has changed. DIR (default: src) is where kernels are
# looked for. Needs no GPU. nvcc is $NVCC, or the one on the PATH.
set -euo pipefail
out=$1 dir=${2:-$(dirname "$0")/../../src}
nvcc=${NVCC:-nvcc}
mkdir -p "$out"
headers=$(find "$dir" -name '*.cuh' -print0 | sort -z | xargs -0 cat | cat - "$0" | sha256sum | cut -c1-16)
compile() {
  local source=$1 image log
  image="$out/$(cat "$source" <(echo "$source $headers") | sha256sum | cut -c1-32).fatbin"
  log=${image%.fatbin}.log
  [ -f "$image" ] && return
  if "$nvcc" -fatbin -std=c++17 -O3 -Xptxas -v -I "$dir/cuda" -gencode=arch=compute_90,code=sm_90 \
    -o "$image.part" "$source" > "$log" 2>&1; then
    mv "$image.part" "$image"
    # Registers that do not fit are kept in slow memory.
    awk -v source="$source" '/Compiling entry function/ {name = $(NF - 2)}
      /spill stores/ && !/ 0 bytes spill stores/ {print source ": " name ": " $0}' "$log"
  else
    cat "$log" >&2
    rm -f "$image.part"
    echo "nvcc refuses $source" >&2
    return 1
  fi
}
export -f compile
export out dir nvcc headers
find "$dir" -name '*.cu' -print0 | sort -z | xargs -0 -n 1 -P "$(nproc)" bash -c 'set -euo pipefail; compile "$1"' compile
echo "$(find "$dir" -name '*.cu' | wc -l) files of kernels compiled for sm_90"
