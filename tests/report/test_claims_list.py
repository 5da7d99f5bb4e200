"""The list of claims: kept current, and a miss is told."""

import json

import pytest
from made_rows import grid, published_rows, write

from unmask_tf.cli import main
from unmask_tf.errors import InputError
from unmask_tf.experiment.setup import ROOT
from unmask_tf.report.claims import evaluate_claims
from unmask_tf.report.claims_list import TABLE, claims_markdown, claims_of, misses
from unmask_tf.report.document_claims import check
from unmask_tf.report.results import Results

REFERENCE = ROOT / "results" / "reference"


def test_the_committed_rows_give_what_is_expected_and_claims_md_says_so():
    found = claims_of(REFERENCE)
    assert set(found) == set(json.loads(TABLE.read_text("utf-8")))
    assert misses(found) == []
    said, _ = check(REFERENCE, ROOT)
    assert claims_markdown(found, documents=said) == (ROOT / "CLAIMS.md").read_text("utf-8")


def test_a_claim_that_comes_out_otherwise_is_a_miss_and_the_exit_code_says_so(tmp_path, capsys):
    folder = write(tmp_path / "mini", grid=grid(n=20))
    wanted = {claim.statement: claim.holds for claim in evaluate_claims(Results(folder))}
    turned = next(name for name, holds in wanted.items() if holds)
    path = tmp_path / "claims.json"
    path.write_text(json.dumps({"mini": {"expected": {**wanted, turned: False}}}))
    (line,) = misses(claims_of(tmp_path, path), path)
    assert line.startswith(f"mini: {turned}: holds (") and line.endswith("; expected: does not hold")
    path.write_text(json.dumps({"mini": {"expected": {}}}))
    assert len(misses(claims_of(tmp_path, path), path)) == len(wanted)
    opposite = grid(n=20, defences=("none", "um"))
    write(tmp_path / "mini", grid=opposite)
    assert main(["claims", "--results", str(tmp_path)]) == 1
    assert "not tested (-); expected: holds" in capsys.readouterr().out
    assert (tmp_path / "claims.md").read_text("utf-8").startswith("# Claims\n")


def test_a_folder_without_rows_is_reported(tmp_path):
    write(tmp_path / "unknown", grid=published_rows(n=4)[:1])
    with pytest.raises(InputError, match="no rows of a profile that claims.json names"):
        claims_of(tmp_path)
