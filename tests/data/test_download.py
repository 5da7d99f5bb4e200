"""Downloads against a server that fails: the right bytes, or a clear refusal, and nothing half-written."""

import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from faulty_server import FaultyServer

from unmask_tf.data import download as module
from unmask_tf.data.download import TRUSTED, adopt, download
from unmask_tf.data.sources import RAW, RELEASE, Source
from unmask_tf.errors import InputError
from unmask_tf.files import read_json, sha256_of

REPOSITORY = Path(__file__).parents[2]


def archive(seed=0, megabytes=1):
    """A zip file of incompressible content."""
    content, rng = io.BytesIO(), np.random.default_rng(seed)
    with zipfile.ZipFile(content, "w") as file:
        for number in range(20):
            file.writestr(f"data/unmask/cs3-1/{number}.jpg", rng.bytes(megabytes * 50_000))
    return content.getvalue()


CONTENT = archive()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(module, "_CHUNK", 1 << 14)
    with FaultyServer({"/data.zip": CONTENT, "/mirror.zip": CONTENT}).running() as running:
        yield running


def source(server, *paths, **known):
    addresses = tuple(server.address + path for path in paths or ("/data.zip",))
    return Source(name="data.zip", about="test data", kind="zip", addresses=addresses, **known)


def files(folder):
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def refused(wanted, folder, text):
    with pytest.raises(InputError, match=text):
        download(wanted, folder)


@pytest.mark.parametrize("known", [{}, {"hash": sha256_of(CONTENT)}, {"size": len(CONTENT)}])
def test_a_server_that_drops_at_30_60_and_99_percent_gives_the_right_bytes(server, tmp_path, known):
    server.faults = [0.3, 0.6, 0.99]
    path = download(source(server, **known), tmp_path)
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == {"data.zip", TRUSTED}
    starts = [0 if span is None else int(span[6:-1]) for _, span in server.requests]
    assert len(starts) == 4
    assert starts == sorted(set(starts))  # each request goes on where the one before stopped


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_the_next_run_goes_on_where_an_earlier_one_stopped(server, tmp_path, monkeypatch, share):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.faults = [share]
    refused(source(server), tmp_path, "Run the command again to go on")
    assert files(tmp_path) == {"data.zip.part", "data.zip.part.json"}
    assert download(source(server), tmp_path).read_bytes() == CONTENT
    assert int(server.requests[1][1][6:-1]) > (share - 0.1) * len(CONTENT)


def test_a_whole_part_of_a_killed_run_is_not_fetched_again(server, tmp_path):
    tag = '"' + sha256_of(CONTENT)[:12] + '"'
    (tmp_path / "data.zip.part").write_bytes(CONTENT)
    (tmp_path / "data.zip.part.json").write_text(json.dumps({"address": f"{server.address}/data.zip", "version": tag}))
    (tmp_path / "tmpabc").write_bytes(b"pooch's")
    assert download(source(server), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert files(tmp_path) == {"data.zip", TRUSTED}


@pytest.mark.parametrize("lacking", [None, "ranges", "etags", "if_range"])
def test_a_file_that_changed_in_between_is_fetched_anew(server, tmp_path, monkeypatch, lacking):
    if lacking:
        setattr(server, lacking, False)
    server.faults = [0.6]
    with monkeypatch.context() as patched:
        patched.setattr(module, "ATTEMPTS", 1)
        refused(source(server), tmp_path, "data.zip")
    server.files["/data.zip"] = archive(seed=1)
    assert download(source(server), tmp_path).read_bytes() == archive(seed=1)


def test_bytes_of_the_primary_address_are_not_mixed_with_those_of_a_mirror(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.faults, server.files["/mirror.zip"] = [0.6], archive(seed=1)
    assert download(source(server, "/data.zip", "/mirror.zip"), tmp_path).read_bytes() == archive(seed=1)


@pytest.mark.parametrize(("ranges", "etags"), [(False, True), (True, False)])
def test_without_ranges_or_versions_a_drop_starts_it_anew(server, tmp_path, ranges, etags):
    server.faults, server.ranges, server.etags = [0.6], ranges, etags
    assert download(source(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("headers", [{"Content-Encoding": "x-gzip"}, {"ETag": 'W/"weak"'}])
def test_what_servers_say_besides_does_not_spoil_it(server, tmp_path, headers):
    content = gzip.compress(CONTENT)
    server.files, server.headers, server.faults = {"/data.tar.gz": content}, headers, [0.6]
    server.etags = "ETag" not in headers
    wanted = replace(source(server, "/data.tar.gz"), name="data.tar.gz", kind="gzip")
    assert download(wanted, tmp_path).read_bytes() == content
    assert int(server.requests[1][1][6:-1]) > len(content) / 2


def test_bytes_of_another_file_that_were_there_do_not_spoil_it(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(b"PK\x03\x04" + b"x" * 1000)
    (tmp_path / "data.zip.part.json").write_text(json.dumps({"address": "elsewhere", "version": ""}))
    assert download(source(server, hash=sha256_of(CONTENT)), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["/data.zip", "/gone.zip"])
def test_a_wrong_or_missing_file_is_refused_at_once_and_the_mirror_asked(server, tmp_path, path):
    server.files["/data.zip"] = archive(seed=1)
    wanted = source(server, path, "/mirror.zip", hash=sha256_of(CONTENT))
    assert download(wanted, tmp_path).read_bytes() == CONTENT
    assert [asked for asked, _ in server.requests] == [path, "/mirror.zip"]


def test_a_wrong_hash_leaves_no_file(server, tmp_path):
    refused(source(server, hash="0" * 64), tmp_path, "its hash is")
    refused(source(server, hash="md5:" + "0" * 32), tmp_path, "its hash is")
    refused(source(server, size=len(CONTENT) + 1), tmp_path, f"has {len(CONTENT)} bytes")
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("fault", "text"), [("page", "a web page, such as a login"), ("nothing", "empty|no zip"), (404, "404")]
)
def test_what_is_not_the_file_is_recognised_and_not_asked_for_again(server, tmp_path, fault, text):
    server.faults = [fault]
    refused(source(server), tmp_path, text)
    assert len(server.requests) == 1
    assert not (tmp_path / "data.zip").exists()


@pytest.mark.parametrize("fault", [500, 503, 429, "longer"])
def test_passing_trouble_is_waited_for(server, tmp_path, fault):
    server.faults = [fault]
    assert download(source(server), tmp_path).read_bytes() == CONTENT


def test_a_length_that_is_too_short_is_noticed_where_size_or_hash_are_known(server, tmp_path):
    for known in ({"size": len(CONTENT)}, {"hash": sha256_of(CONTENT)}):
        server.faults = ["shorter"] * 20
        refused(source(server, **known), tmp_path, "bytes|hash")
        server.faults = []
    assert not (tmp_path / "data.zip").exists()


def test_the_first_copy_is_trusted_and_later_ones_compared_with_it(server, tmp_path):
    path = download(source(server), tmp_path)
    assert read_json(tmp_path / TRUSTED)["data.zip"]["sha256"] == sha256_of(CONTENT)
    path.write_bytes(b"damaged")
    assert download(source(server), tmp_path).read_bytes() == CONTENT
    server.files["/data.zip"] = archive(seed=1)
    path.unlink()
    refused(source(server), tmp_path, "its hash is|bytes")
    (tmp_path / "mine.zip").write_bytes(archive(seed=1))
    with pytest.raises(InputError, match="remove its entry"):
        adopt(source(server), tmp_path / "mine.zip", tmp_path)


def test_a_file_of_the_users_is_checked_and_left_where_it_is(tmp_path):
    wanted = Source(name="data.zip", about="test data", kind="zip", addresses=())
    (tmp_path / "mine.zip").write_bytes(CONTENT)
    assert adopt(wanted, tmp_path / "mine.zip", tmp_path / "folder") == tmp_path / "mine.zip"
    assert read_json(tmp_path / "folder" / TRUSTED)["data.zip"]["sha256"] == sha256_of(CONTENT)
    (tmp_path / "page.zip").write_bytes(b"<html>Log in</html>")
    for path, text in ((tmp_path / "page.zip", "a web page"), (tmp_path / "none.zip", "does not exist")):
        with pytest.raises(InputError, match=text):
            adopt(replace(wanted, name="other.zip"), path, tmp_path / "folder")


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 0, module.SPARE_DISK + len(CONTENT) - 1)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage)
        refused(source(server), tmp_path, "are free on the disk")
        assert files(tmp_path) == set()
    assert download(source(server), tmp_path).read_bytes() == CONTENT


def test_a_disk_that_fills_up_ends_it_and_the_next_run_goes_on(server, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, hard))  # writing more fails, as on a full disk
    try:
        refused(source(server), tmp_path, "Free some space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) <= {"data.zip.part", "data.zip.part.json"}
    assert download(source(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1][1] is not None


FETCH = """
import sys
from pathlib import Path
from unmask_tf.data.archives import unpack
from unmask_tf.data.download import download
from unmask_tf.data.sources import Source
import pooch, requests
print("ready", flush=True)
source = Source(name="data.zip", about="test data", kind="zip", addresses=(sys.argv[1],), hash=sys.argv[3] or None)
path = download(source, Path(sys.argv[2]) / ".downloads")
unpack(path, Path(sys.argv[2]) / "unmask", ("cs3-1",))
"""


@pytest.mark.parametrize("known", [True, False])
def test_killed_ten_times_at_random_the_next_run_ends_with_the_right_bytes(tmp_path, known):
    content, rng = archive(seed=2, megabytes=8), random.Random(5)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        expected = {Path(name).name: file.read(name) for name in file.namelist()}
    target, whole = tmp_path / "unmask", tmp_path / ".downloads" / "data.zip"
    with FaultyServer({"/data.zip": content}).running() as server:
        server.delay = 0.003
        hash = sha256_of(content) if known else ""
        command = [sys.executable, "-c", FETCH, f"{server.address}/data.zip", str(tmp_path), hash]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

        def right():
            assert not whole.exists() or whole.read_bytes() == content
            if target.exists():
                found = {path.name: path.read_bytes() for path in (target / "cs3-1").iterdir()}
                assert found == expected

        kills = 0
        while kills < 10:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05 if whole.exists() else 0.5))  # while it fetches, checks, or unpacks
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.communicate()
            right()
            shutil.rmtree(target, ignore_errors=True)  # if it got through
            if rng.random() < 0.5:  # so that half of the kills come while it fetches
                whole.unlink(missing_ok=True)
        subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
        right()
    assert target.exists() and whole.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"unmask", ".downloads", ".unpacking-unmask.lock"}
    assert files(tmp_path / ".downloads") == {"data.zip", TRUSTED}


def test_the_table_says_nothing_that_is_not_known():
    for known in (*RELEASE, *RAW):
        assert known.addresses and all(address.startswith(("https://", "http://")) for address in known.addresses)
        algorithm, _, value = (known.hash or "").rpartition(":")
        assert len(value) == {"": 64, "md5": 32}[algorithm] or known.hash is None
        assert (known.unpack_to is None) == (known.kind == "hdf5")
