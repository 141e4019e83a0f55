#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""report_test.py ROOT PROGRAM SCRATCH: a few strategies are measured, and the report of them says what it must.

PROGRAM is bench_strategies_some. Says SKIPPED where there is no matplotlib.
"""
import html
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

root, program, scratch = map(pathlib.Path, sys.argv[1:4])
sys.argv[1:4] = []
report = root / "benchmarks" / "report" / "report.py"
results = root / "benchmarks" / "results"

try:
    import matplotlib
except ImportError:
    print("SKIPPED: pictures need matplotlib; Debian: python3-matplotlib")
    sys.exit(0)


def make(records, out):
    """report.py's status and what it said."""
    done = subprocess.run(
        [sys.executable, report, "--records", records, "--out", out], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


class OfARun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "timelines").mkdir(parents=True)
        cls.record = scratch / "strategies.json"
        measured = subprocess.run(
            [
                program,
                "--size=0",
                "--steps=1",
                f"--timelines={scratch / 'timelines'}",
                f"--swap={scratch}",
                f"--benchmark_out={cls.record}",
                "--benchmark_out_format=json",
            ],
            capture_output=True,
            text=True,
        )
        assert measured.returncode == 0, measured.stderr
        cls.status, cls.said, cls.complained = make(scratch, scratch / "out")
        cls.runs = json.loads(cls.record.read_text())["benchmarks"]

    def test_no_strategy_failed(self):
        self.assertGreater(len(self.runs), 4)
        for run in self.runs:
            self.assertFalse(run.get("error_occurred", False), run.get("error_message"))

    def test_every_run_is_a_row_with_its_figures(self):
        self.assertEqual(self.status, 0, self.complained)
        page = (scratch / "out" / "report.html").read_text()
        rows = re.findall(r"<tr data-where.*?</tr>", page)
        self.assertEqual(len(rows), len(self.runs))
        for run in self.runs:
            name = html.escape(run["name"].split("/")[0])
            speed = f"<td>{run['tokens/s']:.0f}</td>"
            self.assertTrue(any(name in row and speed in row for row in rows), run["name"])
            self.assertTrue(any(html.escape(run["label"]) in row for row in rows), run["label"])

    def test_the_page_needs_nothing_beside_it(self):
        page = (scratch / "out" / "report.html").read_text()
        sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
        self.assertEqual(len(sources), 3)
        for source in sources:
            self.assertTrue(source.startswith("data:image/png;base64,"), source)

    def test_pictures_are_pictures(self):
        for name in ("memory_throughput", "predicted", "timeline"):
            image = matplotlib.image.imread(scratch / "out" / f"{name}.png")
            self.assertGreater(image.shape[1], 800)
            self.assertGreater(len({tuple(p) for p in image[::7, ::7].reshape(-1, image.shape[2])}), 5)

    def test_records_do_not_name_the_machine(self):
        self.assertNotIn("host_name", self.record.read_text())

    def refused(self, change):
        broken = scratch / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        broken.mkdir()
        record = json.loads(self.record.read_text())
        text = change(record)
        (broken / "strategies.json").write_text(json.dumps(record) if text is None else text)
        status, said, complained = make(broken, broken)
        self.assertEqual((status, said, complained.count("\n")), (2, "", 1), complained)
        return complained

    def test_a_failed_run_is_refused(self):
        def fail(record):
            record["benchmarks"][1].update(error_occurred=True, error_message="other bytes")

        self.assertIn("other bytes", self.refused(fail))

    def test_records_that_are_none_are_refused(self):
        self.assertIn("run the benchmark", self.refused(lambda record: "{"))
        self.assertIn("no strategy", self.refused(lambda record: record["benchmarks"].clear()))
        self.assertIn("tokens/s", self.refused(lambda record: record["benchmarks"][0].pop("tokens/s") and None))


class OfPeers(unittest.TestCase):
    def test_each_bar_stands_beside_its_peer_also_where_others_did_not_run(self):
        spec = importlib.util.spec_from_file_location("report", report)
        made = importlib.util.module_from_spec(spec)
        sys.modules["report"] = made  # which its data classes look for
        spec.loader.exec_module(made)
        plot, figures = made.setup_plot(), []

        class Plot:
            subplots = staticmethod(plot.subplots)
            close = staticmethod(figures.append)

        ran = [{"fsdp2": 1.5, "fsdp2_compiled": 1.25, "zero3": 2.0}, {"fsdp2": 3.0, "zero3": 0.5}]

        def section(speeds):
            def ratio(value):
                return {"median": value, "low": value, "high": value}

            return {
                "name": "tiny",
                "dtype": "fp32",
                "ours": "ours",
                "ratios": {"ours": {n: {"tokens_per_s": ratio(v), "peak": ratio(v)} for n, v in speeds.items()}},
            }

        made.draw_peers(Plot, {"training": [section(speeds) for speeds in ran]}, scratch / "peers.png")
        axes = figures[0].axes  # the speeds of each section, then their memory
        names = [label.get_text() for label in axes[0].get_yticklabels()]
        for axis, speeds in zip(axes, ran + ran):
            bars = {names[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in axis.patches}
            self.assertEqual(bars, {made.PEERS[name]: value for name, value in speeds.items()})
            self.assertEqual(axis.get_ylim(), axes[0].get_ylim())


class OfTheCommittedRecords(unittest.TestCase):
    """What README.md quotes is what the records in the repository hold."""

    def test_the_summary_is_that_of_the_records(self):
        out = scratch / "committed"
        records = scratch / "records"
        shutil.rmtree(records, ignore_errors=True)
        shutil.copytree(results, records)
        status, _, complained = make(records, out)
        self.assertEqual(status, 0, complained)
        summary = (results / "summary.md").read_text()
        self.assertEqual((out / "summary.md").read_text(), summary)
        for table in summary.split("\n\n"):
            self.assertIn(table.strip(), (root / "README.md").read_text())


if __name__ == "__main__":
    import matplotlib.image

    unittest.main(verbosity=1)
