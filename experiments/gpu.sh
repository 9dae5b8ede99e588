#!/usr/bin/env bash
# What a GPU can show, in two calls of at most six minutes each, on a machine without network. docs/gpu.md
#
#   where there is a network   experiments/gpu.sh prepare FOLDER    wheels of what such a machine may lack (under 60 MB)
#   on the GPU machine         experiments/gpu.sh tests             pytest -m gpu: tiny models through every stage in bfloat16
#                              experiments/gpu.sh shapes            Qwen3-4B's and 8B's shapes: time and peak memory of each stage
#
# Options: --wheels FOLDER (from `prepare`), --results FOLDER ($OUT, else /tmp/neuron-opsd-gpu/results),
#          --toy (the same on a processor, in a minute). Environment: PYTHON (python3).
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3} work=${NEURON_OPSD_GPU_WORK:-/tmp/neuron-opsd-gpu}

# Releases with which the tests pass.
wheels=(pydantic==2.14.3 pydantic_core==2.50.4 annotated-types==0.7.0 typing-inspection==0.4.5 typing_extensions==4.16.0
    gguf==0.19.0 psutil==7.2.2 jaxtyping==0.3.11 wadler-lindig beartype==0.23.1 hypothesis==6.170.15 sortedcontainers
    pytest==9.2.0 pluggy iniconfig pygments)

say() { printf '%s\n' "$*"; }
die() { printf 'gpu.sh: %s\n' "$*" >&2; exit 2; }
usage() { sed -n '2,/^# Options/{s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

prepare() {
    local name
    (($# == 1)) || die "prepare needs one folder to write to."
    mkdir -p "$1"
    for name in "${wheels[@]}"; do
        "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version 3.12 \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
            --dest "$1" "$name" || die "no wheel of $name for Python 3.12 on Linux was found."
    done
    say "prepared $(du -sh "$1" | cut -f1) in $1. On the GPU machine: experiments/gpu.sh tests --wheels $1"
}

install_wheels() {  # what is missing, and what that needs in turn, where a wheel of it was carried
    local name found lacking wheel
    for _ in 1 2 3 4; do
        found=() lacking=()
        for name in $("$python" "$repo/experiments/gpu_check.py" --extra pytest --extra beartype --extra hypothesis); do
            wheel=$(find "${carried:-/none}" -iname "${name//[-.]/_}-*.whl" 2>/dev/null | sort | head -n 1)
            if [[ -n $wheel ]]; then found+=("$wheel"); else lacking+=("$name"); fi
        done
        ((${#found[@]})) || break
        say "installing ${found[*]##*/}"
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "${found[@]}" \
            --root-user-action=ignore
    done
    ((${#lacking[@]} == 0)) || say "missing or too old, and no wheel of them was carried: ${lacking[*]}"
}

needs_gpu() {
    [[ -n $toy ]] || "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        die "torch sees no GPU here. Use --toy on a machine without one."
}

tests() {
    local chosen=(-m gpu)
    [[ -z $toy ]] || chosen=(-k cpu)
    timeout "$limit" "$python" -m pytest -rs -p no:cacheprovider "$repo/tests/devices" "${chosen[@]}" 2>&1 | tee "$results/tests.txt"
}

shapes() {
    timeout "$limit" "$python" -W ignore "$repo/experiments/gpu_shapes.py" --output "$results" ${toy:+--toy}
}

limit=360 toy='' carried='' results=${OUT:-$work/results} words=()
while (($#)); do
    case $1 in
        --toy) toy=yes limit=1800; shift ;;
        --wheels | --results)
            (($# > 1)) || die "$1 needs a value."
            [[ $1 == --results ]] && results=$2 || carried=$2
            shift 2 ;;
        -h | --help) usage; exit ;;
        -*) die "there is no option $1. \`experiments/gpu.sh --help\` lists them." ;;
        *) words+=("$1"); shift ;;
    esac
done
command -v "$python" >/dev/null || die "there is no $python. Name a Python 3.11 or later: PYTHON=/path/to/python"
[[ -z $carried || -d $carried ]] || die "--wheels $carried is no folder. Give the one that \`prepare\` wrote."
export PYTHONPATH="$work/site:$repo/src" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 NEURON_OPSD_STAGES=off
case ${words[0]:-help} in
    help) usage ;;
    prepare) prepare "${words[@]:1}" ;;
    tests | shapes)
        ((${#words[@]} == 1)) || die "${words[0]} takes no '${words[1]}'."
        mkdir -p "$results"
        needs_gpu
        install_wheels
        "$python" -m neuron_opsd.cli env >"$results/environment.json" || die "neuron_opsd cannot be imported: see above."
        "${words[0]}"
        say "results: $results" ;;
    *) die "there is no command '${words[0]}'. \`experiments/gpu.sh --help\` lists them." ;;
esac
