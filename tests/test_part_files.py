"""The files of `gen.sample --parts`: shared by processes, merged in little memory, checked."""

import signal
import tracemalloc
import zipfile

import numpy as np
import pytest

from gen import distributed
from gen.errors import UserError
from gen.parts import npz
from gen.parts.files import PartSet
from gen.training.stop import StopSignal
from tests.test_parts import stored

ROWS = {
    "tokens": lambda i: np.arange(i, i + 12, dtype=np.int32),
    "arr_0": lambda i: np.full((16, 16, 3), i % 251, np.uint8),
    "captions": lambda i: np.array(f"caption {i}", "<U14"),
    "latents": lambda i: np.full((1,), i / 7, np.float32),
}


def rows_of(rows):
    """Arrays that tell which samples they are of."""
    numbers = range(rows.start, rows.stop)
    return {name: np.stack([row(i) for i in numbers]) for name, row in ROWS.items()}


def test_processes_share_the_parts(tmp_path):
    parts, drawn = PartSet(tmp_path / "x", 50, 4, {"seed": 0}), []
    parts.out.mkdir()

    def draw(rows):
        drawn.append(rows)
        return rows_of(rows)

    for index in range(2):
        with StopSignal() as stop:
            missing = parts.missing(index, 2)
            assert missing == set(range(index, 13, 2))
            assert parts.make(missing, draw, stop, index=index, count=2)
    assert sorted(i for rows in drawn for i in range(rows.start, rows.stop)) == list(range(50))
    with StopSignal() as stop:
        assert parts.make(parts.missing(), None, stop), "nothing is left to draw"
        assert parts.merge(stop)
    for name, array in rows_of(slice(0, 50)).items():
        np.testing.assert_array_equal(stored(parts.merged)[name], array)


def test_merging_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 16)  # as if the file were of many gigabytes
    parts = PartSet(tmp_path / "x", 20_000, 1000, {"seed": 0})
    parts.out.mkdir()
    with StopSignal() as stop:
        assert parts.make(parts.missing(), rows_of, stop)
        tracemalloc.start()
        assert parts.merge(stop)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    found = stored(parts.merged)
    assert found["arr_0"].nbytes > 15e6 > 5e6 > peak
    for name in ROWS:
        pieces = [stored(parts.path(k))[name] for k in range(parts.total)]
        assert found[name].dtype == pieces[0].dtype
        np.testing.assert_array_equal(found[name], np.concatenate(pieces))
    # Evaluators read rows off the member of the archive: NumPy's format 1.0, in C order.
    with zipfile.ZipFile(parts.merged) as archive, archive.open("arr_0.npy") as member:
        assert np.lib.format.read_magic(member) == (1, 0)
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
        assert shape == (20_000, 16, 16, 3) and not by_columns and dtype == np.uint8
        assert np.array_equal(np.frombuffer(member.read(768), np.uint8), np.zeros(768))
    np.testing.assert_array_equal(npz.first_rows(parts.merged, "tokens", 3), found["tokens"][:3])


def test_merging_stops_and_refuses(tmp_path, monkeypatch):
    parts = PartSet(tmp_path / "x", 8, 4, {"seed": 0})
    parts.out.mkdir()
    with StopSignal() as stop:
        assert parts.make(parts.missing(), rows_of, stop)
        signal.raise_signal(signal.SIGINT)
        assert not parts.merge(stop)
    content = bytearray(parts.path(1).read_bytes())
    content[300] ^= 1
    parts.path(1).write_bytes(content)
    with StopSignal() as stop, pytest.raises(UserError, match=r"part_00001.npz is damaged"):
        parts.merge(stop)
    parts.path(1).unlink()
    monkeypatch.setattr(distributed, "VISIBLE_S", 0)
    with StopSignal() as stop, pytest.raises(UserError, match=r"part_00001.npz is gone"):
        parts.merge(stop)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
