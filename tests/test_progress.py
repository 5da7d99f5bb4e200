"""What a user sees while something takes long, on a terminal and in a log file."""

import io
import subprocess
import sys
import time

from unmask_tf import progress
from unmask_tf.places import ROOT
from unmask_tf.progress import Progress, busy


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_plain_lines_and_no_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINES", 0.05)
    with Progress(total=4, desc="drawing", unit="image") as bar:
        bar.update(2)
        time.sleep(0.3)
        bar.update(2)
    text = capsys.readouterr().err
    assert "\r" not in text and "|" not in text
    lines = text.splitlines()
    assert lines[0] == "drawing: 0 %, 00:00 gone, ? to go" and lines[-1].startswith("drawing: 100 %, ")
    assert any(line.startswith("drawing: 50 %, ") for line in lines)


def test_a_log_file_is_told_how_far_a_loop_has_come(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINES", 0.05)
    assert [i for i in Progress(range(4), "reading") if not time.sleep(0.1)] == [0, 1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("reading: 50 %, ") for line in lines) and lines[-1].startswith("reading: 100 %, ")


def test_nothing_is_silent_while_nothing_moves(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINES", 0.05)
    with busy("loading"):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and set(lines) == {"loading, 00:00"}
    time.sleep(0.15)
    assert capsys.readouterr().err == "", "it goes on after its end"


def test_what_is_soon_over_leaves_no_line_in_a_log_file(capsys):
    with busy("loading"):
        pass
    assert capsys.readouterr().err == ""


def test_the_clock_is_seen_while_a_library_s_import_is_silenced():
    code = """
import os, time
from unmask_tf import progress
from unmask_tf.experiment.quiet import _no_standard_error
progress._LINES = 0.05
with progress.busy("loading"):
    with _no_standard_error():
        os.write(2, b"noise")
        time.sleep(0.4)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(done.stderr.splitlines()) == {"loading, 00:00"}


def test_a_terminal_keeps_its_bar_and_its_clock_runs(monkeypatch, capsys):
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress, "_REDRAWN", 0.05)
    with Progress(total=4, desc="drawing") as bar:
        time.sleep(0.3)
        assert terminal.getvalue().count("\rdrawing:   0%|") >= 3
        bar.tell("one is done")
        # The bar is wiped before the line, and drawn again after it.
        assert capsys.readouterr().out == "one is done\n"
        wiped, drawn = terminal.getvalue().rstrip().split("\r")[-2:]
        assert not wiped.strip() and drawn.startswith("drawing:   0%|")
