"""Unpacking: all or nothing, and nothing outside the folder."""

import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple

import pytest

from unmask_tf.data import archives
from unmask_tf.data.archives import unpack
from unmask_tf.errors import InputError


def zipped(path, members, links=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
        for name, to in links:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, to)
    return path


def tarred(path, members, links=(), kind=tarfile.SYMTYPE, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for name, to in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            file.addfile(info)
    return path


def refused(archive, target, text):
    """Unpacking fails, and leaves nothing in the target's folder or above it."""
    with pytest.raises(InputError, match=text):
        unpack(archive, target)
    assert not target.exists()
    assert {path.name for path in target.parent.iterdir()} <= {".unpacking-data.lock"}
    assert not list(target.parent.parent.rglob("*escaped*"))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "inner" / "data"


@pytest.mark.parametrize("make", [zipped, tarred])
def test_the_wanted_folder_appears_complete_and_once(tmp_path, target, make):
    members = [("a/b/cs3-1/x.jpg", b"x" * 9), ("a/deep/er/still/cs3-1/y.jpg", b""), ("a/b/other.txt", b"other")]
    archive = make(tmp_path / "archive", members)
    assert unpack(archive, target, ("cs3-1", "VOC2010")) == 3
    assert {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.*") if path.suffix} == {
        "cs3-1/x.jpg": b"x" * 9,
        "other.txt": b"other",
        ".unpacked.json": (target / ".unpacked.json").read_bytes(),
    }
    assert unpack(archive, target) == 0
    with pytest.raises(InputError, match="holds none of: JPEGImages"):
        unpack(archive, target.parent / "another", ("JPEGImages",))


def test_plain_tars_folders_and_the_hidden_copies_of_macos(tmp_path, target):
    folder = tmp_path / "folder"
    (folder / "empty").mkdir(parents=True)
    (folder / "x.txt").write_bytes(b"x")
    with tarfile.open(tmp_path / "plain.tar", "w") as file:
        file.add(folder, ".")
    assert unpack(tmp_path / "plain.tar", target) == 3
    assert (target / "x.txt").read_bytes() == b"x"
    shutil.rmtree(target)
    unpack(zipped(tmp_path / "mac.zip", [("x.txt", b"x"), ("__MACOSX/._x.txt", b"junk")]), target)
    assert not (target / "__MACOSX").exists()


@pytest.mark.parametrize(
    "name", ["../escaped", "a/../../escaped", "/escaped", "..\\escaped", "C:\\escaped", "\\escaped"]
)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_paths_that_lead_out_are_refused(tmp_path, target, make, name):
    refused(make(tmp_path / "archive", [("fine.txt", b"x"), (name, b"x")]), target, "leads out of the folder")


@pytest.mark.parametrize("to", ["../../escaped", "/etc/passwd", "fine.txt"])
def test_links_are_refused(tmp_path, target, to):
    for archive in (
        zipped(tmp_path / "a.zip", [("fine.txt", b"x")], [("link", to)]),
        tarred(tmp_path / "a.tar.gz", [("fine.txt", b"x")], [("link", to)]),
        tarred(tmp_path / "b.tar.gz", [("fine.txt", b"x")], [("link", to)], tarfile.LNKTYPE),
        tarred(tmp_path / "c.tar.gz", [("fine.txt", b"x")], [("pipe", "")], tarfile.FIFOTYPE),
    ):
        refused(archive, target, "a link or a device")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_bombs_are_refused(tmp_path, target, make, monkeypatch):
    monkeypatch.setattr(archives, "MAX_GROWTH", 1 << 20)
    refused(make(tmp_path / "archive", [("zeros", bytes(5_000_000))]), target, "no archive of data")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    refused(make(tmp_path / "archive", [(f"{i}", b"") for i in range(4)]), target, "more than 3 files")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_damaged_and_truncated_archives_are_refused(tmp_path, target, make):
    whole = make(tmp_path / "archive", [("a", os.urandom(5000)), ("b", os.urandom(5000))]).read_bytes()
    for damaged in (whole[:3000], whole[:2000] + bytes(100) + whole[2100:], b"", b"no archive"):
        (tmp_path / "archive").write_bytes(damaged)
        refused(tmp_path / "archive", target, "is damaged")


def test_names_that_occur_twice_are_refused(tmp_path, target):
    with pytest.warns(UserWarning):
        archive = zipped(tmp_path / "archive", [("a", b"1"), ("a", b"2")])
    refused(archive, target, "twice")
    refused(zipped(tmp_path / "archive", [("a", b"1"), ("a/b", b"2")]), target, "cannot unpack")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_disk_that_is_too_small_is_noticed(tmp_path, target, make, monkeypatch):
    archive = make(tmp_path / "archive", [("zeros", bytes(50_000)), ("more", bytes(50_000))])
    free = namedtuple("usage", "total used free")(10**9, 0, archives.SPARE_DISK + 60_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    refused(archive, target, "are free on the disk. Free some space")


def test_a_folder_of_the_users_is_left_alone(tmp_path, target):
    target.mkdir(parents=True)
    archive = zipped(tmp_path / "archive", [("a", b"1")])
    (target / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="was not unpacked by this command"):
        unpack(archive, target)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]
    (target / "mine.txt").unlink()
    assert unpack(archive, target) == 1
