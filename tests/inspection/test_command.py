"""`inspect` and `demo`: what they print and write, and one bad file among good ones."""

import json
import re

import numpy as np
import pytest
from photo_files import READ, REFUSED, photo
from PIL import Image

from unmask_tf.cli import main
from unmask_tf.errors import InputError
from unmask_tf.inspection import bundled, command
from unmask_tf.inspection.bundled import bundled_photographs


@pytest.fixture(scope="module")
def kept():
    """What stays between the commands of a test: the system, which takes seconds to load."""
    return {}


@pytest.fixture
def run(tiny_release, tmp_path, kept, monkeypatch, capsys):
    """Runs a command with the tiny M: its exit status, standard output and standard error."""
    original = command._system

    def load(threat, **choice):
        key = repr((threat, sorted(choice.items())))
        if key not in kept:
            kept[key] = original(threat, **choice)
        return kept[key]

    monkeypatch.setattr(command, "_system", load)

    def run(name, *arguments, out=tmp_path / "out"):
        options = ["--m-weights", tiny_release[1], "--threshold", "0.9", "--out", out]
        status = main([str(argument) for argument in (name, *arguments, *options)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def robin(tmp_path):
    path = tmp_path / "robin.jpg"
    Image.fromarray(photo()).save(path)
    return path


def size(path):
    with Image.open(path) as image:
        return image.size


def test_a_photograph_gets_a_line_and_a_picture(run, robin, tmp_path):
    status, out, err = run("inspect", robin)
    lines, picture = out.splitlines(), tmp_path / "out" / "robin.unmask.png"
    assert (status, err) == (0, "")
    assert re.fullmatch(rf"{robin}: M says \w+, similarity [01]\.\d\d: (benign|adversarial, corrected: .+)", lines[0])
    assert lines[1] == f"  {picture}"
    assert re.fullmatch(r"\[inspect\] 1 of 1 images in [\d.]+ s, after [\d.]+ s to start", lines[2])
    assert size(picture)[0] > 800


def test_an_attacked_photograph_gets_two_lines_and_a_wider_picture(run, robin, tmp_path):
    _, out, _ = run("inspect", robin, "--attack", "pgd_linf", "--epsilon", "4")
    lines = out.splitlines()
    assert lines[0].startswith(f"{robin}: M says ")
    assert lines[1].startswith(f"{robin} under pgd_linf 4/255: M says ")
    plain = tmp_path / "plain"
    run("inspect", robin, out=plain)
    attacked = size(tmp_path / "out" / "robin.pgd_linf_4.unmask.png")
    assert attacked[0] > size(plain / "robin.unmask.png")[0]


def test_json_is_one_document_with_all_that_the_verdict_rests_on(run, robin, tmp_path):
    status, out, _ = run("inspect", robin, "--json", "--attack", "mia_linf")
    found = json.loads(out)
    assert status == 0
    assert found["system"]["classes"] == ["car", "person", "train"]
    assert found["system"]["attack"] == {"name": "mia_linf", "epsilon_255": 8}
    assert (found["system"]["threshold"], found["system"]["input_size"]) == (0.9, 64)
    (image,) = found["images"]
    assert (image["file"], image["picture"]) == (str(robin), str(tmp_path / "out" / "robin.mia_linf_8.unmask.png"))
    for verdict in (image["benign"], image["attacked"]):
        seen, expected = set(verdict["extracted_parts"]), set(verdict["expected_parts"])
        assert verdict["similarity"] == pytest.approx(len(seen & expected) / len(seen | expected))
        assert verdict["similarity"] == verdict["scores"][verdict["predicted_class"]]
        assert verdict["adversarial"] == (verdict["distance"] >= 0.9)
        assert verdict["final_class"] in {"car", "person", "train", None}
        for part in verdict["extracted_parts"].values():
            assert 0 < part["score"] <= 1
            assert all(0 <= y1 < y2 <= 64 and 0 <= x1 < x2 <= 64 for y1, x1, y2, x2 in part["boxes"])


def test_without_pictures_none_is_written(run, robin, tmp_path):
    status, out, _ = run("inspect", robin, "--json", "--no-pictures")
    assert status == 0
    assert "picture" not in json.loads(out)["images"][0]
    assert not (tmp_path / "out").exists()


def test_bad_files_among_good_ones_are_told_at_the_end_and_cost_nothing_else(run, tmp_path):
    paths = []
    for name, make in {**READ, **{name: make for name, (make, _) in REFUSED.items()}}.items():
        make(tmp_path / name)
        paths.append(tmp_path / name)
    paths.sort(key=lambda path: path.name)  # good and bad ones mixed
    status, out, err = run("inspect", *paths)
    assert status == 1
    refused = [path for path in paths if path.name in REFUSED]
    assert [line.split()[1] for line in err.splitlines()] == [str(path) for path in refused]
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert f"[inspect] {len(READ)} of {len(READ) + len(REFUSED)} images" in out
    assert len(list((tmp_path / "out").iterdir())) == len(READ)
    status, out, err = run("inspect", *paths, "--json", "--no-pictures")
    found = json.loads(out)["images"]
    assert status == 1
    assert [image["file"] for image in found] == [str(path) for path in paths]
    assert {image["file"] for image in found if "error" in image} == {str(path) for path in refused}
    assert len(err.splitlines()) == len(REFUSED)


def test_nothing_is_loaded_where_no_file_can_be_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_system", lambda *_, **__: pytest.fail("it was loaded"))
    status, out, err = run("inspect", tmp_path / "a.jpg", "--json")
    assert status == 1
    assert json.loads(out)["system"] is None
    assert err == f"error: {tmp_path / 'a.jpg'} does not exist. Check the path, or restore the file.\n"


def test_images_of_one_name_get_pictures_of_their_own_and_are_never_written_over(run, tmp_path):
    paths = [tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.png", tmp_path / "b" / "cat.jpg"]
    for i, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photo(seed=i)).save(path)
    before = [path.read_bytes() for path in paths]
    run("inspect", *paths, out=tmp_path / "b")
    assert [path.read_bytes() for path in paths] == before
    assert {path.name for path in (tmp_path / "b").glob("*.unmask.png")} == {
        "cat.unmask.png",
        "cat-2.unmask.png",
        "cat-3.unmask.png",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attack", "nonsense"], "unknown attack 'nonsense'. Choose one of: .*pgd_linf"),
        (["--attack", "mia_linf", "--epsilon", "-1"], "epsilon_255"),
        (["--epsilon", "8"], "Name one as well"),
        (["--class-set", "cs3a"], "--m-weights names a file"),
        (["--k-weights", "nothing.h5"], "nothing.h5 do not exist"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, robin, options, message):
    status, out, err = run("inspect", robin, *options)
    assert (status, out) == (2, "")
    assert re.match(f"error: .*{message}", err)
    assert len(err.splitlines()) == 1


def test_inspect_without_a_photograph_shows_its_usage(capsys):
    assert main(["inspect"]) == 2
    assert "IMAGE" in capsys.readouterr().err


# --- the demonstration ---------------------------------------------------------------------------------------------


def test_the_demonstration_attacks_the_bundled_photographs(run, tmp_path):
    status, out, _ = run("demo")
    assert status == 0
    assert "grace_hopper.jpg under mia_linf 8/255: M says" in out
    assert "camera.png under mia_linf 8/255: M says" in out
    pictures = {path.name for path in (tmp_path / "out").glob("*.unmask.png")}
    assert pictures == {"grace_hopper.mia_linf_8.unmask.png", "camera.mia_linf_8.unmask.png"}


def test_the_bundled_photographs_are_in_the_packages_of_requirements_txt(tmp_path):
    hopper, camera = bundled_photographs(tmp_path)
    assert size(hopper) == (512, 600)
    with Image.open(camera) as image:
        assert (image.size, image.mode, camera.parent) == ((512, 512), "L", tmp_path)
        assert np.asarray(image).std() > 30


def test_without_bundled_photographs_the_demonstration_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"make setup.*make inspect IMAGE="):
        bundled_photographs(tmp_path)
