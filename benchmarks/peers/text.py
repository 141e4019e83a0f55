# SPDX-License-Identifier: Apache-2.0
"""The data that both sides read: a file of bytes, and which of them a rank trains on in a step, as
examples/train_gpt/text.hpp says it."""
import random

MASK = (1 << 64) - 1


def mix(x):
    """SplitMix64's finalizer, as include/shardexpr/model/initialize.hpp has it."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


class Text:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()

    def sample(self, seed, batch_number, rank, rows, context):
        """One rank's batch, counted from 1: rows of tokens, rows of targets."""
        state = mix((mix(mix((seed + 0x5EED) & MASK) + batch_number & MASK) + rank) & MASK)
        tokens, targets = [], []
        for row in range(rows):
            at = mix((state + row) & MASK) % (len(self.bytes) - context)
            tokens.append(list(self.bytes[at : at + context]))
            targets.append(list(self.bytes[at + 1 : at + context + 1]))
        return tokens, targets


def write_chain(path, length, seed):
    """A text that can be learned: each byte is followed by one of eight, the first of them most
    often."""
    generator = random.Random(seed)
    weights = [8, 4, 2, 2, 1, 1, 1, 1]
    following = [[generator.randrange(256) for _ in weights] for _ in range(256)]
    picks = generator.choices(range(len(weights)), weights, k=length)
    out, at = bytearray(), 0
    for pick in picks:
        at = following[at][pick]
        out.append(at)
    with open(path, "wb") as file:
        file.write(out)
