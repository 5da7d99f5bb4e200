"""A table's renderings, by hand."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from unmask_tf.places import ROOT
from unmask_tf.report.table import Number, Table, csv, latex, markdown, number, plain, span, write_table

TABLE = Table(
    "t",
    "Accuracy & ε",
    ["M", "n", "UM", "Note"],
    [
        ["a_b", Number(10, digits=0), Number(0.314, 0.29, (0.1, 0.5), mark="†"), "≥"],
        ["longer", Number(9, digits=0), Number(None, 0.5), ""],
    ],
    ("One note.",),
)


def test_numbers_have_fixed_decimals_and_a_dash_where_there_is_none():
    assert (number(-0.001, sign=True), number(-0.006, sign=True)) == ("+0.00", "-0.01")
    assert number(np.float64(0.925)) == number(0.925) == "0.93"
    assert number(None) == number(float("nan")) == str(Number(float("nan"), 0.5, (0.1, 0.2))) == "-"
    assert (span([3, 1, 2]), span([2, 2]), span([])) == ("1 to 3", "2", "-")


def test_a_cell_has_its_interval_and_the_paper_s_number_and_the_difference_their_own_columns():
    assert markdown(TABLE) == (
        "| M | n | UM | UM: paper | UM: difference | Note |\n"
        "| --- | ---: | ---: | ---: | ---: | --- |\n"
        "| a_b | 10 | 0.31† [0.10, 0.50] | 0.29 | +0.02 | ≥ |\n"
        "| longer | 9 | - | 0.50 | - |  |\n"
        "\nOne note.\n"
    )


def test_csv_has_the_numbers_unrounded_and_tells_the_data():
    assert csv(TABLE, "data `mini`") == (
        "data,M,n,UM,UM low,UM high,UM paper,UM difference,UM mark,Note\n"
        "data mini,a_b,10,0.3140,0.1000,0.5000,0.2900,0.0240,†,≥\n"
        "data mini,longer,9,,,,0.5000,,,\n"
    )


def test_latex_escapes_what_would_break_it():
    text = latex(TABLE, "data `mini`")
    assert "\\caption{Accuracy \\& $\\varepsilon$ (data mini)}" in text and "\\begin{tabular}{lrrrrl}" in text
    assert "M & n & UM & \\shortstack{UM \\\\ paper} & \\shortstack{UM \\\\ difference} & Note \\\\\n" in text
    assert "a\\_b & 10 & 0.31$^\\dagger$ [0.10, 0.50] & 0.29 & +0.02 & $\\geq$ \\\\\n" in text
    long = Table("t", "", ["A", "B"], [["word " * 40, "short"]])
    assert "\\begin{tabular}{p{30em}l}" in latex(long, "data")


COMMITTED = sorted((ROOT / "results" / "reference").glob("*/*.tex"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_latex_is_balanced_escaped_and_of_one_width(path):
    text = path.read_text("utf-8")
    assert not re.sub(r"[\x00-\x7f]", "", text), "pdflatex may lack these characters"
    first, _, rest = text.partition("\n")
    assert first == "% \\usepackage{graphicx}" and not re.search(r"(?<!\\)[%#]", rest)
    bare = re.sub(r"\\[{}]", "", rest)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and len(re.findall(r"(?<!\\)\$", rest)) % 2 == 0
    assert not re.search(r"(?<!\\)_", rest) and not re.search(r"(?<![\\$])\^", rest)
    assert re.findall(r"\\(begin|end)\{(\w+)\}", rest) == [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table"),
    ]
    columns = re.search(r"\\begin\{tabular\}\{(.*)\}", rest)[1]
    width = len(re.sub(r"\{.*?\}", "", columns))
    rows = [line for line in rest.splitlines() if line.endswith(r" \\")]
    assert rows and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {width - 1}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (Debian: texlive-latex-base)")
def test_latex_compiles_the_committed_tables(tmp_path):
    body = "".join(f"\\input{{{path}}}\\clearpage\n" for path in COMMITTED)
    document = "\\documentclass{article}\\usepackage{graphicx}\n\\begin{document}\n" + body + "\\end{document}\n"
    (tmp_path / "all.tex").write_text(document, "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]


def test_a_console_table_is_aligned():
    table = Table("t", "", ["Name", "n"], [["a", Number(10, digits=0)], ["longer", Number(9, digits=0)]])
    assert plain(table) == "Name     n\n------  --\na       10\nlonger   9\n"


def test_a_written_table_tells_its_data_in_every_form(tmp_path):
    paths = write_table(TABLE, tmp_path, "profile `p`, data `d`")
    assert [path.name for path in paths] == ["t.md", "t.csv", "t.tex"]
    assert all("profile p, data d" in path.read_text().replace("`", "") for path in paths)
