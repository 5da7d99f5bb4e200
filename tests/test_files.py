"""Atomic writing: whatever happens, the final name holds the old content or the new, whole."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unmask_tf import files
from unmask_tf.errors import InputError

ROOT = Path(__file__).parents[1]
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def child(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True, **options)


# --- what is written -----------------------------------------------------------------------------------------------


def test_content_is_written_replaced_and_read_back(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    files.write_json(path, {"b": 1, "a": [1.5, None, "ü"]})
    assert path.read_bytes() == b'{\n "a": [\n  1.5,\n  null,\n  "\\u00fc"\n ],\n "b": 1\n}\n'
    assert files.read_json(path) == {"a": [1.5, None, "ü"], "b": 1}
    files.write_text(path, "ü\n")
    assert path.read_bytes() == b"\xc3\xbc\n"
    files.write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(path.parent) == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_temporary_file_lies_beside_the_final_one_and_keeps_its_suffix(tmp_path):
    with files.atomic_path(tmp_path / "m.weights.h5") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name != "m.weights.h5"
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".weights.h5")
        assert not (tmp_path / "m.weights.h5").exists()
        temporary.write_bytes(b"x")
    assert names(tmp_path) == ["m.weights.h5"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_json_that_no_reader_understands_is_not_written(tmp_path, value):
    files.write_text(tmp_path / "a.json", "old")
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "a.json", {"x": value})
    assert (tmp_path / "a.json").read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_sha256_is_the_standards(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256(tmp_path / "abc") == files.sha256_of(b"abc") == ABC
    long = b"x" * ((1 << 20) + 1)  # more than one block
    (tmp_path / "long").write_bytes(long)
    assert files.sha256(tmp_path / "long") == hashlib.sha256(long).hexdigest()


# --- remembered hashes ---------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files whose content was hashed, in order."""
    names, real = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: names.append(Path(path).name) or real(path))
    return names


def put(path, content, age=10.0):
    """Writes a file that was last changed `age` seconds ago."""
    path.write_bytes(content)
    changed = time.time() - age
    os.utime(path, (changed, changed))
    return path


def test_an_unchanged_file_is_hashed_once_and_remembered_across_processes(tmp_path, hashed):
    path = put(tmp_path / "abc", b"abc")
    cache = files.HashCache(tmp_path / "cache" / "hashes.json")
    assert cache.sha256(path) == cache.sha256(str(path)) == ABC
    assert hashed == ["abc"]
    cache.save()
    assert files.HashCache(cache.path).sha256(path) == ABC
    assert hashed == ["abc"]


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_hashed_again(tmp_path, hashed, change):
    path, cache = put(tmp_path / "a", b"abd"), files.HashCache(tmp_path / "hashes.json")
    assert cache.sha256(path) != ABC
    status = path.stat()
    if change == "size":
        path.write_bytes(b"abcd")
    elif change == "time":
        put(path, b"abc", age=5.0)
    else:
        put(tmp_path / "new", b"abc").replace(path)
    if change != "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.sha256(path) == files.sha256_of(b"abcd" if change == "size" else b"abc")
    assert hashed == ["a", "a"]


def test_a_file_changed_just_now_is_not_remembered(tmp_path, hashed):
    path, cache = put(tmp_path / "a", b"abd", age=0.0), files.HashCache(tmp_path / "hashes.json")
    status = path.stat()
    assert cache.sha256(path) != ABC
    # The second change of one moment leaves size, time and inode as they were.
    path.write_bytes(b"abc")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.sha256(path) == ABC
    cache.save()
    assert not cache.path.exists()


@pytest.mark.parametrize("content", [b"", b'{"a": [1', b"\xff\xfe"])
def test_a_damaged_list_of_hashes_is_made_anew(tmp_path, hashed, content):
    put(tmp_path / "hashes.json", content)
    cache = files.HashCache(tmp_path / "hashes.json")
    assert cache.sha256(put(tmp_path / "abc", b"abc")) == ABC
    cache.save()
    assert files.HashCache(cache.path).sha256(tmp_path / "abc") == ABC
    assert hashed == ["abc"]


def test_a_file_that_cannot_be_hashed_is_named(tmp_path):
    cache = files.HashCache(tmp_path / "hashes.json")
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match=f"{path} cannot be read"):
            cache.sha256(path)


# --- locks ---------------------------------------------------------------------------------------------------------

HOLDING = """
import sys, time
from unmask_tf.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
WAITING = """
import sys
from unmask_tf.files import locked
print("waits", flush=True)
with locked(sys.argv[1]):
    print("held", flush=True)
"""


def test_a_lock_is_waited_for_and_freed_by_the_death_of_its_holder(tmp_path):
    lock = tmp_path / "new" / ".lock"
    holder = child(HOLDING, lock, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == "held\n"
        waiter = child(WAITING, lock, stdout=subprocess.PIPE)
        assert waiter.stdout.readline() == "waits\n"
        time.sleep(0.3)
        assert waiter.poll() is None
    finally:
        holder.kill()
        holder.communicate()
    assert waiter.communicate(timeout=60)[0] == "held\n"
    assert waiter.returncode == 0


def test_where_the_file_system_knows_no_locks_the_work_goes_on(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.locked(tmp_path / ".lock"):
        assert (tmp_path / ".lock").exists()


# --- reading faults ------------------------------------------------------------------------------------------------


def test_a_json_file_that_is_missing_or_cut_or_binary_or_a_folder_is_refused(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"a\.json does not exist"):
        files.read_json(path)
    for content in (b'{"a": [1, 2', b"", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
            files.read_json(path)
    with pytest.raises(InputError, match="cannot be read"):
        files.read_json(tmp_path)


# --- writing faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), InputError("bad")])
def test_an_exception_while_writing_passes_and_leaves_the_old_file_alone(tmp_path, error):
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(type(error)) as caught, files.atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def no_space(*_arguments, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_disk_that_is_full_at_any_step_leaves_the_old_file_alone(tmp_path, monkeypatch, call):
    files.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(InputError, match=r"cannot write .*a\.txt: No space left on device\. Free some space"):
        files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_disk_that_fills_up_during_the_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a.txt", "old")

    def half(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        no_space()

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(InputError, match="No space left on device"):
        files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


LIMITED = """
import resource, sys
from unmask_tf.errors import InputError
from unmask_tf.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    write_bytes(sys.argv[1], b"n" * 1_000_000)
except InputError as error:
    print(error)
"""


def test_a_write_the_kernel_stops_halfway_leaves_the_old_file_alone(tmp_path):
    """The file size limit stops a real write as a full disk does: some bytes are on the disk, then the call fails."""
    files.write_text(tmp_path / "a.bin", "old")
    output, _ = child(LIMITED, tmp_path / "a.bin", stdout=subprocess.PIPE).communicate(timeout=60)
    assert output.startswith(f"cannot write {tmp_path / 'a.bin'}: File too large.")
    assert (tmp_path / "a.bin").read_text() == "old"
    assert names(tmp_path) == ["a.bin"]


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_leaves_the_old_file_alone(tiny_disk):
    files.write_text(tiny_disk / "a.bin", "old")
    with pytest.raises(InputError, match="No space left on device"):
        files.write_bytes(tiny_disk / "a.bin", b"n" * 1_000_000)
    assert (tiny_disk / "a.bin").read_text() == "old"
    assert names(tiny_disk) == ["a.bin"]
    files.write_bytes(tiny_disk / "a.bin", b"n" * 1000)  # the half-written file holds no space any more
    assert (tiny_disk / "a.bin").stat().st_size == 1000


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write .*file/a\.txt"):
        files.write_text(tmp_path / "file" / "a.txt", "new")


# --- kill -9 -------------------------------------------------------------------------------------------------------

HALFWAY = """
import sys, time
from unmask_tf.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_writer_killed_halfway_leaves_the_old_file_alone(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    process = child(HALFWAY, tmp_path / "a.txt", stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "a.txt").read_text() == "old"
    # SIGKILL lets nobody clean up; what stays is hidden and is not taken for a result.
    assert [name for name in names(tmp_path) if not name.startswith(".partial-")] == ["a.txt"]


ENDLESS = """
import itertools, sys
from unmask_tf.files import write_bytes
for i in itertools.count():
    write_bytes(sys.argv[1], bytes([i % 256]) * 3_000_000)
"""


def test_a_writer_killed_at_any_moment_never_leaves_a_half_written_file(tmp_path):
    moment = random.Random(0)
    path = tmp_path / "a.bin"
    for _ in range(6):
        path.unlink(missing_ok=True)
        process = child(ENDLESS, path)
        try:
            give_up = time.monotonic() + 60
            while not path.exists() and process.poll() is None and time.monotonic() < give_up:
                time.sleep(0.001)
            time.sleep(moment.uniform(0, 0.05))
            assert process.poll() is None, "the writer must still be writing"
        finally:
            process.kill()
            process.wait()
        content = path.read_bytes()
        assert len(content) == 3_000_000
        assert content.count(content[:1]) == 3_000_000
