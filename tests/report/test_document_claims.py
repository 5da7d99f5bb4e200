"""What README and FIDELITY say in numbers is listed, tested, and told where it is not so."""

import re

import pytest

from unmask_tf.places import REFERENCE, ROOT
from unmask_tf.report.document_claims import BLOCKS, SAID, Said, check

# Versions, and a setting that is no more.
OTHERS = {"README.md": {"3.10", "3.11", "3.13"}, "FIDELITY.md": {"0.19", "0.75"}}


def prose(document: str) -> str:
    """A document without its generated blocks and its examples of code."""
    text = (ROOT / document).read_text("utf-8")
    for pattern in (r"<!-- (.*?): begin -->.*?<!-- \1: end -->", r"```.*?```"):
        text = re.sub(pattern, "", text, flags=re.S)
    return " ".join(text.split())


def test_the_documents_say_what_is_listed_and_the_rows_give_it():
    table, missed = check(REFERENCE, ROOT)
    assert missed == [] and len(table.rows) == len(SAID)


def test_every_generated_block_has_its_command():
    found = {
        (document, block)
        for document in OTHERS
        for block in re.findall(r"<!-- (.*?): begin -->", (ROOT / document).read_text("utf-8"))
    }
    assert found == set(BLOCKS)


@pytest.mark.parametrize("document", OTHERS)
def test_every_number_of_two_decimals_in_the_prose_is_listed(document):
    text = prose(document)
    for said in (said for said in SAID if said.document == document):
        text = text.replace(said.text, "")
    assert set(re.findall(r"(?<![\d.\w])\d*\.\d\d(?![\d.])", text)) == OTHERS[document]


def test_another_number_another_sentence_and_another_bound_are_misses(tmp_path):
    (tmp_path / "A.md").write_text("It finds\n5 of 7. It takes long.")

    def said(text: str, expected: tuple[float, ...], measured: list[float], relation: str = "=") -> Said:
        return Said("A.md", text, "make it", "data", expected, lambda _: measured, relation, 0.5)

    right = [said("finds 5 of 7", (5, 7), [5.4, 7]), said("5 of", (5,), [4], "≤"), said("5 of", (5,), [6], "≥")]
    assert check(tmp_path, tmp_path, right)[1] == []
    wrong = [
        said("finds 5 of 7", (5, 7), [5.6, 7]),
        said("5 of", (5,), [5.6], "≤"),
        said("5 of", (5,), [4.4], "≥"),
        said("5 of", (5,), [5, 5]),
        said("finds 6 of 7", (5,), [5]),
    ]
    lines = check(tmp_path, tmp_path, wrong)[1]
    assert lines[0] == "A.md: finds 5 of 7: 5.6, 7 measured; expected: 5, 7 ± 0.5" and len(lines) == len(wrong)
    assert lines[-1] == "A.md does not say: finds 6 of 7"
    table, missed = check(tmp_path, tmp_path, [Said("A.md", "takes long", "make it", "data", (16,), minutes="16")])
    assert missed == [] and table.rows[0][-2:] == ["16", "-"]
