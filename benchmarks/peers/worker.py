# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of what is measured alone: optimizers and gloo's collectives.

    python worker.py optimizers            two threads
    RANK=0 WORLD_SIZE=2 ... python worker.py collectives    one process a rank

Reads orders from standard input, a line of JSON each, and answers each by a line of JSON; run.py
writes them, so that turns can be taken with a process that lives on. The first pass of collectives
touches caches and pages; it is run and not counted.
"""
import json
import os
import sys
import time

import torch
import torch.distributed as dist


class Optimizer:
    """AdamW on one flat array, with gradients in fp32. `copy`: parameters in bf16 are written, too,
    after the update, as there is no call that does both."""

    def __init__(self, which, count, copy):
        self.p = torch.nn.Parameter(torch.ones(count))
        self.p.grad = (torch.arange(count) % 7).to(torch.float32) + 0.5
        self.copy = torch.zeros(count, dtype=torch.bfloat16) if copy else None
        options = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
        if which == "deepspeed":
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            self.optimizer = DeepSpeedCPUAdam([self.p], adamw_mode=True, **options)
        else:
            self.optimizer = torch.optim.AdamW([self.p], fused=True, **options)

    def seconds_of_a_pass(self):
        start = time.perf_counter()
        self.optimizer.step()
        if self.copy is not None:
            self.copy.copy_(self.p.detach())
        return time.perf_counter() - start

    def check(self):
        return self.p.detach().double().mean().item()


def optimizer_turns():
    """Answers `make`, then `pass` as often as it is asked for, then `drop`, which tells the check."""
    held = {}

    def answer(order):
        which = order["which"]
        if order["do"] == "make":
            held[which] = Optimizer(which, order["parameters"], order["copy"])
            return {}
        if order["do"] == "pass":
            return {"seconds": [held[which].seconds_of_a_pass()]}
        return {"check": held.pop(which).check()}

    return answer


def collective_passes(order):
    """Of ranks whose every element is rank + 1. `spans` are arrival and end on a clock that the
    processes share."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    full = torch.empty((order["mib"] << 20) // 4)
    shard = torch.empty(full.numel() // ranks)
    spans = []
    for i in range(order["passes"] + 1):
        full.fill_(rank + 1)
        shard.fill_(rank + 1)
        dist.barrier()
        start = time.clock_gettime(time.CLOCK_MONOTONIC)
        if order["which"] == "reduce_scatter":
            dist.reduce_scatter_tensor(shard, full, op=dist.ReduceOp.AVG)
        elif order["which"] == "all_gather":
            dist.all_gather_into_tensor(full, shard)
        else:
            dist.all_reduce(full, op=dist.ReduceOp.AVG)
        if i != 0:
            spans.append([start, time.clock_gettime(time.CLOCK_MONOTONIC)])
    result = shard if order["which"] == "reduce_scatter" else full
    return {"spans": spans, "check": (result[0] + result[-1]).item()}


def main():
    if sys.argv[1] == "optimizers":
        torch.set_num_threads(2)
        answer = optimizer_turns()
    else:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
        answer = collective_passes
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


main()
