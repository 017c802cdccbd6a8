#!/bin/sh
# On a machine with one CUDA GPU and Axolotl: a real QLoRA + ZeRO-3 run under `ftdoctor launch`, the step time with and
# without it, a real out-of-memory, and the memory estimate on models it was not fitted to.
#   sh tools/gpu_session.sh OUT
set -u
out=$1
ftd="python3 -m ftdoctor"
export AXOLOTL_DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
root=$PWD
work=$(mktemp -d)
python3 -c "from tools.calibrate_memory import prepare; import pathlib; prepare(pathlib.Path('$work'), 'llama-1b')" 2>/dev/null
cd "$work" || exit 1
python3 - <<'P'
import json
base = json.loads("""{"base_model": "llama-1b", "tokenizer_type": "PreTrainedTokenizerFast", "chat_template": "llama3",
 "special_tokens": {"pad_token": "<|end_of_text|>"}, "datasets": [{"path": "chat.jsonl", "type": "chat_template"}],
 "adapter": "qlora", "load_in_4bit": true, "lora_r": 16, "lora_alpha": 32, "lora_target_linear": true,
 "sequence_len": 1024, "pad_to_sequence_len": true, "sample_packing": false, "val_set_size": 0, "micro_batch_size": 2,
 "gradient_accumulation_steps": 1, "max_steps": 150, "optimizer": "adamw_torch", "learning_rate": 0.0002,
 "lr_scheduler": "constant", "logging_steps": 1, "bf16": true, "tf32": true, "gradient_checkpointing": true,
 "save_strategy": "no", "deepspeed": "z3.json", "output_dir": "out", "dataset_prepared_path": "prepared"}""")
json.dump(base, open("qlora_z3.yml", "w"), indent=1)
json.dump({**base, "deepspeed": None, "adapter": None, "load_in_4bit": False, "micro_batch_size": 64, "sequence_len": 4096,
           "gradient_checkpointing": False, "output_dir": "out2", "dataset_prepared_path": "prepared2"}, open("oom.yml", "w"), indent=1)
P
export MASTER_ADDR=127.0.0.1 MASTER_PORT=29611 RANK=0 LOCAL_RANK=0 WORLD_SIZE=1
for round in 1 2 3; do
  $ftd launch qlora_z3.yml --launcher python --name with$round > /dev/null 2> with$round.err
  echo "with ftdoctor $round: exit $?"
  python3 -m axolotl.cli.train qlora_z3.yml > bare$round.log 2>&1
  echo "without $round: exit $?"
done
python3 - <<'P'
import re, statistics
def rate(path):
    found = re.findall(r"'train_runtime': '?([\d.]+)", open(path, errors="replace").read())
    return float(found[-1]) if found else float("nan")
a = [rate(f"ftdoctor-runs/with{n}/train.log") for n in (1, 2, 3)]
b = [rate(f"bare{n}.log") for n in (1, 2, 3)]
d = [x - y for x, y in zip(a, b)]
print("train_runtime of 150 steps: with", a, "without", b, "difference mean %.3f s, sd %.3f s" % (statistics.mean(d), statistics.stdev(d)))
P
tail -30 with1.err
$ftd launch oom.yml --launcher python --name oom > /dev/null 2> oom.err; echo "oom: exit $?"; head -30 oom.err
mkdir -p "$out/healthy" "$out/oom"
cp ftdoctor-runs/with1/train.log ftdoctor-runs/with1/journal.jsonl "$out/healthy/"
cp ftdoctor-runs/oom/train.log ftdoctor-runs/oom/journal.jsonl "$out/oom/"
unset RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT
cd "$root" || exit 1
python3 -m tools.calibrate_memory --out "$out/peaks.jsonl" --shapes llama-8b llama-3b --seconds "${2:-230}" 2>&1 | grep "^llama"
