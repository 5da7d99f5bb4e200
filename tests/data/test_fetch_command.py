"""`fetch` at the command line: what goes where, from a server on this machine or from the user's own files."""

import io
import tarfile
import zipfile
from dataclasses import replace

import pytest
from faulty_server import FaultyServer

from unmask_tf import cli_fetch
from unmask_tf.cli import main
from unmask_tf.data import download, sources

WEIGHTS = b"\x89HDF\r\n\x1a\n" + b"weights" * 100


def zipped(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(name, name)
    return content.getvalue()


def tarred(mode, *names):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            file.addfile(info, io.BytesIO(name.encode()))
    return content.getvalue()


FILES = {
    "data.zip": zipped("data/unmask/cs3-1/train/car/0.jpg", "data/unmask/VOC2010/train.json"),
    "mask_rcnn_parts_0040.h5": WEIGHTS,
    "mask_rcnn_coco.h5": WEIGHTS + b"coco",
    "trainval.tar.gz": tarred("w:gz", "Annotations_Part/2008_000001.mat"),
    "VOCtrainval_03-May-2010.tar": tarred("w", "VOCdevkit/VOC2010/JPEGImages/2008_000001.jpg"),
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with all files; the table points to it, and what is fetched goes to a checkout of its own."""
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr(cli_fetch, "ROOT", tmp_path / "checkout")
    monkeypatch.setattr(cli_fetch, "WEIGHTS_FOLDER", tmp_path / "checkout" / "mask_rcnn_weights")
    with FaultyServer({f"/{name}": content for name, content in FILES.items()}).running() as running:
        for table in ("RELEASE", "RAW"):
            local = tuple(
                replace(source, addresses=(f"{running.address}/{source.name}",), hash=None, size=None)
                for source in getattr(sources, table)
            )
            monkeypatch.setattr(sources, table, local)
        yield running


def test_the_release_goes_to_the_places_where_the_profile_looks(server, tmp_path, capsys):
    server.faults = [None, 404]
    assert main(["fetch"]) == 2  # the one that failed is named, the others are there
    assert "mask_rcnn_parts_0040.h5 (the released K) could not be fetched" in capsys.readouterr().err
    assert main(["fetch"]) == 0
    root = tmp_path / "checkout"
    assert (root / "dataset/unmask/VOC2010/train.json").is_file()
    assert (root / "dataset/unmask/cs3-1/train/car/0.jpg").is_file()
    assert (root / "mask_rcnn_weights/mask_rcnn_parts_0040.h5").read_bytes() == WEIGHTS
    assert (root / "mask_rcnn_weights/mask_rcnn_coco.h5").read_bytes() == WEIGHTS + b"coco"
    asked = len(server.requests)
    assert main(["fetch"]) == 0
    assert len(server.requests) == asked == 4


def test_the_raw_sources_are_unpacked_side_by_side(server, tmp_path):
    assert main(["fetch", "--from", "sources"]) == 0
    folder = tmp_path / "checkout/dataset/sources"
    assert (folder / "pascal_part/Annotations_Part/2008_000001.mat").is_file()
    assert (folder / "VOC2010/JPEGImages/2008_000001.jpg").is_file()


def test_files_and_addresses_of_the_users_replace_the_listed_ones(server, tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    server.files["/elsewhere"] = FILES["mask_rcnn_coco.h5"]
    use = ["--use", f"mask_rcnn_parts_0040.h5={tmp_path}/mask_rcnn_parts_0040.h5"]
    use += ["--use", f"mask_rcnn_coco.h5={server.address}/elsewhere"]
    assert main(["fetch", "--data", str(tmp_path / "mine"), "--archive", str(tmp_path / "data.zip"), *use]) == 0
    assert [path for path, _ in server.requests] == ["/elsewhere"]
    assert (tmp_path / "mine/VOC2010/train.json").is_file()
    assert (tmp_path / "checkout/mask_rcnn_weights/mask_rcnn_parts_0040.h5").read_bytes() == WEIGHTS
    assert (tmp_path / "mask_rcnn_parts_0040.h5").is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--profile", "mini"], "Say PROFILE=paper"),
        (["--use", "other.zip=x"], "'other.zip' is not fetched"),
        (["--from", "sources", "--archive", "x.zip"], "'data.zip' is not fetched from the sources"),
    ],
)
def test_mistakes_are_named_before_anything_is_fetched(server, capsys, arguments, text):
    assert main(["fetch", *arguments]) == 2
    assert text in capsys.readouterr().err
    assert server.requests == []


def test_weights_that_are_there_and_differ_are_left_alone(server, tmp_path, capsys):
    folder = tmp_path / "checkout/mask_rcnn_weights"
    folder.mkdir(parents=True)
    (folder / "mask_rcnn_coco.h5").write_bytes(b"mine")
    assert main(["fetch"]) == 2
    assert "is not the file expected" in capsys.readouterr().err
    assert (folder / "mask_rcnn_coco.h5").read_bytes() == b"mine"
