"""CLAIMS.md: every claim, how to test it, what is expected of each profile and what our own runs gave.

`results/claims.json` is the table: per profile its data, command and minutes, and per claim whether it is expected to
hold (null: the profile lacks the cells; "either": our own runs differ). The bound that is tested stands in the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_text
from unmask_tf.places import PUBLISHED, REFERENCE
from unmask_tf.report.claims import Claim, evaluate_claims
from unmask_tf.report.document_claims import BLOCKS, check
from unmask_tf.report.results import Results
from unmask_tf.report.table import Table, markdown

TABLE = PUBLISHED.with_name("claims.json")
_WORDS = {True: "holds", False: "does not hold", None: "not tested"}


def claims_of(folder: Path, path: Path = TABLE) -> dict[str, list[Claim]]:
    """The claims as tested on each profile of claims.json that has rows in a folder of results.

    Raises:
        InputError: none has, or a file is missing or damaged.
    """
    found = {
        name: Results(folder / name) for name in read_json(path) if (folder / name / "rows" / "grid.json").exists()
    }
    if not found:
        raise InputError(f"{folder} has no rows of a profile that {path.name} names. Run: make reproduce")
    return {name: evaluate_claims(results) for name, results in found.items()}


def misses(found: Mapping[str, list[Claim]], path: Path = TABLE) -> list[str]:
    """A line for each claim whose outcome is not the expected one, or of which claims.json says nothing."""
    lines, table = [], read_json(path)
    for profile, claims in found.items():
        expected: Mapping[str, Any] = table[profile]["expected"]
        for claim in claims:
            wanted = expected.get(claim.statement, "unknown")
            if wanted not in ("either", claim.holds):
                known = _WORDS.get(wanted, "nothing")
                lines.append(f"{profile}: {claim.statement}: {_WORDS[claim.holds]} ({claim.ours}); expected: {known}")
    return lines


def claims_markdown(found: Mapping[str, list[Claim]], documents: Table | None = None) -> str:
    """The whole list: how to run each profile, a row per claim of the paper, and what our documents say."""
    runs = read_json(TABLE)
    about = [[f"`{name}`", runs[name]["data"], f"`{runs[name]['command']}`", runs[name]["minutes"]] for name in found]
    rows = [
        [same[0].statement, same[0].paper, *(f"{claim.ours} ({_WORDS[claim.holds]})" for claim in same)]
        for same in zip(*found.values(), strict=True)
    ]
    intro = (
        "`make claims` tests every claim on the committed rows in `results/reference/`, and fails where one comes out "
        "otherwise than `results/claims.json` expects; `make claims ROWS=results` tests your own run. It writes "
        "this file."
    )
    tables = [
        Table("runs", "", ["Profile", "Data", "Command that makes the rows", "Minutes on 2 cores"], about),
        Table("claims", "", ["Claim, with the bound that is tested", "Paper", *found], rows),
    ]
    told = "\n".join(["# Claims\n", f"{intro}\n", *map(markdown, tables)])
    if documents is None:
        return told
    blocks = [[document, block, f"`{command}`"] for (document, block), command in BLOCKS.items()]
    generated = Table("blocks", "", ["Document", "Generated block", "Command"], blocks)
    return (
        f"{told}\n## What README and FIDELITY say\n\nWhere nothing is measured by `make claims`, the command has to be "
        f"run; times are of one machine.\n\n{markdown(documents)}\n{markdown(generated)}"
    )


def write_claims(folder: Path, document: Path) -> tuple[str, list[str]]:
    """Tests the claims and writes CLAIMS.md; returns what to print, and the misses.

    Raises:
        InputError: as `claims_of`; the file cannot be written.
    """
    found = claims_of(folder)
    missed, said = misses(found), None
    if folder == REFERENCE and (document.parent / "FIDELITY.md").is_file():  # what they say, they say of these rows
        said, others = check(folder, document.parent)
        missed += others
    write_text(document, claims_markdown(found, documents=said))
    counts = ", ".join(f"{name} {len(claims)}" for name, claims in found.items())
    counts += f", README and FIDELITY {len(said.rows)}" if said is not None else ""
    return f"claims tested: {counts}; otherwise than expected: {len(missed)}\n{document}", missed
