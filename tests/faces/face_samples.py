"""Diagnoses built in code, one per kind of report."""

from __future__ import annotations

from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix, RuleOutcome, RunSummary

OOM_LINE = (
    "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.25 GiB. GPU 3 has a total capacity of 79.15 GiB of which "
    "1.04 GiB is free. Process 9172 has 78.10 GiB memory in use. Of the allocated memory 74.91 GiB is allocated by PyTorch, and 1.20 GiB "
    "is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
OOM = Finding(
    id="cuda-oom",
    severity="error",
    role="cause",
    title="A GPU ran out of memory",
    message="Rank 3 asked for 2.25 GiB on GPU 3 (79.15 GiB in total).",
    why="Weights, gradients, optimizer state and activations together exceeded the device.",
    rank=3,
    node="node-1",
    step=412,
    time=1772532661.0,
    ranks=(3,),
    evidence=(Evidence("log", "logs/rank3.log", 1012, 1012, OOM_LINE),),
    fixes=(
        Fix(
            "Halve the micro batch and keep the effective batch",
            {"axolotl.micro_batch_size": 2, "axolotl.gradient_accumulation_steps": 4},
            cost="More micro steps per optimizer step; the same result.",
            config_before={"axolotl.micro_batch_size": 4, "axolotl.gradient_accumulation_steps": 2},
        ),
        Fix("Halve the sequence length", {"axolotl.sequence_len": 2048}, config_before={"axolotl.sequence_len": 4096}),
        Fix("Let the allocator grow its segments", env={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
    ),
)
_WATCHDOG = (
    "[rank{0}]:[E303 10:41:12.{0}23456789 ProcessGroupNCCL.cpp:616] [Rank {0}] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=1834, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=1800000) ran for 180002{0} milliseconds before timing out."
)
TIMEOUT = Finding(
    id="nccl-timeout",
    severity="error",
    role="cascade",
    title="A collective ran past its timeout",
    message="Rank 0 waited in ALLREDUCE (sequence number 1834) until the timeout. Also on ranks 1, 2, 4, 5, 6, 7.",
    why="Every rank has to enter the same collective.",
    rank=0,
    ranks=(0, 1, 2, 4, 5, 6, 7),
    count=7,
    evidence=tuple(Evidence("log", "logs/all.log", 20 + n, 20 + n, _WATCHDOG.format(n)) for n in (0, 1, 2, 4, 5)),
    fixes=(Fix("Find the rank that did not arrive", note="Look for the rank without a watchdog line."),),
    explained_by="cuda-oom",
)
LR = Finding(
    id="lr-too-high",
    severity="warning",
    role="cause",
    title="The learning rate is high for this kind of training",
    message="learning_rate 0.002 is above what LoRA training of an 8B model takes.",
    why="Loss spikes follow.",
    evidence=(Evidence("config", "qlora.yml", 12, 12, "learning_rate: 2e-3"),),
    fixes=(Fix("Divide it by ten", {"axolotl.learning_rate": 2e-4}, config_before={"axolotl.learning_rate": 2e-3}),),
)
PAD = Finding(
    id="pad-token-missing",
    severity="info",
    role="cause",
    title="The tokenizer has no padding token",
    message="Llama 3 has no padding token and special_tokens.pad_token is not set.",
)
DEEPSPEED = Finding(
    id="precision-fp16",
    severity="error",
    role="cause",
    title="fp16 where bf16 is needed",
    message="The DeepSpeed JSON and the YAML disagree about the precision.",
    evidence=(
        Evidence("log", "<stdin>", 7, 7, "\tValueError: Please correct the following DeepSpeed config values"),
        Evidence("metric", "trainer_state.json", 3, 90, "loss  step 10: 1.9  step 20: nan"),
    ),
    fixes=(
        Fix(
            "Use bf16 in both",
            {
                "axolotl.bf16": True,
                "axolotl.fp16": None,
                "deepspeed.bf16.enabled": True,
                "deepspeed.fp16": None,
                "deepspeed.zero_optimization.offload_optimizer": {"device": "cpu", "pin_memory": True},
                "deepspeed.zero_optimization.stage": 3,
                "axolotl.sequence_len": "half the current value",
            },
            env={"NCCL_DEBUG": "INFO", "X": "a b"},
            command="accelerate launch --num_processes 8 -m axolotl.cli.train qlora.yml --output_dir 'outputs/a folder with blanks' --debug",
            note="DeepSpeed reads its own file.",
            config_before={
                "axolotl.fp16": True,
                "deepspeed.zero_optimization.stage": 3,
                "deepspeed.bf16.enabled": False,
            },
        ),
    ),
)
OUTCOMES = (
    RuleOutcome("cuda-oom", "fired"),
    RuleOutcome("gpu-hot", "not_evaluated", ("GPU state",), "needs GPU state"),
    RuleOutcome("lr-too-low", "not_evaluated", ("Axolotl config", "total_steps"), "needs Axolotl config, total_steps"),
    RuleOutcome("mine", "crashed", (), "KeyError: 'x'"),
    RuleOutcome("nccl-timeout", "fired"),
)
RUN = RunSummary(
    "train", 8, 1, 412, 1000, {"loss": 1.2345678, "grad_norm": float("nan"), "learning_rate": 2e-4}, None, None,
    ("logs/rank3.log", "logs/all.log", "qlora.yml"), ("core.812: binary data, not a log",),
)  # fmt: skip

FAILING = Diagnosis(RUN, "failing", OOM, (OOM, TIMEOUT, LR, PAD), OUTCOMES)
NESTED = Diagnosis(RunSummary(stage="load"), "failing", DEEPSPEED, (DEEPSPEED,), ())
SUSPICIOUS = Diagnosis(RUN, "suspicious", LR, (LR, PAD), OUTCOMES[:3])
HEALTHY = Diagnosis(
    RunSummary("save", 2, 0, 48, 48, {"loss": 5.812, "train_loss": 5.836, "eval_loss": 5.808, "grad_norm": 0.273}, 0, True, ("train.log",)),
    "healthy", None, (PAD,), OUTCOMES[:2],
)  # fmt: skip
UNKNOWN = Diagnosis(RunSummary(sources=("notes.txt",)), "unknown", None, (), OUTCOMES[1:3])
ALL = {"failing": FAILING, "nested": NESTED, "suspicious": SUSPICIOUS, "healthy": HEALTHY, "unknown": UNKNOWN}
