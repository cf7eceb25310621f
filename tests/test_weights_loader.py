"""The reader of published weight files: what it reads, and how it refuses. No PyTorch is needed: the files are
assembled here, byte by byte; what torch.save itself writes is compared where it is installed."""

import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygen
from tinygen.errors import DataError
from tinygen.metrics.weights import load_weights, pickled, published

HEADS = Path(tinygen.__file__).parent / "metrics" / "nets" / "heads"
A = np.arange(12, dtype="<f4").reshape(3, 4)
B = np.array([5, -6], "<i8")


# ---- an assembler for the pickles of torch.save


def name(module_name):
    module, _, last = module_name.rpartition(".")
    return b"c" + f"{module}\n{last}\n".encode()


def text(s):
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def number(n):
    if 0 <= n < 256:
        return b"K" + bytes([n])
    raw = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(ns):
    return b"(" + b"".join(map(number, ns)) + b"t"


def storage(key, numel, kind="Float", more=b""):
    kind = name(f"torch.{kind}Storage")
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(numel) + more + b"tQ"


def tensor(key, numel, shape, stride, offset=0, kind="Float", more=b""):
    return (name("torch._utils._rebuild_tensor_v2") + b"(" + storage(key, numel, kind, more) + number(offset)
            + numbers(shape) + numbers(stride) + b"\x89" + name("collections.OrderedDict") + b")RtR")


def table(**tensors):
    return (name("collections.OrderedDict") + b")R(" + b"".join(text(k) + v for k, v in tensors.items()) + b"u}"
            + text("_metadata") + b"}sb")


def zipped(pkl, root="weights", **more):
    """A file of today's format; A is storage 0, B is storage 1. more: other entries, or None to leave one out."""
    entries = {"data.pkl": b"\x80\x02" + pkl + b".", "byteorder": b"little", "data/0": A.tobytes(),
               "data/1": B.tobytes(), "version": b"3\n"} | more
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for entry, data in entries.items():
            if data is not None:
                z.writestr(f"{root}/{entry}", data)
    return out.getvalue()


LITTLE, BIG = (b"}" + text("little_endian") + truth + b"s" for truth in (b"\x88", b"\x89"))


def legacy(pkl, keys=("0", "1"), data=(A, B), facts=LITTLE):
    parts = [number(0x1950A86A20F9469CFC6C), b"M\xe9\x03", facts, pkl, b"](" + b"".join(map(text, keys)) + b"e"]
    stream = b"".join(b"\x80\x02" + p + b"." for p in parts)
    return stream + b"".join(struct.pack("<q", a.size) + a.tobytes() for a in data)


def safetensors(header, body):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + body


AB = table(a=tensor("0", 12, (3, 4), (4, 1)), b=tensor("1", 2, (2,), (1,), kind="Long"))
PLAIN = {"zip": zipped(AB), "legacy": legacy(AB), "safetensors": safetensors(
    {"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}, "__metadata__": {"x": "y"},
     "b": {"dtype": "I64", "shape": [2], "data_offsets": [48, 64]}}, A.tobytes() + B.tobytes())}


@pytest.fixture
def write(tmp_path):
    def to(data, called="w.pth"):
        path = tmp_path / called
        path.write_bytes(data)
        return path
    return to


# ---- what is read


@pytest.mark.parametrize("kind", PLAIN)
def test_the_three_formats(write, kind):
    found = load_weights(write(PLAIN[kind]))
    assert found.format.split()[-1] == kind and list(found.arrays) == ["a", "b"]
    for mine, theirs in ((found.arrays["a"], A), (found.arrays["b"], B)):
        assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs) and not mine.flags.writeable


def test_strides_offsets_parameters_and_nested_dicts(write):
    view = tensor("0", 12, (2, 3), (1, 4), offset=1)
    old = name("torch._utils._rebuild_tensor") + b"(" + storage("0", 12) + number(0) + numbers(()) + numbers(()) + b"tR"
    parameter = (name("torch._utils._rebuild_parameter") + b"(" + tensor("0", 12, (0, 7), (7, 1)) + b"\x88"
                 + name("collections.OrderedDict") + b")RtR")
    pairs = name("collections.OrderedDict") + b"(](](" + text("w") + old + b"eetR"  # as Python 2 wrote them
    found = load_weights(write(zipped(table(view=view, net=table(p=parameter), old=pairs, epoch=number(7))))).arrays
    assert list(found) == ["view", "net.p", "old.w"]
    assert np.array_equal(found["view"], [[1, 5, 9], [2, 6, 10]])
    assert found["net.p"].shape == (0, 7) and found["old.w"] == 0


@pytest.mark.parametrize("kind, dtype", [("Double", "<f8"), ("Half", "<f2"), ("Int", "<i4"), ("Short", "<i2"),
                                         ("Char", "i1"), ("Byte", "u1"), ("Bool", "?"), ("BFloat16", "bf16")])
def test_element_types(write, kind, dtype):
    values = np.array([0, 1, 1, 0]) if dtype == "?" else np.array([1, 2, 100, 0])
    raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2") if dtype == "bf16" else values.astype(dtype)
    code = table(t=tensor("k", 4, (4,), (1,), kind=kind))
    found = load_weights(write(zipped(code, **{"data/k": raw.tobytes()}))).arrays["t"]
    assert found.dtype == ("<f4" if dtype == "bf16" else dtype) and np.array_equal(found, values)


def test_bfloat16_and_bool_of_safetensors(write):
    raw = (np.array([1.5, -2], "<f4").view("<u4") >> 16).astype("<u2").tobytes() + b"\1\0"
    head = {"h": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
            "t": {"dtype": "BOOL", "shape": [2], "data_offsets": [4, 6]}}
    found = load_weights(write(safetensors(head, raw))).arrays
    assert np.array_equal(found["h"], [1.5, -2]) and found["h"].dtype == np.float32
    assert np.array_equal(found["t"], [True, False])


@pytest.mark.parametrize("net", published.HEADS)
def test_a_published_file_is_read_and_recognised(net):
    """Legacy files of 2018, as the wheel lpips 0.1.4 ships them; the sums were taken with torch.load."""
    found = load_weights(HEADS / f"{net}.pth")
    assert found.format == "torch legacy" and found.sha256 == published.HEADS[net]
    shapes = {"alex": [64, 192, 384, 256, 256], "vgg": [64, 128, 256, 512, 512],
              "squeeze": [64, 128, 256, 384, 384, 512, 512]}[net]
    assert [a.shape for a in found.arrays.values()] == [(1, c, 1, 1) for c in shapes]
    sums = {"alex": SUMS[0], "vgg": SUMS[1], "squeeze": SUMS[2]}[net]
    assert sum(float(a.sum(dtype=np.float64)) for a in found.arrays.values()) == pytest.approx(sums, rel=1e-12)


SUMS = (105.2753545809201, 131.85550854727626, 173.4387181383333)


def test_as_torch_writes_and_reads_them(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch, whose files these are, is not installed")
    torch.manual_seed(0)
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    base = torch.randn(4, 6)
    state.update(half=torch.randn(5).half(), turned=base.t(), part=base[1:3, ::2], flag=torch.tensor([True, False]),
                 empty=torch.zeros(0, 7), wide=torch.randn(3, 2).bfloat16(), one=torch.tensor(3.5, dtype=torch.float64),
                 parameter=torch.nn.Parameter(torch.randn(2, 2)), tied=state["0.weight"])
    for new in (True, False):
        torch.save(state, tmp_path / "t.pth", _use_new_zipfile_serialization=new)
        found = load_weights(tmp_path / "t.pth")
        assert found.format == ("torch zip" if new else "torch legacy") and list(found.arrays) == list(state)
        for key, tensor_ in state.items():
            theirs = (tensor_.float() if tensor_.dtype == torch.bfloat16 else tensor_).numpy(force=True)
            assert found.arrays[key].dtype == theirs.dtype and np.array_equal(found.arrays[key], theirs), key


# ---- what is refused: each with its own sentence


def refusal(write, data, sha256=None):
    with pytest.raises(DataError) as caught:
        load_weights(write(data), sha256=sha256)
    sentence = str(caught.value)
    assert "w.pth" in sentence and len(sentence) < 400 and "\n" not in sentence and sentence.endswith(".")
    return sentence


class Bomb:
    """What a hostile pickle does when it is loaded: makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("container", ["zip", "legacy", "bare", "magic"])
def test_code_in_the_pickle_does_not_run(write, tmp_path, protocol, container):
    trap = tmp_path / "sprung"
    code = pickle.dumps({"w": Bomb(trap)}, protocol)
    data = {"zip": zipped(b"", **{"data.pkl": code}), "bare": code, "magic": legacy(AB)[:20] + code,
            "legacy": legacy(AB).replace(b"\x80\x02" + AB + b".", code)}[container]
    refusal(write, data)
    assert not trap.exists()


@pytest.mark.parametrize("what, code, word", [
    ("another name", name("os.system") + text("true") + b"\x85R", "asks for os.system"),
    ("a name of torch's", name("torch.load"), "asks for torch.load"),
    ("a name of another module", name("numpy.core.multiarray._reconstruct"), "asks for numpy"),
    ("getattr", name("builtins.getattr"), "asks for builtins.getattr"),
    ("what a terminal would obey", b"cos\n\x1b[2J\n", "should be a name and is none"),
    ("INST", b"(ios\nsystem\n", "the instruction INST"),
    ("OBJ", b"(" + name("collections.OrderedDict") + b"o", "the instruction OBJ"),
    ("NEWOBJ", name("collections.OrderedDict") + b")\x81", "the instruction NEWOBJ"),
    ("EXT1", b"\x82\x01", "the instruction EXT1"),
    ("STACK_GLOBAL", b"\x8c\x02os\x8c\x06system\x93", "SHORT_BINUNICODE"),
    ("PERSID", b"Px\n", "the instruction PERSID"),
    ("no instruction at all", b"\xff", "the instruction 0xff"),
    ("another protocol", b"\x80\x04", "of protocol 4"),
    ("a call of a storage", name("torch.FloatStorage") + b")R", "makes no sense"),
    ("a call of a text", text("os.system") + b")R", "makes no sense"),
    ("attributes of a tensor", tensor("0", 12, (2,), (1,)) + b"}b", "makes no sense"),
    ("a list as a name", b"}]Ns", "a list as a name"),
    ("an endless name", b"}" + text("x" * 1001) + b"Ns", "an endless name"),
    ("an empty stack", b"0", "the instruction POP"),
    ("a memo that was not filled", b"h\x07", "makes no sense"),
    ("half a text", b"X\xff\xff\xff\xff", "breaks off inside its pickle"),
    ("a text of negative length", b"T\xff\xff\xff\xff", "breaks off inside its pickle"),
    ("a list", b"]", "holds a list where"),
    ("one tensor", tensor("0", 12, (2,), (1,)), "one tensor without a name"),
    ("nothing", b"}", "holds no tensor"),
    ("a list of tensors", table(x=b"](" + tensor("0", 12, (2,), (1,)) + b"e"), "a list as 'x'"),
    ("negative sizes", table(x=tensor("0", 12, (-2, 3), (3, 1))), "none of these can be negative"),
    ("negative strides", table(x=tensor("0", 12, (2, 3), (-3, 1), offset=6)), "none of these can be negative"),
    ("a negative offset", table(x=tensor("0", 12, (2,), (1,), offset=-1)), "none of these can be negative"),
    ("strides out of bounds", table(x=tensor("0", 12, (3, 4), (5, 1))), "reaches element 13 of a storage with 12"),
    ("an offset out of bounds", table(x=tensor("0", 12, (12,), (1,), offset=1)), "reaches element 12"),
    ("an empty tensor far outside", table(x=tensor("0", 12, (0,), (1,), offset=99)), "reaches element 98"),
    ("strides that overflow", table(x=tensor("0", 12, (2, 2), (2**63, 1))), "reaches element of 64 bits"),
    ("a huge size", table(x=tensor("0", 12, (2**62,), (1,))), "reaches element"),
    ("a huge number", table(x=tensor("0", 12, (2**1000, 2), (1, 1))), "of 1001 bits"),
    ("an empty tensor of huge size", table(x=tensor("0", 12, (0, 2**62, 2**62), (1, 1, 1))), "reaches element"),
    ("repeated elements", table(x=tensor("0", 12, (10**9,), (0,))), "by repeating them"),
    ("thousands of axes", table(x=tensor("0", 12, (1,) * 5000, (1,) * 5000)), "5000 axes"),
    ("a huge storage", table(x=tensor("0", 2**60, (2**60,), (1,))), "claims a storage of"),
    ("a negative storage", table(x=tensor("0", -12, (2,), (1,))), "claims a storage of -12"),
    ("a storage of two types", table(x=tensor("0", 12, (2,), (1,)), y=tensor("0", 12, (2,), (1,), kind="Int")),
     "two ways"),
    ("a view of a storage", table(x=tensor("0", 12, (2,), (1,), more=b"(K\x01K\x02K\x03t")), "is a view of another"),
    ("a text as a size", table(x=tensor("0", 12, (2,), (1,)).replace(b"(K\x02t", b"(" + text("2") + b"t")), "no sense"),
])  # fmt: skip
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_hostile_pickles(write, container, what, code, word):
    assert word in refusal(write, zipped(code) if container == "zip" else legacy(code))


@pytest.mark.parametrize("code, word", [
    (b"N" * 50_001, "50,000 instructions"),
    # a list of 20,000 pairs, made into dicts again and again: each call copies all of it
    (b"](" + b"](K\x01K\x01eq\x00" + b"h\x00" * 20_000 + b"eq\x01"
     + (name("collections.OrderedDict") + b"h\x01\x85R") * 9, "50,000 instructions"),
    # dicts that hold a dict a hundred times, which holds a dict a hundred times, …: 10⁸ names
    (b"}q\x00" + tensor("0", 12, (1,), (1,)) + b"q\x09" + b"".join(
        b"}(" + b"".join(text(str(i)) + b"h" + bytes([k]) for i in range(100)) + b"uq" + bytes([k + 1])
        for k in range(5)),
     "nested more than 8 deep or hold more"),
    (b"".join(b"}" + text("d") for _ in range(20)) + b"}" + b"s" * 20, "nested more than 8 deep"),
    (table(**{f"t{i}": tensor("0", 12, (12 - i,), (1,), i) for i in range(6)}), "tensors overlap"),
])  # fmt: skip
def test_pickles_built_to_exhaust(write, monkeypatch, code, word):
    monkeypatch.setattr(pickled, "MOST_INSTRUCTIONS", 50_000)  # a tenth, and a tenth of the memory
    tracemalloc.start()
    began = time.perf_counter()
    try:
        assert word in refusal(write, zipped(code))
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 5


def test_nesting_without_end_is_let_go_of(write):
    assert "holds a tuple" in refusal(write, zipped(b")" + b"\x85" * 400_000))


def crafted(**change):
    """PLAIN's zip with one entry's record in the directory changed: field=value."""
    data = bytearray(PLAIN["zip"])
    at = data.index(b"PK\x01\x02")
    for field, value in change.items():
        place, form = {"flag": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "packed": (20, "<I"),
                       "size": (24, "<I"), "offset": (42, "<I")}[field]
        struct.pack_into(form, data, at + place, value)
    return bytes(data)


def deflated():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("w/data.pkl", b"\x80\x02" + AB + b".")
        z.writestr("w/data/0", bytes(50_000_000))
    return out.getvalue()


def archive(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for n in names:
            z.writestr(zipfile.ZipInfo(n), b"\x80\x02}.")
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what, make, word", [
    ("encrypted", lambda: crafted(flag=1), "is encrypted"),
    ("a bomb", deflated, "is compressed and could grow"),
    ("sizes that differ", lambda: crafted(size=1 << 20), "is compressed and could grow"),
    ("an entry past the end", lambda: crafted(size=1 << 20, packed=1 << 20), "more than are left"),
    ("an entry elsewhere", lambda: crafted(offset=7), "no entry where its list says"),
    ("overlapping entries", lambda: crafted(size=400, packed=400, crc=__import__("zlib").crc32(
        PLAIN["zip"][46:446])), "entries overlap"),
    ("a wrong checksum", lambda: crafted(crc=1), "whose checksum is wrong"),
    ("traversal", lambda: archive("w/data.pkl", "w/../../etc/passwd"), "points outside"),
    ("an absolute name", lambda: archive("/w/data.pkl"), "points outside"),
    ("a backslash", lambda: archive("w/data.pkl", "w\\x"), "points outside"),
    ("duplicated names", lambda: archive("w/data.pkl", "w/data.pkl"), "two entries 'w/data.pkl'"),
    ("two pickles", lambda: archive("w/data.pkl", "v/data.pkl"), "with 2 entries data.pkl"),
    ("no pickle", lambda: archive("arr_0.npy"), "with 0 entries data.pkl"),
    ("TorchScript", lambda: archive("w/data.pkl", "w/constants.pkl", "w/code/x.py"), "is a TorchScript archive"),
    ("big-endian", lambda: zipped(AB, byteorder=b"big"), "byte order 'big'"),
    ("a missing storage", lambda: zipped(AB, **{"data/1": None}), "lacks the storage '1'"),
    ("a short storage", lambda: zipped(AB, **{"data/1": b"1234"}), "has 16 bytes, and it has 4"),
    ("the first half", lambda: PLAIN["zip"][: len(PLAIN["zip"]) // 2], "no readable list of entries"),
    ("no directory", lambda: PLAIN["zip"][:-40], "no readable list of entries"),
])  # fmt: skip
def test_hostile_archives(write, what, make, word):
    assert word in refusal(write, make())


@pytest.mark.parametrize("data, word", [
    (legacy(AB)[:-1], "breaks off inside its storage '1'"),
    (legacy(AB)[:200], "should be a name and is none"),
    (legacy(AB)[: legacy(AB).index(b"cpu") + 1], "breaks off inside its pickle"),
    (legacy(AB) + b"x", "1 bytes after its last storage"),
    (legacy(AB, keys=("0",)), "lacks the storage '1'"),
    (legacy(AB, keys=("0", "1", "2")), "a storage '2' that no tensor is in"),
    (legacy(AB, keys=("0", "0", "1")), "no list of storages"),
    (legacy(AB, data=(A, B[:1])), "has 2 elements, and it has 1"),
    (legacy(AB, facts=BIG), "big-endian machine"),
    (legacy(AB).replace(b"M\xe9\x03", b"M\xea\x03"), "a protocol that it never wrote"),
])
def test_damaged_legacy_files(write, data, word):
    assert word in refusal(write, data)


def entry(**change):
    return {"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]} | change}


@pytest.mark.parametrize("header, body, word", [
    (entry(), A.tobytes()[:-1], "claims bytes 0 to 48"),
    (entry(), A.tobytes() + b"x", "do not end where the file does"),
    (entry(shape=[3, 5]), A.tobytes(), "claims bytes 0 to 48"),
    (entry(shape=[-3, -4]), A.tobytes(), "does not give a shape"),
    (entry(shape=[2**40, 2**40]), A.tobytes(), "claims bytes"),
    (entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), b"", "claims bytes"),
    (entry(shape=5), A.tobytes(), "does not give a shape"),
    (entry(data_offsets=[8, 56]), b"12345678" + A.tobytes(), "leave gaps"),
    (entry(data_offsets=[48, 0]), A.tobytes(), "claims bytes 48 to 0"),
    (entry(dtype="F8"), A.tobytes(), "of type 'F8'"),
    (entry(dtype=[1]), A.tobytes(), "of type '[1]'"),
    ({"a": 5}, b"", "does not give a shape"),
    ({}, b"", "0 tensors"),
    (b'{"a":' * 100_000, b"", "not safetensors' JSON"),
    (b'{"a": 1, "a": 2}', b"", "a name stands twice"),
    (b"{\xff\xfe}", b"", "not safetensors' JSON"),
    (entry() | {"b": entry()["a"]}, A.tobytes(), "tensors that overlap"),
])
def test_hostile_safetensors(write, header, body, word):
    assert word in refusal(write, safetensors(header, body))


def test_a_header_longer_than_the_file(write):
    assert "breaks off inside its table" in refusal(write, struct.pack("<Q", 10_000) + b'{"a": 1}')


@pytest.mark.parametrize("data, word", [
    (b"", "is empty"), (b"<!DOCTYPE html><html>", "is a web page"), (b"\x93NUMPY\x01\x00", "is a NumPy array"),
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"), (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (pickle.dumps({"a": 1}), "is a pickle that torch.save did not write"), (b"0123456789", "begins as no known format"),
    (b"x" * 257 + b"ustar", "is a tar archive"),
])  # fmt: skip
def test_other_files(write, data, word):
    assert word in refusal(write, data)


def test_digest(write):
    path = write(PLAIN["zip"])
    digest = load_weights(path).sha256
    for asked in (digest[:8], digest.upper(), "sha256:" + digest):
        assert load_weights(path, sha256=asked).sha256 == digest
    assert load_weights(path).digest == "sha256:" + digest[:16]
    assert "it is damaged or another file" in refusal(write, PLAIN["zip"], sha256="6726825d")
    assert "another file" in refusal(write, PLAIN["zip"], sha256=digest[:7])  # too few digits to say anything


def test_what_is_not_a_file(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="No such file"):
        load_weights(tmp_path / "none.pth")
    with pytest.raises(DataError, match=r"is a folder|Is a directory|not a regular file"):
        load_weights(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(DataError, match="not a regular file"):
            load_weights(tmp_path / "pipe")
    monkeypatch.setattr("tinygen.metrics.weights.MOST_BYTES", 100)
    (tmp_path / "big.pth").write_bytes(bytes(101))
    with pytest.raises(DataError, match="has 101 bytes"):
        load_weights(tmp_path / "big.pth")


# ---- whatever happens to a file: arrays of a bounded size, or a sentence


def survives(path, data):
    path.write_bytes(data)
    try:
        found = load_weights(path).arrays
    except DataError:
        return
    assert sum(a.nbytes for a in found.values()) <= 4 * len(data)
    for a in found.values():
        a.sum()  # every element is there to be read


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(sorted(PLAIN)), cut=st.none() | st.integers(0, 2000),
       flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), max_size=4))
def test_cut_and_flipped_files(tmp_path, kind, cut, flips):
    data = bytearray(PLAIN[kind][:cut])
    for at, by in flips:
        if data:
            data[at % len(data)] ^= by
    survives(tmp_path / "w", bytes(data))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=st.integers(0, 400), inserted=st.lists(st.sampled_from(
    [b"(", b"t", b"R", b"Q", b"b", b"u", b"s", b"]", b"}", b")", b"e", b"a", b"h\0", b"q\0", b"\x85", b"\x86", b"N",
     b"K\1", b"J\xff\xff\xff\xff", name("torch.FloatStorage"), name("torch._utils._rebuild_tensor_v2"), text("x"), b".",
     number(2**62), tensor("0", 12, (2, 2), (3, 3))]), max_size=6))
def test_pickles_of_random_instructions(tmp_path, where, inserted):
    code = AB[:where] + b"".join(inserted) + AB[where:]
    survives(tmp_path / "w", zipped(code))


def test_the_machine_calls_and_imports_nothing():
    """What the docstring promises, read off the source: no import but NumPy's and the errors', no eval, no getattr."""
    source = Path(pickled.__file__).read_text()
    for word in ("import pickle\n", "__import__", "importlib", "getattr(", "eval(", "exec(", "copyreg."):
        assert word not in source.split('"""', 2)[2], word
