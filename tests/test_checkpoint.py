# ruff: noqa: E501  (sentences stand whole, so that they can be searched for)
"""Checkpoints: bits in, bits out; whatever fails leaves the old file; whatever is wrong gets a sentence."""

import errno
import json
import os
import struct

import numpy as np
import pytest
from tiny_model import Config, Tiny

import tinygen as tg
from tinygen import checkpoint
from tinygen.errors import CheckpointError, UserError


def arrays():
    r = np.random.default_rng(0)
    return {
        "float32": r.normal(size=(3, 4)).astype(np.float32), "float64": r.normal(size=5), "float16": np.float16([1, np.nan]),
        "int64": np.array([[-(2**63), 2**63 - 1]]), "uint8": np.arange(256, dtype=np.uint8), "bool": np.array([True, False]),
        "number": np.asarray(7), "tenth": np.asarray(0.1), "truth": np.asarray(True), "none": np.zeros((0, 3), np.float32),
        "columns": r.normal(size=(4, 6))[:, ::2].T, "big_endian": np.arange(3, dtype=">i4"), "special": np.array([-0.0, np.inf]),
        "näme/日本": np.ones(1),
    }  # fmt: skip


def test_every_dtype_comes_back_bit_for_bit(tmp_path):
    path, given = tmp_path / "a.safetensors", arrays()
    checkpoint.save(path, given, {"step": 3, "text": "ε"}, third=0.1 + 0.2)
    back, meta = checkpoint.load(path)
    assert meta == {"step": 3, "text": "ε", "third": 0.1 + 0.2}
    assert back.keys() == given.keys()
    for name, a in given.items():
        assert back[name].shape == a.shape and back[name].dtype == a.dtype.newbyteorder("="), name
        assert back[name].tobytes() == a.astype(a.dtype.newbyteorder("=")).tobytes(), name
    copy = json.loads((tmp_path / "a.json").read_text())
    assert (
        copy["step"] == 3 and copy["arrays"]["float32"] == "float32 3×4" and copy["arrays"]["number"] == "int64 number"
    )
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.safetensors"]


def test_it_is_a_plain_safetensors_file(tmp_path):
    from safetensors.numpy import load_file, save_file

    checkpoint.save(tmp_path / "a.safetensors", {"x": tg.Tensor([1.0, 2.0])}, step=1)
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [1.0, 2.0]
    save_file({"y": np.ones(2)}, tmp_path / "b.safetensors", metadata={"format": "pt"})
    back, meta = checkpoint.load(tmp_path / "b.safetensors")
    assert back["y"].tolist() == [1.0, 1.0] and meta == {"format": "pt"}


def test_a_module_goes_in_whole_and_comes_out_whole(tmp_path):
    a, b = Tiny(Config(), tg.Rng(0)), Tiny(Config(), tg.Rng(1))
    batch = tg.data.Loader(tg.data.load("digits"), 8, tg.Rng(0)).batch(0)
    a.step(batch, tg.Rng(0))
    checkpoint.save(tmp_path / "m.safetensors", a, step=1)
    b.load(checkpoint.load(tmp_path / "m.safetensors")[0])
    mine, theirs = a.state(), b.state()
    assert {"enter.w", "norm.mean", "optimizer.m.enter.w", "ema.shadow.norm.var", "iteration"} <= mine.keys()
    assert all(mine[k].tobytes() == theirs[k].tobytes() for k in mine)
    with pytest.raises(
        CheckpointError, match=r"^the state holds enter.w of shape \(64, 8\); this model needs \(64, 4\)\.$"
    ):
        Tiny(Config(width=4), tg.Rng(0)).load(mine)


# ---- when writing fails


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, call):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": np.ones(3)}, step=1)
    before = path.read_bytes()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(path, {"x": np.zeros(3)}, step=2)
    assert str(caught.value) == (
        f"cannot write the checkpoint {path}: No space left on device; the checkpoint that was there before is untouched. "
        "Make room, or choose a folder that exists and can be written to."
    )
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.safetensors"]


def test_a_folder_that_is_missing_and_facts_that_are_not_json(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write the checkpoint .*: No such file or directory. Make room"):
        checkpoint.save(tmp_path / "no" / "a.safetensors", {"x": np.ones(3)})
    with pytest.raises(CheckpointError, match="the facts beside the arrays must be what JSON holds"):
        checkpoint.save(tmp_path / "a.safetensors", {"x": np.ones(3)}, loss=float("nan"))
    with pytest.raises(CheckpointError, match=r"x is complex128; a checkpoint holds float64, float32"):
        checkpoint.save(tmp_path / "a.safetensors", {"x": np.ones(3, complex)})
    assert os.listdir(tmp_path) == []
    with pytest.raises(UserError, match="cannot write .*: No such file or directory"):
        checkpoint.write_text(tmp_path / "no" / "a.json", "")


# ---- when the file is not what it should be


def safetensors(header, body=b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(start, stop, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HOSTILE = {
    "empty": (b"", "is not a safetensors file; it has 0 bytes and no header."),
    "text": (b"hello, this is text", "is not a safetensors file; it has 19 bytes and no header."),
    "huge header": (struct.pack("<Q", 2**62) + b"{}", "is truncated or no safetensors file: its header claims 4611686018427387904 bytes and the file has 10."),
    "not json": (safetensors(b"{]"), "its header is not what the format asks for."),
    "a list": (safetensors(b"[1]"), "its header is not what the format asks for."),
    "no offsets": (safetensors({"x": {"dtype": "F32"}}), "its header is not what the format asks for."),
    "deep": (safetensors(b"{" + b'"a":{' * 20000), "its header is not what the format asks for."),
    "words for offsets": (safetensors({"x": {"dtype": "F32", "shape": [1], "data_offsets": ["a", "b"]}}), "its header is not what the format asks for."),
    "overlap": (safetensors({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), "is damaged: a and b overlap in it."),
    "hole": (safetensors({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)), "is damaged: "),
    "negative": (safetensors({"a": entry(-4, 4, [2])}, bytes(8)), "is damaged: "),
    "shape": (safetensors({"a": entry(0, 4, [7])}, bytes(4)), "is damaged: "),
    "big shape": (safetensors({"a": entry(0, 4, [2**40, 2**40])}, bytes(4)), "is damaged: "),
    "dtype": (safetensors({"a": entry(0, 4, [1], "Q9")}, bytes(4)), "a is Q9; tinygen reads F64, F32, "),
    "beyond the end": (safetensors({"a": entry(0, 4000, [1000])}, bytes(4)), "is truncated: its arrays need 4075 bytes and the file has 79."),
    "trailing": (safetensors({"a": entry(0, 4, [1])}, bytes(8)), "is damaged: "),
    "version": (safetensors({"__metadata__": {"format": "tinygen", "version": "9", "meta": "{}"}}), "is written in version 9 of the checkpoint format; this tinygen reads version 1"),
    "metadata": (safetensors({"__metadata__": {"format": "tinygen", "version": "1", "meta": "{"}}), "is damaged: its metadata is not JSON."),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00.....", "header claims"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path, name):
    data, text = HOSTILE[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert text in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": np.ones(30), "y": np.zeros(3, np.float32)}, step=1)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated|not a safetensors"):
            checkpoint.load(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"^cannot read the checkpoint .*: No such file or directory\.$"):
        checkpoint.load(tmp_path / "a.safetensors")
