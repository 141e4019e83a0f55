# SPDX-License-Identifier: Apache-2.0
"""GPT-2 of 124 M parameters in bf16 on one GPU by PyTorch, beside bench_gpu's tokens_per_s.

    python3 benchmarks/peers/torch_gpt2.py [--out FILE] [--batch N] [--steps N]

Two ways, each with a table of 50304 rows, 1024 tokens a sequence, AdamW in fp32 (fused), no dropout,
causal attention by scaled_dot_product_attention, on one batch of random tokens:

    plain   parameters in fp32, autocast to bf16, torch.compile
    fsdp2   fully_shard of each block over one rank, MixedPrecisionPolicy(bf16, reduce fp32), its
            blocks compiled

Prints a line each, writes one JSON object. Says SKIPPED where there is no PyTorch with CUDA.
"""
import argparse
import json
import os
import statistics
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--out")
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--ways", default="plain,fsdp2")
options = parser.parse_args()

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    print(f"SKIPPED: PyTorch cannot be imported: {error}")
    sys.exit(0)
if not torch.cuda.is_available():
    print(f"SKIPPED: PyTorch {torch.__version__} finds no GPU")
    sys.exit(0)

VOCABULARY, CONTEXT, EMBED, HEADS, LAYERS = 50304, 1024, 768, 12, 12
PEAK_FLOPS = 989e12


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(EMBED), nn.LayerNorm(EMBED)
        self.attn, self.attn_proj = nn.Linear(EMBED, 3 * EMBED), nn.Linear(EMBED, EMBED)
        self.fc, self.mlp_proj = nn.Linear(EMBED, 4 * EMBED), nn.Linear(4 * EMBED, EMBED)

    def forward(self, x):
        batch, context, _ = x.shape
        q, k, v = (
            part.view(batch, context, HEADS, EMBED // HEADS).transpose(1, 2)
            for part in self.attn(self.ln_1(x)).chunk(3, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(batch, context, EMBED))
        return x + self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, EMBED), nn.Embedding(CONTEXT, EMBED)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(EMBED)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # tied
        return F.cross_entropy(logits.view(-1, VOCABULARY).float(), targets.view(-1))


def plain():
    model = Gpt2().cuda()
    compiled = torch.compile(model)

    def loss(tokens, targets):
        with torch.autocast("cuda", torch.bfloat16):
            return compiled(tokens, targets)

    return model, loss


def fsdp2():
    import torch.distributed as dist
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29503")
    dist.init_process_group("nccl", rank=0, world_size=1)
    model = Gpt2().cuda()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        block.compile()
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    return model, model


def measure(make):
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model, loss_of = make()
    count = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    shape = (options.batch, CONTEXT)
    tokens = torch.randint(VOCABULARY, shape, device="cuda")
    targets = torch.randint(VOCABULARY, shape, device="cuda")
    times, losses = [], []
    for step in range(3 + options.steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(tokens, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        torch.cuda.synchronize()
        if step >= 3:
            times.append(time.perf_counter() - start)
    step_seconds = statistics.median(times)
    tokens_per_s = options.batch * CONTEXT / step_seconds
    flops = 6 * count + 6 * LAYERS * EMBED * CONTEXT
    return {
        "tokens_per_s": tokens_per_s,
        "of_peak": tokens_per_s * flops / PEAK_FLOPS,
        "step_ms": step_seconds * 1e3,
        "peak_GB": torch.cuda.max_memory_allocated() / 1e9,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


figures = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "batch": options.batch}
failed = False
for name in options.ways.split(","):
    try:
        figures[name] = measure({"plain": plain, "fsdp2": fsdp2}[name])
        print(f"tokens/s {figures[name]['tokens_per_s']:.0f}  {name}, PyTorch {torch.__version__},"
              f" {figures[name]['of_peak']:.3f} of the peak", flush=True)
    except Exception as error:  # the other way may still work
        failed = True
        figures[name] = {"error": str(error).splitlines()[0] if str(error) else repr(error)}
        print(f"{name}: Error: {figures[name]['error']}", flush=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    if options.out:
        with open(options.out, "w") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")
sys.exit(1 if failed else 0)
