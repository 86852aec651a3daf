"""The cache: whole files or none, whatever happens; damage is found; what is derived is made
once."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from client.__main__ import main
from client.imaging.geometry.volumes import Frame, Header
from client.imaging.pipeline import header_index
from client.imaging.pipeline import image_cache as caches
from client.imaging.pipeline.header_index import HeaderIndex, IndexedFile
from client.imaging.pipeline.image_cache import BrokenEntryError, Cache
from client.imaging.pipeline.worker_pool import WorkerDeath, each
from common.errors import Fault, RunError

KEY, OTHER = "ab" + "0" * 62, "cd" + "0" * 62
SOME: dict[str, Any] = {
    "voxels": np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4),
    "none": np.zeros((0, 3), np.float32),
}


def path(folder: Path) -> Path:
    return next((folder / "images").rglob("*.image"))


def fresh() -> None:
    """As a new process begins: nothing is verified yet."""
    caches._VERIFIED.clear()


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.sampled_from("abc"),
        arrays.arrays(st.sampled_from([np.int16, np.uint8, np.float64]), arrays.array_shapes()),
    )
)
def test_what_is_stored_comes_back(
    tmp_path_factory: pytest.TempPathFactory, given_arrays: dict[str, Any]
) -> None:
    store = Cache(tmp_path_factory.mktemp("cache"))
    store.store(KEY, given_arrays, {"notes": ["one"], "box": [[0.5, 1.0]]})
    fresh()
    entry = store.open(KEY)
    assert entry is not None
    assert entry.metadata == {"notes": ["one"], "box": [[0.5, 1.0]]}
    assert set(entry.arrays) == set(given_arrays)
    for name, array in given_arrays.items():
        assert entry.arrays[name].dtype == array.dtype
        assert np.array_equal(entry.arrays[name], array, equal_nan=array.dtype.kind == "f")
        assert not entry.arrays[name].flags.writeable


def test_nothing_is_there_before(tmp_path: Path) -> None:
    assert Cache(tmp_path / "cache").open(KEY) is None
    assert Cache(tmp_path / "cache").sweep() == 0
    assert not (tmp_path / "cache").exists()


def test_only_the_owner_may_enter(tmp_path: Path) -> None:
    Cache(tmp_path / "cache").store(KEY, SOME, {})
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "damage", ["flip in the data", "flip in the header", "cut", "empty", "other"]
)
def test_damage_is_found_and_removed(tmp_path: Path, damage: str) -> None:
    store = Cache(tmp_path)
    store.store(KEY, SOME, {})
    file = path(tmp_path)
    blob = bytearray(file.read_bytes())
    if damage.startswith("flip"):
        blob[4096 + 5 if damage.endswith("data") else 30] ^= 1
    file.write_bytes(
        {"cut": bytes(blob[:5000]), "empty": b"", "other": b"x" * 9000}.get(damage, bytes(blob))
    )
    if damage == "cut":
        file.write_bytes(bytes(blob[:4100]))
    fresh()
    with pytest.raises(BrokenEntryError, match="made again"):
        store.open(KEY)
    assert store.open(KEY) is None
    store.store(KEY, SOME, {})
    assert store.open(KEY) is not None


def test_checksums_are_compared_once_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Cache(tmp_path)
    store.store(KEY, SOME, {})
    fresh()
    store.open(KEY)
    counted: list[int] = []
    monkeypatch.setattr(
        caches.zlib,
        "crc32",
        lambda blob, real=caches.zlib.crc32: (counted.append(len(blob)), real(blob))[1],
    )
    store.open(KEY)
    # the header is small and compared every time
    assert len(counted) == 1


def test_derived_arrays_are_made_once(tmp_path: Path) -> None:
    store = Cache(tmp_path)
    made: list[str] = []

    def make() -> Any:
        made.append("made")
        return np.arange(6).reshape(2, 3)

    kept = store.kept(KEY)
    assert np.array_equal(kept("crops 48", make), np.arange(6).reshape(2, 3))
    kept("crops 48", make)
    assert np.array_equal(store.kept(KEY)("crops 48", make), kept("crops 48", make))
    assert pickle.loads(pickle.dumps(kept))("crops 48", make)[1, 2] == 5
    assert made == ["made"]
    kept("crops 64", make)
    assert len(made) == 2
    for file in (tmp_path / "derived").rglob("*.array"):
        file.write_bytes(b"damaged")
    fresh()
    assert store.kept(KEY)("crops 48", make)[1, 2] == 5
    assert len(made) == 3


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_full_disk_is_said_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caches.os, "fsync" if step == "write" else "replace", full)
    store = Cache(tmp_path)
    for action in (
        lambda: store.store(KEY, SOME, {}),
        lambda: store.kept(KEY)("x", lambda: np.zeros(3)),
    ):
        with pytest.raises(RunError, match=r"No space left.*free space") as caught:
            action()
        assert caught.value.code == "S03"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RunError, match="cache"):
        Cache(tmp_path / "cache").store(KEY, SOME, {})


def test_a_killed_writer_leaves_no_entry_and_is_swept_up(tmp_path: Path) -> None:
    code = (
        "import os, sys, numpy as np\nfrom pathlib import Path\nfrom client.imaging.pipeline "
        "import image_cache as cache\n"
        "cache.os.replace = lambda a, b: (print('there', flush=True), "
        "__import__('time').sleep(60))\n"
        f"cache.Cache(Path(sys.argv[1])).store({KEY!r}, {{'a': np.zeros(1000)}}, {{}})"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    (aside,) = tmp_path.rglob("*.part")
    old = time.time() - 3600
    os.utime(aside, (old, old))
    store = Cache(tmp_path)
    assert store.sweep() == 0, "somebody is writing it"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert store.open(KEY) is None
    assert store.sweep() == 1
    assert list(tmp_path.rglob("*.part")) == []


HEADER = Header(
    "/images/1.dcm",
    "dicom",
    "CT",
    patient="p1",
    frames=(Frame((1.0, 2.0, 3.0), spacing=(0.8, 0.8)),),
    image_type=("ORIGINAL",),
)


def test_files_are_remembered(tmp_path: Path) -> None:
    first = HeaderIndex(tmp_path)
    fault = Fault("D00", "2.dcm", "cut short", "copy it again")
    first.add(
        [
            ("/images/1.dcm", IndexedFile((10, 20), HEADER)),
            ("2.dcm", IndexedFile((0, 1), None, fault)),
            ("LICENSE", IndexedFile((3, 3), None)),
        ]
    )
    first.add([("/images/1.dcm", IndexedFile((10, 20), HEADER, sha256="cd"))])
    again = HeaderIndex(tmp_path)
    assert again.get("/images/1.dcm", (10, 20)) == IndexedFile((10, 20), HEADER, sha256="cd")
    assert again.get("2.dcm", (0, 1)) == IndexedFile((0, 1), None, fault)
    assert again.get("LICENSE", (3, 3)) == IndexedFile((3, 3), None)
    assert again.get("/images/1.dcm", (10, 21)) is None, "it was changed"
    assert again.get("other", (10, 20)) is None


def test_damaged_lines_cost_their_file_alone(tmp_path: Path) -> None:
    HeaderIndex(tmp_path).add([(n, IndexedFile((1, 1), HEADER)) for n in "abc"])
    file = tmp_path / "files.jsonl"
    blob = file.read_bytes()
    file.write_bytes(blob.replace(b'"b"', b'"b', 1)[:-30])
    again = HeaderIndex(tmp_path)
    assert [again.get(n, (1, 1)) is not None for n in "abc"] == [True, False, False]
    again.add([("d", IndexedFile((1, 1), HEADER))])
    assert HeaderIndex(tmp_path).get("d", (1, 1)) is not None


def test_headers_that_other_code_read_are_read_again_and_hashes_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HeaderIndex(tmp_path).add([("a", IndexedFile((1, 1), HEADER, sha256="cd"))])
    monkeypatch.setattr(header_index, "fingerprint", lambda: "other code, of another release")
    again = HeaderIndex(tmp_path)
    assert again.get("a", (1, 1)) is None
    assert again.sha256("a", (1, 1)) == "cd"
    assert again.sha256("a", (1, 2)) == ""


def test_old_lines_are_dropped(tmp_path: Path) -> None:
    known = HeaderIndex(tmp_path)
    for n in range(1100):
        known.add([("a", IndexedFile((1, n), None))])
    assert len((tmp_path / "files.jsonl").read_text().split()) < 200
    assert HeaderIndex(tmp_path).get("a", (1, 1099)) is not None


def double(x: int) -> int:
    if x == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 99:
        raise RunError("S03", "the disk is full")
    return 2 * x


def test_work_is_shared_and_a_lost_process_costs_its_item_alone() -> None:
    items = [1, 2, 13, 4, 5]
    found = dict(each(double, items, 2))
    assert {n: r for n, r in found.items() if n != 2} == {0: 2, 1: 4, 3: 8, 4: 10}
    assert isinstance(found[2], WorkerDeath)
    assert "signal 9" in found[2].how


def test_an_error_in_a_process_is_raised_here() -> None:
    with pytest.raises(RunError, match="disk is full"):
        list(each(double, [1, 99, 3, 4], 2))


def test_processes_end_with_the_iterator() -> None:
    work = each(nap, [0, 60, 60, 60], 2)
    started = time.monotonic()
    next(work)
    work.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 20


def nap(seconds: float) -> None:
    time.sleep(seconds)


def test_what_was_not_opened_for_long_is_removed_and_nothing_else(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.files() == []
    cache.store(KEY, SOME, {})
    cache.store(OTHER, SOME, {})
    cache.kept(OTHER)("crops", lambda: np.zeros(3))
    (cache.folder / "files.jsonl").write_text("{}\n")
    long_ago = time.time() - 100 * 86_400
    for one in cache.files():
        os.utime(one.path, (long_ago, long_ago))
    fresh()
    assert cache.open(OTHER) is not None  # reading is use, on a disk that does not note it too
    assert len(cache.files()) == 3
    gone = cache.remove_unused(90)
    assert sorted(g.path.suffix for g in gone) == [".array", ".image"]
    assert all(g.path.stem != OTHER for g in gone)
    assert cache.open(KEY) is None
    assert cache.open(OTHER) is not None
    assert (cache.folder / "files.jsonl").exists()
    np.testing.assert_array_equal(
        cache.kept(OTHER)("crops", lambda: np.ones(3)), np.ones(3)
    )  # made again


def test_the_command_counts_first_and_removes_when_told(tmp_path: Path, capsys: Any) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        f'name = "a"\ndata = "{tmp_path}"\nstudies = ["liver_recurrence"]\nminimum = 10\ncache = '
        '"kept"\n'
    )
    Cache(tmp_path / "kept").store(KEY, SOME, {})
    old = time.time() - 10 * 86_400
    os.utime(path(tmp_path / "kept"), (old, old))
    told = []
    for more in ([], ["--unused", "30", "--remove"], ["--unused", "9", "--remove"]):
        assert main(["cache", "--site", str(site), "--json", *more]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert [t["files"] for t in told] == [1, 1, 1]
    assert [t["files not used"] for t in told] == [0, 0, 1]
    assert [t["files removed"] for t in told] == [0, 0, 1]
    assert told[2]["bytes not used"] == told[2]["bytes"] > 0
    assert Cache(tmp_path / "kept").files() == []
    assert main(["cache", "--site", str(site), "--unused", "-1"]) == 2
