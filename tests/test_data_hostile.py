"""Truncated, hostile and wrong files: one sentence each, no code run, no memory taken on a header's word."""

import gzip
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from test_data_readers import cifar10_binary, fashion, idx_bytes, pictures, planes, png

from tinygen import data
from tinygen.data.readers import read_idx
from tinygen.errors import ConfigError, DataError

MIB = 2**20


def refused(path, text, error=DataError, **options):
    """Loading must fail with exactly `text` (with PATH for the path) and take next to no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            data.load(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).replace(str(path), "PATH") == text
    assert peak < 64 * MIB


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


# ---- IDX

def test_idx_truncated(tmp_path):
    whole = idx_bytes(pictures(10, 5, 5, 1)[..., 0])
    refused(written(tmp_path, "a", whole[:-7]), "PATH is truncated: its header promises 250 bytes of data "
            "and 243 are there; download or copy it again")
    refused(written(tmp_path, "b", whole[:9]), "PATH is truncated: its header promises 12 bytes of data and "
            "5 are there; download or copy it again")
    refused(written(tmp_path, "c.gz", gzip.compress(whole[:-7])), "PATH is truncated: its header promises "
            "250 bytes of data and 243 are there; download or copy it again")
    refused(written(tmp_path, "d.gz", gzip.compress(whole)[:-60]), "PATH is a truncated or damaged gzip file "
            "(Compressed file ended before the end-of-stream marker was reached); download or copy it again")
    damaged = bytearray(gzip.compress(whole))
    damaged[-6] ^= 1                                # the checksum
    with pytest.raises(DataError, match=r"e\.gz is a truncated or damaged gzip file \(CRC check failed"):
        data.load(written(tmp_path, "e.gz", bytes(damaged)))


def test_idx_longer_than_its_header(tmp_path):
    whole = idx_bytes(pictures(10, 5, 5, 1)[..., 0])
    for name, content in (("a", whole + b"x"), ("b.gz", gzip.compress(whole + b"x"))):
        refused(written(tmp_path, name, content), "PATH is longer than its header says (250 bytes of data); "
                "it is damaged or not an IDX file, so download or copy it again")


@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
def test_idx_claiming_a_terabyte(tmp_path, wrap):
    head = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**20, 2**10, 2**10)
    refused(written(tmp_path, "a", wrap(head + b"1234")), "PATH says that it holds 1,099,511,627,776 bytes "
            "of data, more than the limit of 2,147,483,648; if that is right, raise the limit with "
            "max_bytes=")
    refused(written(tmp_path, "b", wrap(head + b"1234")), max_bytes=2**50, text="PATH is truncated: its "
            "header promises 1,099,511,627,776 bytes of data and 4 are there; download or copy it again")


def test_gzip_bomb(tmp_path):
    squeeze = zlib.compressobj(9, wbits=31)
    head = struct.pack(">BBBB3I", 0, 0, 8, 3, 10, 5, 5)
    bomb = b"".join(map(squeeze.compress, [head] + [bytes(MIB)] * 150)) + squeeze.flush()
    assert len(bomb) < MIB
    refused(written(tmp_path, "a.gz", bomb), "PATH is longer than its header says (250 bytes of data); it is "
            "damaged or not an IDX file, so download or copy it again")
    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join(map(squeeze.compress, [bytes(MIB)] * 150)) + squeeze.flush()
    refused(written(tmp_path, "b.gz", bomb), "PATH is gzip-compressed, but not an IDX file inside; "
            "decompress it (gunzip) and give what comes out")


def test_idx_that_does_not_belong(tmp_path):
    refused(written(tmp_path, "a", idx_bytes(np.zeros((2, 3, 3), ">f4"), 13)), "PATH: images must be "
            "unsigned bytes (IDX type 08); float32 was found; convert them to 0..255")
    refused(written(tmp_path, "b", idx_bytes(np.zeros(9, np.uint8))), "PATH is an IDX file of 1 dimensions, "
            "not images (three); give the images file, and the labels will be found beside it")
    refused(written(tmp_path, "c", idx_bytes(np.zeros((2, 3, 3, 4), np.uint8))), "PATH: images must be N, H, "
            "W or N, H, W, 3; (2, 3, 3, 4) was found")
    with pytest.raises(DataError, match="d is not an IDX file: it should begin with 0, 0, a type and a "
                                        "number of dimensions, and begins with 68 69"):
        read_idx(written(tmp_path, "d", b"hi"))


def test_idx_folders_with_parts_missing(tmp_path):
    fashion(tmp_path, "", bytes)
    labels = tmp_path / "train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(idx_bytes(np.zeros(7, np.uint8)))
    refused(tmp_path, "PATH/train-labels-idx1-ubyte has 7 labels but train-images-idx3-ubyte has 30 images; "
            "one of them belongs to another set")
    labels.write_bytes(whole)
    refused(tmp_path, "PATH/train-labels-idx1-ubyte: labels must be 0..2 and 0..9 was found; renumber the "
            "classes from 0, or give as many label_names as there are", label_names=["a", "b", "c"])
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).unlink()
    refused(tmp_path, "PATH has no test images among its IDX files; add the file t10k-images-idx3-ubyte",
            split="test")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    refused(tmp_path, "PATH/train-images-idx3-ubyte is truncated or damaged: its name says IDX and its "
            "content does not; download or copy it again")
    (tmp_path / "train-images-idx3-ubyte").unlink()
    refused(tmp_path, "PATH has IDX files but none with images (three dimensions); add the file whose name "
            "ends in images-idx3-ubyte")


# ---- CIFAR binary

def test_cifar_binary_truncated_or_missing(tmp_path):
    cifar10_binary(tmp_path)
    third = tmp_path / "data_batch_3.bin"
    third.write_bytes(third.read_bytes()[:-100])
    refused(tmp_path, "PATH/data_batch_3.bin is truncated or damaged: its 33,703 bytes are no CIFAR batch "
            "(whole records of 3,073 or 3,074 bytes, or a pickle); download or copy it again")
    assert len(data.load(tmp_path, "test")) == 11
    (tmp_path / "test_batch.bin").unlink()
    third.unlink()
    refused(tmp_path, "PATH has no test batch among data_batch_1.bin, data_batch_2.bin, data_batch_4.bin, "
            "data_batch_5.bin; add test_batch or test, whole and under CIFAR's own name", split="test")
    refused(tmp_path, "PATH/data_batch_1.bin is CIFAR-10, which has no coarse labels; leave label='coarse' "
                      "out",
            label="coarse")


def test_cifar_binary_all_truncated(tmp_path):
    written(tmp_path, "train.bin", bytes(5000))
    refused(tmp_path, "PATH/train.bin is truncated or damaged: its 5,000 bytes are no CIFAR batch (whole "
            "records of 3,073 or 3,074 bytes, or a pickle); download or copy it again")


# ---- CIFAR Python batches

class Evil:
    def __reduce__(self):
        return os.system, ("touch /nonexistent/tinygen",)


def test_pickle_with_a_forbidden_global_runs_nothing(tmp_path):
    for i, (payload, name) in enumerate([
            (Evil(), f"{os.system.__module__}.system"),
            (np.float64(1), "numpy._core.multiarray.scalar"),
            (range(3), "__builtin__.xrange")]):
        path = written(tmp_path, f"data_batch_{i}", pickle.dumps({"data": payload, "labels": [0]}, 2))
        refused(path, f"PATH is refused: its pickle asks for {name}, and only NumPy arrays are allowed; get "
                "the file from a source that you trust")


def test_pickle_truncated(tmp_path):
    whole = pickle.dumps({"data": planes(pictures(4)), "labels": [0, 1, 2, 3]}, 2)
    for cut in (len(whole) // 2, len(whole) - 3, 40):
        path = written(tmp_path, f"data_batch_{cut}", whole[:cut])
        with pytest.raises(DataError, match=r"is truncated or damaged: its pickle breaks off or makes "
                                            r"no sense \("):
            data.load(path)


@pytest.mark.parametrize("body, text", [
    (b"}\x8e" + struct.pack("<Q", 2**40) + b"abc.",
     "PATH is truncated or damaged: its pickle breaks off or makes no "
     "sense (expected 1099511627776 bytes in a bytes8, but only 4 remain); download or copy it again"),
    (b"}\x96" + struct.pack("<Q", 2**40) + b"abc.",
     "PATH is truncated or damaged: its pickle breaks off or makes no "
     "sense (expected 1099511627776 bytes in a bytearray8, but only 4 remain); download or copy it again"),
    (b"}\x96" + struct.pack("<Q", 1) + b"a0.",
     "PATH is refused: its pickle uses the instruction BYTEARRAY8, which a "
     "CIFAR batch has no need of; get the file from a source that you trust"),
    (b"}r" + struct.pack("<I", 2**31 - 1) + b".",
     "PATH is refused: its pickle is built to exhaust memory; get the "
     "file from a source that you trust"),
    (b"})" + b"\x85" * 300_000 + b"Ns.",
     "PATH is refused: its pickle is built to exhaust memory; get the file from a "
     "source that you trust"),
    (b"}(cos\nsystem\nU\x02lso.",
     "PATH is refused: its pickle uses the instruction OBJ, which a CIFAR batch has no "
     "need of; get the file from a source that you trust"),
    (b"}0].",
     "PATH is refused: its pickle uses the instruction POP, which a CIFAR batch has no need of; get the file "
     "from a source that you trust"),
    (b"}U\x01aK\x01s.",
     "PATH is a pickle but not a CIFAR batch: 'data' must be uint8 (N, 3072), and keys ['a'] was "
     "found; give the folder of CIFAR's own batches"),
    (b"}N.",
     "PATH holds a NoneType where a CIFAR batch is a dict; give the folder of CIFAR's own batches"),
])
def test_pickles_made_to_harm(tmp_path, body, text):
    refused(written(tmp_path, "data_batch_1", b"\x80\x02" + body), text)


def array_state(shape, raw, dtype=b"U\x02u1"):
    """A pickled batch whose array has any shape and bytes."""
    dims = b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape)
    return (b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            b"\x8a\x06" + struct.pack("<q", 2**40)[:6] + b"\x85U\x01b\x87R(K\x01(" + dims
            + b"tcnumpy\ndtype\n" + dtype + b"\x85R\x89U" + bytes([len(raw)]) + raw + b"tbs.")


@pytest.mark.parametrize("shape, raw, dtype, why", [
    ((2**40,), b"abc", b"U\x02u1", "ValueError: an array of shape (1099511627776,) cannot have 3 bytes"),
    ((2**40, 0), b"abc", b"U\x02u1", "ValueError: an array of shape (1099511627776, 0) cannot have 3 bytes"),
    ((-1, -3), b"abc", b"U\x02u1", "ValueError: an array's state is not as NumPy writes it"),
    ((3,), b"abc", b"U\x02O8", "ValueError: arrays must be of type u1, i4, i8, not 'O8'"),
    ((3,), b"abc", b"]", "TypeError: unhashable type: 'list'"),
])
def test_pickled_arrays_are_checked_before_they_exist(tmp_path, shape, raw, dtype, why):
    with pytest.raises(DataError) as caught:
        data.load(written(tmp_path, "data_batch_1", array_state(shape, raw, dtype)))
    message = str(caught.value)
    assert f"data_batch_1 is a damaged pickle ({why.split(':')[0]}: " in message
    assert "unhashable" in why or f"({why}); download or copy it again" in message


def test_pickled_batches_that_do_not_fit(tmp_path):
    x = planes(pictures(3))
    for name, batch, text in [
            ("data_batch_1", {"data": x[:, :3000], "labels": [0, 1, 2]}, "PATH is a pickle but not a CIFAR "
             "batch: 'data' must be uint8 (N, 3072), and uint8 (3, 3000) was found; give the folder of "
             "CIFAR's own batches"),
            ("data_batch_2", {"data": x, "labels": [0, 1]}, "PATH has 3 images but its labels are not as "
             "many whole numbers; it is damaged, so download or copy it again"),
            ("data_batch_3", {"data": x, "labels": ["a", 1, 2]}, "PATH has 3 images but its labels are not "
             "as many whole numbers; it is damaged, so download or copy it again"),
            ("data_batch_4", {"data": x}, "PATH has no fine labels; its keys are ['data']")]:
        refused(written(tmp_path, name, pickle.dumps(batch, 2)), text)


# ---- npz

def stored(tmp_path, header, body, claim=None, name="images.npy"):
    """An .npz whose one member has any header, and whose directory may lie about the member's size."""
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(name, raw)
    if claim is not None:
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\x01\x02") + 24
        content[at:at + 4] = struct.pack("<I", claim)
        path.write_bytes(content)
    return path


def test_npz_claiming_a_terabyte(tmp_path):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1048576, 1024, 1024), }\n"
    refused(stored(tmp_path, header, b"1234"), "PATH: images.npy says that it holds 1,099,511,627,776 bytes "
            "of data, more than the limit of 2,147,483,648; if that is right, raise the limit with "
            "max_bytes=")
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1024, 1024, 1024), }\n"
    refused(stored(tmp_path, header, b"1234"), "PATH: images.npy is truncated: its header promises "
            "1,073,741,824 bytes of data and 4 are there; download or copy it again")
    refused(stored(tmp_path, header, b"1234", claim=2**30 + 10 + len(header)), "PATH: images.npy is "
            "truncated: its header promises 1,073,741,824 bytes of data and 4 are there; download or copy it "
            "again")


def test_npz_bomb(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z, z.open("images.npy", "w") as f:
        header = {"descr": "|u1", "fortran_order": False, "shape": (150, 1024, 1024)}
        np.lib.format.write_array_header_1_0(f, header)
        for _ in range(150):
            f.write(bytes(MIB))
    refused(path, "PATH: images.npy says that it holds 157,286,528 bytes of data, more than the limit of "
            "100,000,000; if that is right, raise the limit with max_bytes=", max_bytes=10**8)


def test_npz_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([Evil()], object))
    refused(tmp_path / "a.npz", "PATH: images.npy holds pickled Python objects, which could run code and are "
            "not read; save plain arrays (for captions, an array of strings)")


def test_npz_of_other_things(tmp_path):
    path = tmp_path / "a.npz"
    x = pictures(4, 6, 6)
    for arrays, text in [
            ({"mu": np.zeros(3), "sigma": np.eye(3)}, "PATH should have an array 'images' or 'arr_0' and has "
             "mu, sigma (mu and sigma are statistics for a Fréchet distance); save the images under "
             "'images'"),
            ({"images": x / 255}, "PATH: 'images' must be uint8 with values 0..255, and is float64; convert "
             "it before saving (tinygen.data.to_uint8 takes images in [-1, 1])"),
            ({"images": x.transpose(0, 3, 1, 2)}, "PATH: 'images' must be N, H, W or N, H, W, C with C = 1 "
             "or 3, and is (4, 3, 6, 6); transpose it with .transpose(0, 2, 3, 1) before saving"),
            ({"images": x, "labels": np.arange(3)}, "PATH: 'labels' must be of shape (4,), one for each "
             "image, and is (3,)"),
            ({"images": x, "labels": np.zeros(4)}, "PATH: labels must be whole numbers in one dimension; "
             "float64 (4,) was found"),
            ({"images": x, "labels": np.array([0, 1, -1, 2])}, "PATH: labels must be 0..65535 and -1..2 was "
             "found; renumber the classes from 0"),
            ({"images": x, "captions": np.arange(4)},
             "PATH: 'captions' must be an array of strings, and is int64")]:
        np.savez(path, **arrays)
        refused(path, text)


def test_npz_truncated(tmp_path):
    np.savez(tmp_path / "a.npz", images=pictures(4, 6, 6))
    content = (tmp_path / "a.npz").read_bytes()
    refused(written(tmp_path, "b.npz", content[:-30]), "PATH is a damaged zip file (File is not a zip file); "
            "download or copy it again")
    damaged = bytearray(content)
    damaged[300] ^= 255
    with pytest.raises(DataError, match=r"c\.npz is a damaged or encrypted archive \(Bad CRC-32 for file "):
        data.load(written(tmp_path, "c.npz", bytes(damaged)))


# ---- pictures

def test_mixed_sizes_need_a_size(tmp_path):
    png(tmp_path / "1.png", pictures(1, 4, 6)[0])
    png(tmp_path / "2.png", pictures(1, 4, 7)[0])
    refused(tmp_path, "PATH has pictures of different sizes: 1.png is 6×4 and 2.png is 7×4; give size=, for "
            "instance size=64, to resize and crop them all")


def test_pictures_truncated_or_false(tmp_path):
    png(tmp_path / "a" / "1.png", pictures(1, 40, 40)[0])
    whole = (tmp_path / "a" / "1.png").read_bytes()
    for name, content in (("cut", whole[:len(whole) // 2]), ("text", b"hello"), ("none", b""),
                          ("head", whole[:20]),
                          ("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")):
        folder = tmp_path / name
        folder.mkdir()
        written(folder, "1.png", content)
        with pytest.raises(DataError) as caught:
            data.load(folder)
        message = str(caught.value)
        assert message.startswith(f"{folder}/1.png cannot be decoded as a picture (")
        assert message.endswith("; it is truncated, damaged or of another format, so replace it or take it "
                                "out")


def test_picture_claiming_a_terabyte(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**20, 2**20, 8, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    folder = tmp_path / "f"
    folder.mkdir()
    written(folder, "1.png", content)
    with pytest.raises(DataError, match=r"1\.png (says that it is 1048576×1048576 pixels; at most 67,108,864|"
                                        r"cannot be decoded as a picture \(DecompressionBombError)"):
        data.load(folder)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 10000, 10000, 8, 0, 0, 0, 0))
    written(folder, "1.png", b"\x89PNG\r\n\x1a\n" + head + content[33:])
    refused(folder, "PATH/1.png says that it is 10000×10000 pixels; at most 67,108,864 are read, so shrink "
            "it or take it out")


def test_more_pictures_than_memory(tmp_path):
    for i in range(3):
        png(tmp_path / f"{i}.png", pictures(1, 10, 10)[0])
    refused(tmp_path, "PATH says that it holds 900 bytes of data, more than the limit of 500; if that is "
            "right, raise the limit with max_bytes=", max_bytes=500)


def test_folders_that_make_no_sense(tmp_path):
    formats = "bmp, gif, jpeg, jpg, pgm, png, ppm, tif, tiff, webp"
    refused(tmp_path, f"PATH holds no pictures and no other data that tinygen knows; it reads {formats} in "
            "the folder or in a subfolder for each class, IDX files and CIFAR batches")
    png(tmp_path / "cat" / "1.png", pictures(1, 4, 4)[0])
    png(tmp_path / "2.png", pictures(1, 4, 4)[0])
    refused(tmp_path, "PATH/2.png lies beside the class folders cat, so its class is unknown; move it into "
            "one of them, or all pictures into one folder")
    (tmp_path / "2.png").unlink()
    (tmp_path / "cat").rename(tmp_path / "train")
    refused(tmp_path, "PATH has no test part: its subfolders are train; add a folder test", split="test")


def test_zip_bomb_and_damage(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z, z.open("cat/1.png", "w") as f:
        for _ in range(300):
            f.write(bytes(MIB))
    refused(path, "PATH: cat/1.png says that it is 314,572,800 bytes long; a picture has at most "
            "268,435,456, so take it out of the zip")
    refused(written(tmp_path, "b.zip", path.read_bytes()[:-40]), "PATH is a damaged zip file (File is not a "
            "zip file); download or copy it again")
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("readme.txt", "hello")
    refused(path, "PATH holds no pictures and no other data that tinygen knows; it reads bmp, gif, jpeg, "
            "jpg, pgm, png, ppm, tif, tiff, webp in the zip or in a subfolder for each class, IDX files and "
            "CIFAR batches")


def test_zip_of_rare_compression(tmp_path):
    for name, method in (("a.npz", zipfile.ZIP_BZIP2), ("b.zip", zipfile.ZIP_LZMA)):
        member = "images.npy" if name == "a.npz" else "1.png"
        with zipfile.ZipFile(tmp_path / name, "w", method) as z:
            z.writestr(member, b"anything")
        refused(tmp_path / name, f"PATH: {member} is compressed by method {int(method)}, and only storing and "
                "deflating are read; pack it again without that option")


def test_zip_encrypted_or_corrupt(tmp_path):
    png(tmp_path / "1.png", pictures(1, 8, 8)[0])
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.write(tmp_path / "1.png", "1.png")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[6] |= 1
    with pytest.raises(DataError, match=r"b\.zip is a damaged or encrypted zip file \(.*password.*\); "
                                        "download it again, or zip it without a password"):
        data.load(written(tmp_path, "b.zip", bytes(content)))
    content = bytearray(path.read_bytes())
    content[80] ^= 255
    with pytest.raises(DataError, match=r"c\.zip is a damaged or encrypted zip file \(Bad CRC-32 for file "):
        data.load(written(tmp_path, "c.zip", bytes(content)))


# ---- everything else

@pytest.mark.parametrize("content, text", [
    (b"", "PATH is empty; download or copy it again"),
    (b"\x89PNG\r\n\x1a\n....", "PATH is a single picture; give the folder that holds it"),
    (b"<!DOCTYPE html><html>404</html>", "PATH is a web page, not data; the download probably met an error "
     "page, so download it again"),
    (b"version https://git-lfs.github.com/spec/v1\n", "PATH is a Git LFS pointer, not the data; run 'git lfs "
     "pull' where it came from"),
    (b"\x93NUMPY\x01\0v\0", "PATH is a bare .npy array; save it with numpy.savez as 'images' (and 'labels')"),
    (b"a/b".ljust(257, b"\0") + b"ustar\0" + bytes(300), "PATH is a tar archive; extract it (tar xf) and "
     "give the folder"),
    (gzip.compress(b"a/b".ljust(257, b"\0") + b"ustar\0" + bytes(300)), "PATH is a tar archive; extract it "
     "(tar xf) and give the folder"),
    (b"hello world", "PATH is in no format that tinygen reads (IDX, CIFAR-10/100 binary or Python batches, "
     ".npz, a zip or a folder of images)"),
])
def test_files_that_are_something_else(tmp_path, content, text):
    refused(written(tmp_path, "file", content), text)


@pytest.mark.parametrize("options, text", [
    ({"size": 8},
     "PATH: size and channels apply to folders and zips of images, and this is not one; leave them out"),
    ({"label": "fine"},
     "PATH: label='fine' or 'coarse' applies to CIFAR-100, and this is not CIFAR; leave it out"),
    ({"label": "fin"}, "label must be one of 'fine', 'coarse', not 'fin'; did you mean 'fine'?"),
    ({"sice": 8}, "the data set PATH has no option 'sice'; did you mean 'size'? Its options are: size, "
     "channels, label, label_names, max_bytes"),
    ({"split": "validation"}, "split must be one of 'train', 'test', not 'validation'"),
])
def test_options_that_do_not_apply(tmp_path, options, text):
    np.savez(tmp_path / "a.npz", images=pictures(3, 4, 4))
    refused(tmp_path / "a.npz", text, ConfigError, **options)


@pytest.mark.parametrize("options, text", [
    ({"size": 0}, "size must be a positive number of pixels or a pair (H, W), not 0"),
    ({"size": (3, -1)}, "size must be a positive number of pixels or a pair (H, W), not (3, -1)"),
    ({"channels": 4}, "channels must be 1 (grey) or 3 (colour), not 4"),
])
def test_impossible_sizes_and_channels(tmp_path, options, text):
    png(tmp_path / "1.png", pictures(1, 4, 4)[0])
    refused(tmp_path, text, ConfigError, **options)


def test_pipes_and_floats(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "PATH is in no format that tinygen reads (IDX, CIFAR-10/100 binary or Python "
            "batches, .npz, a zip or a folder of images)")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "1.tiff")
    refused(tmp_path, "PATH/1.tiff cannot be decoded as a picture (ValueError: its values are floats of "
            "unknown range); it is truncated, damaged or of another format, so replace it or take it out")


def test_random_damage_is_always_answered_with_a_sentence(tmp_path):
    """Bytes changed, cut and repeated at random: a data set or a DataError, never another exception."""
    x = pictures(3)
    np.savez(tmp_path / "npz", images=x, labels=np.arange(3))
    np.savez_compressed(tmp_path / "npz_deflated", images=x, captions=np.array(list("abc")))
    png(tmp_path / "p.png", x[0])
    Image.fromarray(x[0]).save(tmp_path / "p.tiff")
    Image.fromarray(x[0]).save(tmp_path / "p.gif")
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as z:
        for name in ("p.png", "p.tiff", "p.gif"):
            z.write(tmp_path / name, name)
    whole = {"idx": idx_bytes(x), "gz": gzip.compress(idx_bytes(x)),
             "npz": (tmp_path / "npz.npz").read_bytes(),
             "npz2": (tmp_path / "npz_deflated.npz").read_bytes(), "zip": (tmp_path / "zip").read_bytes(),
             "python2": pickle.dumps({"data": planes(x), "labels": [0, 1, 2]}, 2),
             "python4": pickle.dumps({"data": planes(x), "labels": [0, 1, 2]}, 4),
             **{name: (tmp_path / name).read_bytes() for name in ("p.png", "p.tiff", "p.gif")}}
    rng = np.random.default_rng(0)
    answers = {"loaded": 0, "refused": 0}
    for kind, content in whole.items():
        folder = tmp_path / f"damaged-{kind}"
        folder.mkdir()
        for _ in range(60):
            damaged = bytearray(content)
            near = 200 if rng.random() < 0.6 else len(damaged)       # headers matter most, at either end
            for at in rng.integers(0, near, rng.integers(1, 4)):
                damaged[at if rng.random() < 0.5 else -1 - at] = rng.integers(256)
            if rng.random() < 0.2:
                del damaged[rng.integers(len(damaged)):]
            file = written(folder, kind, bytes(damaged))
            try:
                data.load(folder if kind.startswith("p.") else file)
                answers["loaded"] += 1
            except DataError as error:
                assert str(error).startswith(str(folder))
                answers["refused"] += 1
    assert min(answers.values()) > 30
