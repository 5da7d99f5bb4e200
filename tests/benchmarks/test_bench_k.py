"""The benchmark of K: what it counts as agreement, its ratios, and that a stopped one goes on where it was."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_k  # noqa: E402
import turns  # noqa: E402

from unmask_tf.errors import InputError  # noqa: E402
from unmask_tf.files import read_json  # noqa: E402

# Finds part 1 + row, and says which rows it was asked for. Prints to stdout, as libraries do.
FAKE = """
import sys
sys.path.insert(0, {folder!r})
import k_served, numpy as np
def build(settings):
    print("noise")
    if settings["task"] == "preparation":
        open(settings["weights"], "w").write("weights")
    else:
        count = len(np.load(settings["images"]).files)
    def answer(request):
        print("more noise")
        if request["rows"] == [{fails}]:
            raise ValueError("row {fails} is cursed")
        with open({log!r}, "a") as file:
            file.write(",".join(map(str, request["rows"])) + "\\n")
        return dict(seconds=0.5 * len(request["rows"]), found=[[1 + row] for row in request["rows"]])
    return answer
k_served.serve(build)
"""


def test_agreement_counts_sets_memberships_and_overlap():
    first = {"a": [1, 2], "b": [3], "c": [], "only here": [1]}
    second = {"a": [1, 2], "b": [3, 4], "c": [], "only there": [2]}
    found = bench_k.agreement(first, second, parts=10)
    assert found == {
        "images": 3,
        "equal_sets": pytest.approx(2 / 3),
        "equal_memberships": pytest.approx(1 - 1 / 30),
        "jaccard": pytest.approx((1 + 0.5 + 1) / 3),
    }


def test_no_common_image_is_no_agreement():
    assert bench_k.agreement({"a": [1]}, {"b": [1]}) == {"images": 0}


def rows(*seconds, parts=(1,)):
    return {str(i): {"seconds": s, "parts": list(parts)} for i, s in enumerate(seconds)}


def test_the_ratio_is_of_medians_over_the_images_both_have_seen():
    record = {
        "variants": {
            "original": {"rows": rows(4.0, 6.0, 5.0), "peak_mb": 10.4},
            "extract": {"rows": rows(2.0, 1.0, 3.0, 100.0, 100.0), "peak_mb": 20.0},
            "bfloat16": {"rows": {}, "peak_mb": 0},
        }
    }
    lines = bench_k.summary(record)
    assert set(lines) == {"original", "extract"}
    assert lines["extract"]["times_faster"] == pytest.approx(5.0 / 2.0)
    assert lines["extract"]["seconds"] == 3.0
    assert lines["extract"]["agreement_with_original"]["images"] == 3
    assert (lines["original"]["images"], lines["original"]["peak_mb"]) == (3, 10)


def test_engines_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(bench_k, "installed", lambda package: False)
    assert bench_k.possible() == ["original", "detect", "extract", "extract-batch4"]
    monkeypatch.setattr(bench_k, "installed", lambda package: package == "openvino")
    assert bench_k.possible()[4:] == ["openvino", "openvino-bfloat16"]


def test_the_processors_time_is_compared_where_both_have_measured_it():
    worked = {"0": {"seconds": 9.0, "cpu_seconds": 6.0, "parts": []}}
    record = {"variants": {"original": {"rows": worked, "peak_mb": 1}, "extract": {"rows": rows(3.0), "peak_mb": 1}}}
    assert "times_less_work" not in bench_k.summary(record)["extract"]
    record["variants"]["extract"]["rows"]["0"]["cpu_seconds"] = 4.0
    assert bench_k.summary(record)["extract"]["times_less_work"] == pytest.approx(1.5)
    assert bench_k.summary(record)["extract"]["times_faster"] == pytest.approx(3.0)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs the benchmark with a stand-in for K's program."""
    log = tmp_path / "asked"

    def run(images=6, fails=-1, seconds=0.0, variants=("extract", "extract-batch4"), **more):
        script = tmp_path / "fake.py"
        script.write_text(FAKE.format(folder=str(BENCHMARKS), log=str(log), fails=fails))
        monkeypatch.setattr(bench_k, "ROOT", tmp_path)
        monkeypatch.setattr(bench_k, "OURS", [sys.executable, script])
        settings = dict(
            backbone="resnet50", canvas=128, images=images, folder=None, square=32, record=tmp_path / "record.json",
            variants=variants, original_python="", seconds=seconds, keep_freed_memory=False,
        )  # fmt: skip
        return bench_k.measure(argparse.Namespace(**{**settings, **more}))

    run.asked = lambda: log.read_text().split() if log.exists() else []
    run.record = tmp_path / "record.json"
    return run


def test_variants_take_turns_and_batches_of_four_come_after_their_images(bench, capsys):
    record = bench()
    assert bench.asked() == ["0", "1", "2", "3", "0,1,2,3", "4", "5", "4,5"]
    assert "the original is left out" in capsys.readouterr().out
    assert record["variants"]["extract"]["rows"]["5"] == {"seconds": 0.5, "parts": [6]}
    assert record["summary"]["extract-batch4"]["agreement_with_batch_1"]["equal_sets"] == 1
    assert record["variants"]["extract"]["peak_mb"] > 1
    assert read_json(bench.record) == record


def test_a_stopped_benchmark_goes_on_where_it_was(bench):
    with pytest.raises(RuntimeError, match="row 5 is cursed"):
        bench(fails=5)
    assert bench.asked() == ["0", "1", "2", "3", "0,1,2,3", "4"]
    record = bench()
    assert bench.asked()[6:] == ["5", "4,5"]
    assert len(record["variants"]["extract"]["rows"]) == 6
    bench()
    assert len(bench.asked()) == 8, "nothing is left to do"


def test_a_record_of_other_settings_is_refused(bench):
    bench(images=2)
    with pytest.raises(InputError, match=r"record\.json was measured with other settings"):
        bench(images=3)


def test_time_is_kept(bench, capsys):
    bench(seconds=1e-9)
    assert bench.asked() == []
    assert "out of time" in capsys.readouterr().out


def test_a_program_that_cannot_start_is_an_error_with_its_last_words(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such package')")
    with pytest.raises(RuntimeError, match="no such package"):
        turns.Worker([sys.executable, script], {}, tmp_path / "log")


def test_images_of_a_folder_are_cut_to_the_middle_square(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "b.png")
    Image.fromarray(pixels[:, :20]).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("")
    found = bench_k.read_images(tmp_path, 5, 20)
    assert list(found) == ["a.png", "b.png"]
    assert (found["b.png"] == 200).all() and found["b.png"].shape == (20, 20, 3)
    assert bench_k.read_images(tmp_path, 1, 0)["a.png"].shape == (20, 20, 3)
    assert bench_k.read_images(tmp_path, 2, 10)["b.png"].shape == (10, 10, 3)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no"):
        bench_k.read_images(tmp_path, 1, 0)


def test_drawn_images_differ_and_are_the_same_each_time():
    first, second = (bench_k.read_images(None, 2, 150) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    assert (first["drawn_0"] != first["drawn_1"]).any()
