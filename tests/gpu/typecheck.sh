#!/usr/bin/env bash
# Type-checks the Rust code of the feature `cuda` without a CUDA toolkit. A stand-in for nvcc writes empty kernels, which nothing links or
# runs; compile.sh compiles the kernels themselves.  typecheck.sh OUT [ARGUMENTS OF cargo check]
# OUT keeps the stand-in.
set -euo pipefail
out=$(realpath -m "$1")
shift
mkdir -p "$out/bin" "$out/include" "$out/lib64"
cat > "$out/bin/nvcc" << 'STAND_IN'
#!/usr/bin/env bash
# The version is on the fourth line, where cudarc looks for it.
case " $* " in
  *" --version "*) printf 'nvcc\n\n\nCuda compilation tools, release 13.0, V13.0.88\n' ;;
  *" --list-gpu-code "*) printf 'sm_80\nsm_90\n' ;;
esac
file="" folder="" before=""
for argument in "$@"; do
  case $before in
    -o | --output-file) file=$argument ;;
    --output-directory) folder=$argument ;;
  esac
  before=$argument
done
[ -z "$file" ] || : > "$file"
for argument in "$@"; do
  case $argument in *.cu) [ -z "$folder" ] || : > "$folder/$(basename "${argument%.cu}").ptx" ;; esac
done
STAND_IN
chmod +x "$out/bin/nvcc"
export CUDA_HOME=$out CUDA_PATH=$out CUDA_ROOT=$out CUDA_TOOLKIT_ROOT_DIR=$out NVCC=$out/bin/nvcc PATH=$out/bin:$PATH CUDA_COMPUTE_CAP=90
cargo check --workspace --features polyrank/cuda,polyrank-training/cuda --locked "$@"
