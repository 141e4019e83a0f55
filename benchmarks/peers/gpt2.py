# SPDX-License-Identifier: Apache-2.0
"""The GPT-2 that the peers train: the parameters, names and shapes of Hugging Face's GPT2LMHeadModel,
read from and written to its safetensors files, attention by scaled_dot_product_attention."""
import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True)
class Shape:
    vocabulary: int
    context: int
    embed: int
    heads: int
    layers: int


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        n = shape.embed
        self.heads = shape.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.attn, self.attn_proj = nn.Linear(n, 3 * n), nn.Linear(n, n)
        self.fc, self.mlp_proj = nn.Linear(n, 4 * n), nn.Linear(4 * n, n)

    def forward(self, x):
        batch, context, embed = x.shape
        q, k, v = (
            part.view(batch, context, self.heads, embed // self.heads).transpose(1, 2)
            for part in self.attn(self.ln_1(x)).chunk(3, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(batch, context, embed))
        return x + self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.wte = nn.Embedding(shape.vocabulary, shape.embed)
        self.wpe = nn.Embedding(shape.context, shape.embed)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.embed)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # tied
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


# Ours to Hugging Face's, and whether its matrix lies transposed (it has (in, out)).
BLOCK_NAMES = {
    "ln_1": ("ln_1", False),
    "attn": ("attn.c_attn", True),
    "attn_proj": ("attn.c_proj", True),
    "ln_2": ("ln_2", False),
    "fc": ("mlp.c_fc", True),
    "mlp_proj": ("mlp.c_proj", True),
}


def stored_name(name):
    """Of a parameter: its name in the file, and whether it lies transposed there."""
    parts = name.split(".")
    if parts[0] != "blocks":
        return "transformer." + name, False
    stored, is_transposed = BLOCK_NAMES[parts[2]]
    return f"transformer.h.{parts[1]}.{stored}.{parts[3]}", is_transposed and parts[3] == "weight"


def decays(name, parameter):
    """Matrices and tables decay, biases and norms do not."""
    return parameter.dim() == 2


def write_initial(shape, seed, path):
    """Makes GPT-2's initial weights and stores them."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    tensors = {}
    for name, parameter in Gpt2(shape).named_parameters():
        stored, is_transposed = stored_name(name)
        if parameter.dim() == 2:
            deviation = 0.02 / math.sqrt(2 * shape.layers) if "proj" in name else 0.02
            value = torch.randn(parameter.shape) * deviation
        else:
            value = torch.ones(parameter.shape) if "ln_" in name and "weight" in name else torch.zeros(parameter.shape)
        tensors[stored] = (value.t() if is_transposed else value).contiguous()
    save_file(tensors, path)


@torch.no_grad()
def load(model, path):
    """Errors: KeyError for a parameter that the file does not have."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for name, parameter in model.named_parameters():
            stored, is_transposed = stored_name(name)
            value = file.get_tensor(stored)
            parameter.copy_(value.t() if is_transposed else value)
