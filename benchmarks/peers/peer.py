# SPDX-License-Identifier: Apache-2.0
"""One rank of one peer: trains as a specification says, writes what it saw.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python peer.py SPEC.json RESULT.json

run.py starts it. Ways:

    ddp     DistributedDataParallel; bf16 by autocast, gradients in fp32
    fsdp2   fully_shard of each block and of the rest; bf16 by MixedPrecisionPolicy, reduced in fp32
    zero1, zero2, zero3   DeepSpeed's stages; bf16 by its block `bf16`

`_compiled` behind the first two: by torch.compile. One thread, the backend gloo, AdamW that decays
matrices alone: PyTorch's fused one, DeepSpeed's DeepSpeedCPUAdam.
"""
import json
import os
import sys
import time


def memory_kb(field):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


with open(sys.argv[1]) as file:
    SPEC = json.load(file)
RANK = int(os.environ["RANK"])
RANKS = int(os.environ["WORLD_SIZE"])
WAY, IS_COMPILED = SPEC["way"].removesuffix("_compiled"), SPEC["way"].endswith("_compiled")
IS_BF16 = SPEC["dtype"] == "bf16"

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

import gpt2  # noqa: E402
import text  # noqa: E402

if WAY.startswith("zero"):
    import deepspeed
    from deepspeed.ops.adam import DeepSpeedCPUAdam

torch.set_num_threads(1)
IMPORTED_KB = memory_kb("VmRSS")


def groups_of(model):
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if gpt2.decays(name, p)], "weight_decay": SPEC["decay"]},
        {"params": [p for name, p in named if not gpt2.decays(name, p)], "weight_decay": 0.0},
    ]


def rates():
    return {"lr": SPEC["rate"], "betas": (0.9, 0.95), "eps": 1e-8}


def norm_of(parameters):
    """Of the whole model's gradient, summed over ranks where they hold parts of it."""
    square, is_sharded = torch.zeros(()), False
    for parameter in parameters:
        gradient = parameter.grad
        if hasattr(gradient, "to_local"):
            gradient, is_sharded = gradient.to_local(), True
        square += gradient.float().square().sum()
    if is_sharded:
        dist.all_reduce(square)
    return square.sqrt().item()


def stepper(model, loss_of):
    """A step with PyTorch's own AdamW. `look`: what is done with the gradients in between."""
    optimizer = torch.optim.AdamW(groups_of(model), fused=True, **rates())

    def step(tokens, targets, look):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(tokens, targets)
        loss.backward()
        if look:
            look(norm_of(model.parameters()))
        optimizer.step()
        return loss.item()

    return step


def ddp(model):
    if IS_COMPILED:
        model.compile()
    parallel = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    def loss_of(tokens, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=IS_BF16):
            return parallel(tokens, targets)

    return stepper(model, loss_of)


def fsdp2(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    policy = MixedPrecisionPolicy()
    if IS_BF16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        if IS_COMPILED:
            block.compile()
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return stepper(model, model)


def zero(model):
    config = {
        "train_micro_batch_size_per_gpu": SPEC["batch"],
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": int(WAY[-1])},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,  # it clips at 1 if nothing is said
        "bf16": {"enabled": IS_BF16},
    }
    if IS_BF16:
        config["communication_data_type"] = "fp32"
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if WAY == "zero3":  # the head uses the table, too, outside of the module that owns it
        deepspeed.zero.register_external_parameter(model, model.wte.weight)
    optimizer = DeepSpeedCPUAdam(groups_of(model), adamw_mode=True, **rates())
    engine, _, _, _ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )

    def step(tokens, targets, look):
        loss = engine(tokens, targets)
        engine.backward(loss)
        engine.step()
        norm = engine.get_global_grad_norm()
        if look and norm is not None:
            look(float(norm))
        return loss.item()

    return step


def main():
    dist.init_process_group("gloo", rank=RANK, world_size=RANKS)
    if WAY.startswith("zero"):
        deepspeed.init_distributed("gloo", dist_init_required=False)
    model = gpt2.Gpt2(gpt2.Shape(**SPEC["shape"]))
    gpt2.load(model, SPEC["init"])
    step = {"ddp": ddp, "fsdp2": fsdp2}.get(WAY, zero)(model)
    data = text.Text(SPEC["data"])
    batches = [
        tuple(
            torch.tensor(rows)
            for rows in data.sample(SPEC["seed"], i + 1, RANK, SPEC["batch"], SPEC["shape"]["context"])
        )
        for i in range(SPEC["warmup"] + SPEC["steps"])
    ]
    seconds, losses, norms = [], [], []
    for i, (tokens, targets) in enumerate(batches):
        start = time.perf_counter()
        losses.append(step(tokens, targets, norms.append if i == 0 else None))
        seconds.append(time.perf_counter() - start)
    result = {
        "seconds": seconds,
        "losses": losses,
        "first_norm": norms[0] if norms else None,
        "peak_kb": memory_kb("VmHWM"),
        "imported_kb": IMPORTED_KB,
        "torch": torch.__version__,
    }
    if WAY.startswith("zero"):
        result["deepspeed"] = deepspeed.__version__
    with open(sys.argv[2], "w") as out:
        json.dump(result, out)
    dist.barrier()
    dist.destroy_process_group()


main()
