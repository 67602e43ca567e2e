"""The bytes of NIfTI files: one file or a pair of header and voxels, plain or compressed.

What a file is follows from its bytes, not from its name: tools name gzip data `.nii` and plain data
`.nii.gz`.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel as nib

GZIP = b"\x1f\x8b"
PAIR = (".hdr", ".img")
ANALYZE = [(348).to_bytes(4, order) for order in ("little", "big")]
OTHERS = {
    (0, b"version https://git-lfs"): "a git-lfs pointer; `git lfs pull` gets the file itself",
    (0, b"/annex/objects"): "a git-annex pointer; `git annex get` gets the file itself",
    (0, GZIP): "compressed twice; gunzip it once",
    (0, b"PK\x03\x04"): "a zip archive; unzip it",
    (0, b"BZh"): "compressed by bzip2; bunzip2 it",
    (0, b"\xfd7zXZ"): "compressed by xz; unxz it",
    (0, b"\x28\xb5\x2f\xfd"): "compressed by zstd; unzstd it",
    (0, b"NRRD"): "an NRRD file; convert it with SimpleITK or Slicer",
    (0, b"<"): "a page of HTML or XML, as of a download that failed",
    (128, b"DICM"): "a DICOM file; convert the series with dcm2niix",
}
"""Place and bytes that tell what a file is that is not NIfTI."""


class Stored(NamedTuple):
    """A header as it stands, the bytes that its vox_offset counts in, and what is odd about them.

    Of a pair, the header says that it is a single file's: it is written as one.
    """

    header: nib.Nifti1Header
    offset: int
    voxels: bytes
    notes: tuple[str, ...]


def read_stored(path: Path) -> Stored:
    """Raises ValueError, or what a damaged file raises otherwise, if this is no NIfTI file.

    The header is not passed through nibabel's repairs, which turn a voxel size of 0 into 1, and its
    extensions are left out.
    """
    if not is_pair(path):
        data, notes = unpacked(path)
        header, single = _header(data)
        start = len(header.binaryblock) + 4
        offset = int(header.get_data_offset())
        if not single:
            raise ValueError("its header belongs to a pair of files; name it .hdr, beside the .img")
        if offset < start:
            raise ValueError(f"its vox_offset is {offset}, but must be {start} or more")
        return Stored(header, offset, data, notes)
    head, notes = unpacked(_partner(path, ".hdr"))
    header, single = _header(head)
    if single:
        raise ValueError("its header is that of a single file; name it .nii")
    data, more = unpacked(_partner(path, ".img"))
    offset = int(header.get_data_offset())
    header["magic"], header["vox_offset"] = header.single_magic, 0
    return Stored(header, offset, data, notes + more)


def is_pair(path: Path) -> bool:
    return _stem(path)[1] in PAIR


def same_bytes(a: Path, b: Path) -> bool:
    """Whether two files hold the same, however they are compressed; False if one is unreadable."""
    try:
        return unpacked(a)[0] == unpacked(b)[0]
    except (OSError, EOFError, zlib.error):
        return False


def unpacked(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """A file without gzip's wrapping, which may have several members, and a note on what follows.

    All is decompressed, because a reader that stops at the last voxel never sees the checksum.
    """
    data = path.read_bytes()
    if not data.startswith(GZIP):
        return data, ()
    members = []
    while data.startswith(GZIP):
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        members.append(member.decompress(data))
        if not member.eof:
            raise EOFError("its compressed data end too early")
        data = member.unused_data.lstrip(b"\0")
    notes = (f"{path.name}: {len(data)} bytes after its compressed data are left out",)
    return b"".join(members), notes if data else ()


def _header(data: bytes) -> tuple[nib.Nifti1Header, bool]:
    """The header at the start of the data, and whether it is that of a single file."""
    for cls, place in (nib.Nifti1Header, 344), (nib.Nifti2Header, 4):
        size = cls.template_dtype.itemsize
        magic = data[place : place + 4]
        for kind in (cls.single_magic, cls.pair_magic):
            if magic == kind + b"\0" and len(data) >= size:
                return cls(data[:size], check=False), kind == cls.single_magic
    for (place, start), what in OTHERS.items():
        if data[place : place + len(start)] == start:
            raise ValueError(f"it is {what}")
    if data[:4] in ANALYZE and data[344:348] == bytes(4):
        raise ValueError("it is Analyze 7.5, which does not say where left is; save it as NIfTI")
    raise ValueError(f"it holds {len(data)} bytes, which begin with {data[:8]!r}")


def _partner(path: Path, end: str) -> Path:
    """The other file of a pair; upper and lower case and compression may differ."""
    stem = _stem(path)[0]
    for other in sorted(path.parent.iterdir()):
        if _stem(other) == (stem, end):
            return other
    raise ValueError(f"there is no {stem}{end} beside it")


def _stem(path: Path) -> tuple[str, str]:
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.stem, plain.suffix.lower()
