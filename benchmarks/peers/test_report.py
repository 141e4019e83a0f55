# SPDX-License-Identifier: Apache-2.0
"""The tests of what needs no PyTorch: python3 -m unittest discover benchmarks/peers"""
import os
import tempfile
import unittest

import report
import text


def run(speed, losses, peak_kb=1000, imported_kb=0, norm=2.0):
    return {"tokens_per_s": speed, "losses": losses, "first_norm": norm, "peak_kb": peak_kb, "imported_kb": imported_kb}


def section(rounds):
    summarized = {
        "name": "tiny", "dtype": "fp32", "parameters": 7, "ours": "shardexpr full_shard", "apart_bound": 1e-3,
        "rounds": [{"runs": runs} for runs in rounds],
    }
    report.summarize(summarized)
    return summarized


class Quantiles(unittest.TestCase):
    def test_between_values(self):
        self.assertEqual(report.quantile([3, 1, 2], 0.5), 2)
        self.assertEqual(report.quantile([1, 2], 0.5), 1.5)
        self.assertEqual(report.quantile([4, 0, 8, 12, 16], 0.25), 4)
        self.assertEqual(report.quantile([5], 0.75), 5)
        with self.assertRaises(ValueError):
            report.quantile([], 0.5)

    def test_ratios_are_of_rounds(self):
        # Medians of the sides would say 1: the second round was slow for both.
        seen = report.ratios([20, 1, 10], [10, 10, 1])
        self.assertEqual(seen["rounds"], [2, 0.1, 10])
        self.assertEqual(seen["median"], 2)
        with self.assertRaises(ValueError):
            report.ratios([1, 2], [1])

    def test_each_round_begins_with_another(self):
        self.assertEqual([report.turned([1, 2, 3], by) for by in range(4)],
                         [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]])


class Training(unittest.TestCase):
    def test_ratios_memory_and_the_best_peer(self):
        one = {
            "shardexpr full_shard": run(300, [5.0, 4.0], 500),
            "fsdp2": run(100, [5.0, 4.0], 2000, 1500),
            "ddp": run(200, [5.0, 4.001], 1000, 600),
            "zero3": run(1000, [5.0, 4.0]),
        }
        seen = section([one, one])
        over = seen["ratios"]["shardexpr full_shard"]
        self.assertEqual(over["fsdp2"]["tokens_per_s"]["median"], 3)
        self.assertEqual(over["fsdp2"]["peak"]["median"], 0.25)
        self.assertEqual(over["fsdp2"]["peak_less_imports"]["median"], 1)
        best = seen["best_of_ddp_and_fsdp2"]
        self.assertEqual(best["way"], "ddp")
        self.assertEqual(best["tokens_per_s"]["shardexpr full_shard"]["median"], 1.5)
        self.assertTrue(all(row["agrees"] for row in seen["rows"]))

    def test_curves_that_part_do_not_agree(self):
        ours = run(1, [5.0, 4.0])
        seen = section([{"shardexpr full_shard": ours, "ddp": run(1, [5.0, 4.1])}])
        self.assertFalse(seen["rows"][1]["agrees"])
        self.assertIn("DOES NOT AGREE", report.training_table(seen))

    def test_gradients_that_are_summed_do_not_agree(self):
        # AdamW's curve is the same then; the norm is not.
        ours = run(1, [5.0, 4.0], norm=2.0)
        seen = section([{"shardexpr full_shard": ours, "fsdp2": run(1, [5.0, 4.0], norm=4.0)}])
        self.assertEqual(seen["rows"][1]["apart"], 0)
        self.assertFalse(seen["rows"][1]["agrees"])


class Alone(unittest.TestCase):
    def test_speedup_and_check(self):
        side = lambda seconds, check: {"seconds": seconds, "check": check}
        seen = {"name": "AdamW", "apart_bound": 1e-5, "rounds": [
            {"shardexpr": side([0.1, 0.2, 0.3], 1.0), "gloo": side([0.4], 1.0)}]}
        report.summarize_alone(seen)
        self.assertEqual(seen["speedup"]["shardexpr"]["gloo"]["median"], 2)
        self.assertTrue(seen["agrees"])
        seen["rounds"][0]["gloo"]["check"] = 1.5
        report.summarize_alone(seen)
        self.assertFalse(seen["agrees"])
        self.assertIn("DOES NOT AGREE", report.alone_table([seen]))


class Data(unittest.TestCase):
    def test_mix_is_splitmix64(self):
        # The first outputs of SplitMix64 from the state 0.
        self.assertEqual(text.mix(0), 0xE220A8397B1DCDAF)
        self.assertEqual(text.mix(0x9E3779B97F4A7C15), 0x6E789E6AA1B965F4)

    def test_targets_follow_tokens(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "text")
            text.write_chain(path, 1000, 1)
            with open(path, "rb") as file:
                written = file.read()
            self.assertEqual(len(written), 1000)
            tokens, targets = text.Text(path).sample(1, 1, 0, 2, 16)
            for row, follows in zip(tokens, targets):
                self.assertEqual(row[1:], follows[:-1])
                self.assertIn(bytes(row + follows[-1:]), written)
            self.assertNotEqual(tokens, text.Text(path).sample(1, 1, 1, 2, 16)[0])
            self.assertNotEqual(tokens, text.Text(path).sample(1, 2, 0, 2, 16)[0])


if __name__ == "__main__":
    unittest.main()
