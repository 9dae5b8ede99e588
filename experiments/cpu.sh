#!/usr/bin/env bash
# The runs behind docs/results.md, on a CPU: hours on two cores. Each part goes on where it stopped.
#
#     experiments/cpu.sh DATA OUT [PART ...]        parts: privacy boolq large csqa promise reasons signal context report (all, in this order)
#
# DATA: question files of scripts/prepare_demo_questions.py (made there if it is empty); further *.questions.jsonl with
# their *.answers.jsonl may lie beside them. OUT: runs and rows. LARGE: Qwen2.5-Coder-1.5B-Instruct, a folder or a .gguf
# file; without it the parts that need it say so and are left out. BIN: where neuron-opsd and python are. DTYPE: of the models,
# bfloat16 unless given. Where the processor has no units for it, float32 is six times as fast.
set -euo pipefail

usage() { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2
shift 2
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(privacy boolq large csqa promise reasons signal context report)
bin=${BIN:-$here/../.venv/bin}
large=${LARGE:-}
dtype=${DTYPE:-bfloat16}
small=embedded:smollm2-135m
letter='You answer multiple-choice questions with a single letter and nothing else.'
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1

[ -x "$bin/neuron-opsd" ] || { echo "no neuron-opsd in $bin: run 'make venv-dev', or give BIN" >&2; exit 2; }
mkdir -p "$data" "$out"
[ -f "$data/openbookqa.questions.jsonl" ] || "$bin/python" "$here/../scripts/prepare_demo_questions.py" "$data"

# sample NAME COUNT: COUNT questions of NAME, drawn with seed 0, as NAME-COUNT.questions.jsonl
sample() {
    [ -f "$data/$1-$2.questions.jsonl" ] || "$bin/python" - "$data/$1.questions.jsonl" "$data/$1-$2.questions.jsonl" "$2" <<'PYTHON'
import random, sys
source, target, count = sys.argv[1:]
rows = open(source, encoding="utf-8").readlines()
random.Random(0).shuffle(rows)
open(target, "w", encoding="utf-8").writelines(rows[: int(count)])
PYTHON
}

# train RECIPE SEED FOLDER MODEL QUESTIONS CROSS ANSWERS OTHER_ANSWERS SETTINGS...
train() {
    local recipe=$1 seed=$2 folder=$3 model=$4
    "$bin/neuron-opsd" run "$recipe" --model "$model" --questions "$data/$5.questions.jsonl" \
        --cross "$data/$6.questions.jsonl" --answers "$data/$7.answers.jsonl" --answers "$data/$8.answers.jsonl" \
        --output "$folder-seed$seed" --cache "$out/stages" seed="$seed" model.dtype="$dtype" contexts.max_prompt_tokens=2048 \
        'training.lora={rank: 16, alpha: 32}' training.warmup_steps=1 training.batch_size=8 training.max_epochs=null \
        evaluation.option_probability=false "${@:9}"
}

# Claim 3 on the small model: one word, three seeds.
common=(prompts.answer_format=free questions.test_fraction=0.667 rollouts.max_new_tokens=8 contexts.num_demonstrations=4
    training.learning_rate=2e-4 training.micro_batch_size=8 training.num_steps=12 training.max_new_tokens=8
    training.save_steps=12 evaluation.num_samples=4 evaluation.max_new_tokens=8 evaluation.batch_size=64)
looked=(preflight.num_questions=16 preflight.num_samples=2)
part_privacy() {
    sample privacy_yes_no 900
    local seed recipe own=("${common[@]}" questions.max_test=300)
    local where=(privacy_yes_no-900 film_reviews privacy_yes_no film_reviews)
    for seed in 0 1 2; do
        for recipe in neuron_opsd random_selection; do
            train "$recipe" "$seed" "$out/privacy/$recipe" "$small" "${where[@]}" "${own[@]}" "${looked[@]}"
        done
    done
    for seed in 0 1 2; do
        train lmsi "$seed" "$out/privacy/lmsi" "$small" "${where[@]}" "${own[@]}" rollouts.num_rollouts=4
    done
    train usable_replies 0 "$out/privacy/usable_replies" "$small" "${where[@]}" "${own[@]}" "${looked[@]}"
}

# The variant, on a domain that was not used to choose it; then it with two single changes: the score, the loss.
part_boolq() {
    sample boolq_yes_no 900
    local seed recipe where=(boolq_yes_no-900 film_reviews boolq_yes_no film_reviews)
    for seed in 0 1 2; do
        for recipe in neuron_opsd usable_replies random_selection; do
            train "$recipe" "$seed" "$out/boolq/$recipe" "$small" "${where[@]}" "${common[@]}" "${looked[@]}"
        done
    done
    for seed in 0 1 2; do
        train usable_replies "$seed" "$out/boolq/usable_log_prob" "$small" "${where[@]}" "${common[@]}" "${looked[@]}" \
            selection.score=log_prob
        train usable_replies "$seed" "$out/boolq/usable_forward_kl" "$small" "${where[@]}" "${common[@]}" \
            preflight.num_questions=0 training.divergence=forward_kl training.pointwise_clip=0.05
    done
}

# Claim 3 on the large model, single letters: settings chosen on OpenBookQA, one seed; then CommonsenseQA, three seeds.
letters=(prompts.answer_format=letter "prompts.system=$letter" rollouts.max_new_tokens=4 rollouts.batch_size=16
    neurons.batch_size=8 contexts.num_demonstrations=2 training.micro_batch_size=4 training.max_new_tokens=4
    training.save_steps=6 evaluation.num_samples=8 evaluation.max_new_tokens=2 preflight.num_samples=1)
steep=(training.learning_rate=3e-4 training.num_steps=10)
gentle=(training.learning_rate=1e-4 training.num_steps=24 training.warmup_steps=3)
part_large() {
    needs_large large || return 0
    sample medmcqa 150
    local own=("${letters[@]}" questions.test_fraction=0.68 questions.max_test=300 preflight.num_questions=16)
    local where=(openbookqa medmcqa-150 openbookqa medmcqa)
    local recipe
    for recipe in neuron_opsd random_selection; do
        train "$recipe" 0 "$out/large/$recipe" "$large" "${where[@]}" "${own[@]}" "${steep[@]}"
    done
    train full_pool 0 "$out/large/full_forward_kl" "$large" "${where[@]}" "${own[@]}" "${steep[@]}" \
        selection.usable_only=true contexts.usable_only=true training.divergence=forward_kl
    train neuron_opsd 0 "$out/large/neuron_opsd_1e-4" "$large" "${where[@]}" "${own[@]}" "${gentle[@]}"
    train usable_replies 0 "$out/large/usable_full_1e-4" "$large" "${where[@]}" "${own[@]}" "${gentle[@]}" \
        selection.fraction=1.0
}

part_csqa() {
    needs_large csqa || return 0
    sample commonsenseqa 810
    sample openbookqa 100
    local own=("${letters[@]}" "${gentle[@]}" questions.test_fraction=0.75 questions.max_test=600
        preflight.num_questions=32 'training.trainer={bf16: true}')
    local seed recipe where=(commonsenseqa-810 openbookqa-100 commonsenseqa openbookqa)
    for seed in 0 1 2; do
        for recipe in neuron_opsd random_selection usable_replies; do
            train "$recipe" "$seed" "$out/csqa/$recipe" "$large" "${where[@]}" "${own[@]}"
        done
    done
}

# The promise (LOG.md, "which recipe keeps the promise?"): exact letters, 500 test questions, equal steps. Cells in the order in
# which they say most. 100 questions of OpenBookQA beside each domain.
promised=(prompts.answer_format=letter questions.test_fraction=0.5 questions.max_train=256 questions.max_test=500
    rollouts.max_new_tokens=2 rollouts.batch_size=16 neurons.batch_size=8 selection.fraction=0.25
    preflight.num_questions=0 num_threads=1 training.learning_rate=2e-4 training.num_steps=12 training.micro_batch_size=4
    training.max_new_tokens=1 training.save=adapter training.save_steps=4 evaluation.exact=true evaluation.option_probability=true)

# `large` has the rate of the small model, at which the 1.5B model drifts. `gentle` has half of it.
# promise_cell NAME MODEL DTYPE SYSTEM DOMAIN RECIPE SEED
promise_cell() {
    local own=(model.dtype="$3" "prompts.system=$4") recipe=$6
    case $recipe in
        neuron_opsd | random_selection) own+=(contexts.num_demonstrations=2) ;;
        order_average) own+=(training.teacher_orders=5) ;;
        order_context_matched)
            recipe=order_average
            own+=(training.teacher_orders=5 contexts.num_demonstrations=2 training.teacher_entropy=matched)
            ;;
        order_matched)
            recipe=order_average
            own+=(training.teacher_orders=5 training.teacher_entropy=matched)
            ;;
        entropy_matched) own+=(contexts.num_demonstrations=2) ;;
        fixed_context) own+=(contexts.num_demonstrations=10 selection.fraction=1.0 training.num_steps=24) ;;
        lmsi) own+=(rollouts.num_rollouts=8) ;;
    esac
    [ "$1" != gentle ] || own+=(training.learning_rate=1e-4 training.warmup_steps=3)
    train "$recipe" "$7" "$out/promise/$1-$5/$6" "$2" "$5" openbookqa-100 "$5" openbookqa "${promised[@]}" "${own[@]}"
}

part_promise() {
    sample openbookqa 100
    local domain recipe seed domains=(commonsenseqa siqa medmcqa mmlu_clinical)
    for recipe in order_average neuron_opsd random_selection lmsi ssd order_context_matched; do
        for domain in "${domains[@]}"; do
            promise_cell small $small float32 Answer. "$domain" "$recipe" 0
        done
    done
    for seed in 1 2; do
        for domain in "${domains[@]}"; do
            promise_cell small $small float32 Answer. "$domain" order_average "$seed"
        done
    done
    needs_large promise || return 0
    for recipe in order_average entropy_matched; do
        promise_cell large "$large" "$dtype" "$letter" commonsenseqa "$recipe" 0
    done
    for seed in 0 1 2; do
        for recipe in neuron_opsd fixed_context random_selection ssd lmsi base_order_average order_average order_matched entropy_matched; do
            for domain in "${domains[@]}"; do
                promise_cell gentle "$large" "$dtype" "$letter" "$domain" "$recipe" "$seed"
            done
        done
    done
}

# The promise with reasons: sampled answers of up to 160 tokens, so few questions and samples. Chunks are scaled to the replies.
reasons=(prompts.answer_format=reasoned questions.test_fraction=0.5 questions.max_train=128 questions.max_test=120
    rollouts.max_new_tokens=160 rollouts.batch_size=32 neurons.batch_size=8 neurons.chunk_tokens=32 selection.fraction=0.25
    contexts.num_demonstrations=2 preflight.num_questions=0 num_threads=1 training.learning_rate=1e-4 training.warmup_steps=3
    training.num_steps=12 training.micro_batch_size=4 training.max_new_tokens=160 training.save=adapter training.save_steps=4
    evaluation.num_samples=4 evaluation.max_new_tokens=160 evaluation.batch_size=128)

part_reasons() {
    needs_large reasons || return 0
    sample openbookqa 40
    train neuron_opsd 0 "$out/reasons/neuron_opsd" "$large" commonsenseqa openbookqa-40 commonsenseqa openbookqa "${reasons[@]}"
}

# signal MODEL LABEL DTYPE DOMAIN FORMAT COUNT VOTES TOKENS [--system TEXT]
signal() {
    [ -f "$data/$4.questions.jsonl" ] || { echo "signal: no $data/$4.questions.jsonl, left out" >&2; return 0; }
    "$bin/python" "$here/signal_study.py" measure --model "$1" --label "$2" --dtype "$3" \
        --questions "$data/$4.questions.jsonl" --answers "$data/$4.answers.jsonl" --output "$out/signal/$2-$4-$5.jsonl" \
        --format "$5" --num-questions "$6" --votes "$7" --max-new-tokens "$8" "${@:9}"
}

# Claim 1.
part_signal() {
    local name=SmolLM2-135M
    signal $small $name float32 film_reviews free 142 8 8
    signal $small $name float32 privacy_yes_no free 250 8 8
    signal $small $name float32 openbookqa reasoned 160 4 64
    signal $small $name float32 medmcqa reasoned 120 4 48
    signal $small $name float32 asdiv reasoned 100 4 96
    needs_large signal || return 0
    name=Qwen2.5-Coder-1.5B
    signal "$large" $name "$dtype" openbookqa letter 150 8 4 --system "$letter"
    local domain
    for domain in medmcqa sciknoweval_physics commonsenseqa mmlu_clinical; do
        signal "$large" $name "$dtype" $domain letter 120 8 4 --system "$letter"
    done
}

# Claim 2.
part_context() {
    "$bin/python" "$here/context_study.py" measure --model $small --label SmolLM2-135M --dtype float32 --format free \
        --max-new-tokens 8 --questions "$data/privacy_yes_no.questions.jsonl" \
        --answers "$data/privacy_yes_no.answers.jsonl" --other "$data/film_reviews.questions.jsonl" \
        --output "$out/context/small-privacy_yes_no" --pool 250 --queries 120 --demonstrations 2
    needs_large context || return 0
    local kinds=none,random,neuron,neuron_permuted,tfidf
    context_large openbookqa --conditions "$kinds,template,embedding,random_permuted,other" \
        --other "$data/commonsenseqa.questions.jsonl"
    context_large medmcqa --conditions "$kinds"
}

# context_large DOMAIN OPTIONS...
context_large() {
    "$bin/python" "$here/context_study.py" measure --model "$large" --label Qwen2.5-Coder-1.5B --system "$letter" \
        --questions "$data/$1.questions.jsonl" --answers "$data/$1.answers.jsonl" --output "$out/context/large-$1" \
        --pool 150 --queries 80 --demonstrations 2 "${@:2}"
}

# Tables as Markdown, pictures as SVG.
part_report() {
    local figures=$out/figures
    mkdir -p "$figures"
    "$bin/python" "$here/power.py" >"$figures/power.md"
    "$bin/python" "$here/signal_study.py" report "$out"/signal/*.jsonl --picture "$figures/signal.svg" >"$figures/signal.md"
    "$bin/python" "$here/context_study.py" report "$out"/context/* --picture "$figures/context.svg" >"$figures/context.md"
    local name
    for name in privacy boolq large csqa; do
        [ ! -d "$out/$name" ] || "$bin/python" "$here/training_study.py" "$out/$name"/* \
            --picture "$figures/$name.svg" >"$figures/$name.md"
    done
    if [ -d "$out/promise" ]; then
        "$bin/python" "$here/promise_study.py" "$out/promise" >"$figures/promise.md"
        "$bin/python" "$here/sureness_study.py" "$out/promise" >"$figures/sureness.md"
    fi
    echo "tables and pictures: $figures"
}

needs_large() {
    [ -n "$large" ] || { echo "$1: LARGE is not given, so the parts on Qwen2.5-Coder-1.5B are left out" >&2; return 1; }
}

for part in "${parts[@]}"; do
    declare -F "part_$part" >/dev/null || usage
    "part_$part"
done
