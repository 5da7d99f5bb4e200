"""No step's code changes unnoticed: its VERSION, or the lock, must change with it."""

import json

import pytest

from unmask_tf.errors import InputError
from unmask_tf.experiment import fingerprint
from unmask_tf.experiment.kinds import KINDS
from unmask_tf.experiment.step import kind_module


def test_the_lock_is_the_code_s():
    assert fingerprint.changed() == {}, "run `make versions`; it says what to decide"


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock file of the present code, to be spoilt."""
    path = tmp_path / "versions.json"
    path.write_text(json.dumps(fingerprint.present()))
    monkeypatch.setattr(fingerprint, "LOCK", path)
    return path


def test_a_kind_reaches_the_science_it_uses_and_no_report():
    assert "unmask_tf.attacks.advertorch_bridge" in fingerprint.reached("attack")
    assert "unmask_tf.defense.alignment" in fingerprint.reached("answer")
    assert "unmask_tf.mrcnn.roi_align" in fingerprint.reached("extract")
    assert "unmask_tf.mrcnn.roi_align" not in fingerprint.reached("train_m")
    assert not [module for kind in KINDS for module in fingerprint.reached(kind) if ".report" in module]


def test_changed_code_without_a_new_version_is_noticed_and_names_the_kinds(lock, monkeypatch):
    code_of = fingerprint.code_of
    edited = "unmask_tf.defense.alignment"
    monkeypatch.setattr(fingerprint, "code_of", lambda m: code_of(m) + ("\nx = 1" if m == edited else ""))
    touched = {kind for kind in KINDS if edited in fingerprint.reached(kind)}
    assert set(fingerprint.changed()) == touched == {"answer", "attack", "binarise", "score_k"}
    with pytest.raises(InputError, match="answer: its code changed"):
        fingerprint.update()
    with pytest.raises(InputError, match="raise VERSION"):
        fingerprint.update(other_results=True)


def test_a_new_version_is_accepted_as_other_results(lock, monkeypatch):
    monkeypatch.setattr(kind_module("answer"), "VERSION", 99)
    with pytest.raises(InputError, match="answer: its VERSION"):
        fingerprint.update()
    assert "answer" in fingerprint.update(other_results=True)
    assert json.loads(lock.read_text())["answer"]["version"] == 99
    assert fingerprint.changed() == {}


@pytest.mark.parametrize("same", [True, False])
def test_the_same_results_are_believed_only_when_the_tiny_grid_gives_them(lock, monkeypatch, same):
    code_of = fingerprint.code_of
    monkeypatch.setattr(fingerprint, "code_of", lambda m: code_of(m) + "\nx = 1")
    monkeypatch.setattr(fingerprint, "same_rows", lambda: same)
    if same:
        fingerprint.update(same_results=True)
        assert fingerprint.changed() == {}
    else:
        with pytest.raises(InputError, match="other rows"):
            fingerprint.update(same_results=True)
        assert fingerprint.changed()


def test_comments_blank_lines_and_docstrings_are_no_code(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_PACKAGE", tmp_path / "pkg")
    (tmp_path / "pkg").mkdir()
    module = tmp_path / "pkg" / "a.py"

    def code(text):
        module.write_text(text)
        return fingerprint.code_of("pkg.a")

    plain = code('"""One."""\n\n\ndef f(x):\n    """Two."""\n    return x\n')
    assert code('"""Other\n\nwords."""\n# why\ndef f(x):\n    # because\n\n    """Three."""\n    return x\n') == plain
    assert code('"""One."""\n\n\ndef f(x):\n    """Two."""\n    return x + 1\n') != plain
