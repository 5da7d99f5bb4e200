"""The list of claims: kept current, and a miss is told."""

import json

import pandas as pd
import pytest
from made_rows import grid, published_rows, write

from unmask_tf.cli import main
from unmask_tf.errors import InputError
from unmask_tf.experiment.setup import ROOT
from unmask_tf.report.claims import _more, _same_for_every_model, evaluate_claims
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


def test_class_sets_and_models_are_compared_where_both_have_cells():
    index = ["model", "class_set", "attack", "epsilon_255", "defence"]
    cells = {("a", "cs3a"): 0.9, ("a", "cs3b"): 0.8, ("b", "cs3a"): 0.2}
    rows = [(*cell, "pgd_linf", 8.0, "um", value) for cell, value in cells.items()]
    accuracy = pd.DataFrame(rows, columns=[*index, "value"]).set_index(index)["value"]
    # Of b there is no CS3b, so that a alone says which class set is easier, and CS3a alone which M is.
    assert _more({"class_set": "cs3a"}, {"class_set": "cs3b"})(accuracy, accuracy)[0] == pytest.approx([0.9, 0.8])
    assert _same_for_every_model(accuracy, accuracy)[0] == pytest.approx([0.7, 0.9, 0.2])
