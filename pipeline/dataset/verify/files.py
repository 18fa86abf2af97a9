"""Arrays and artifacts: what lies there against what the rows say. 49 bytes of memory a file."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.dataset.output import Output
from pipeline.dataset.storage import one_line
from pipeline.dataset.verify.ids import Columns, Lookup, digests

_ASSET = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})")
TEMPORARY = re.compile(r"\.[A-Za-z0-9_][A-Za-z0-9_.-]*\.[0-9a-f]{8}\.tmp")
_HEAD_BYTES = 4096


def below(output: Output, folder: str) -> Iterator[tuple[str, int]]:
    """Files with their sizes in bytes, below ``folder`` of the root, one subfolder at a time in memory."""
    root = output.path(folder)
    if not output.fs.exists(root):
        return
    for entry in output.fs.ls(root, detail=True):
        found: dict[str, Any] = (
            output.fs.find(entry["name"], detail=True)
            if entry["type"] == "directory"
            else {entry["name"]: entry}
        )
        for path, info in found.items():
            relative = folder + str(path)[str(path).index(root) + len(root) :]
            yield relative, int(info["size"] or 0)


def is_ours(relative: str, folders: Mapping[str, str]) -> bool:
    """Whether a file has the name of one of our arrays or artifacts: nothing else is ever removed.

    Args:
        folders: see `Output.folders`.
    """
    kind, _, rest = relative.partition("/")
    folder, _, name = rest.rpartition("/")
    return kind in folders and bool(_ASSET.fullmatch(folder)) and name.endswith(folders[kind])


def is_temporary(relative: str, folders: Mapping[str, str]) -> bool:
    """Whether a file is what an interrupted write of ours leaves."""
    folder, _, name = relative.rpartition("/")
    if not TEMPORARY.fullmatch(name):
        return False
    kind, _, rest = folder.partition("/")
    if kind in folders:
        return bool(_ASSET.fullmatch(rest))
    return kind == "runs" or name.startswith((".part-", ".contents.json."))


class Files:
    """The arrays and artifacts that are there, and which of them a row refers to.

    Args:
        output: where they lie.
        deep: their content is read, not only their heads.
    """

    def __init__(self, output: Output, deep: bool = False) -> None:
        self.output, self.deep = output, deep
        self.folders, self.artifacts = output.folders(), output.contents.artifacts
        columns = Columns(name="S16", size="i8", seen="?")
        self.temporary: list[str] = []
        for folder in self.folders:
            for chunk in _chunks(below(output, folder), 4096):
                self.temporary += [name for name, _ in chunk if is_temporary(name, self.folders)]
                ours = [(name, size) for name, size in chunk if is_ours(name, self.folders)]
                columns.append(
                    len(ours), name=digests(n for n, _ in ours), size=[s for _, s in ours], seen=False
                )
        self._rows = columns.table()
        self._find = Lookup(self._rows["name"])
        self.nbytes = self._rows.nbytes + self._find.nbytes

    def noun(self, relative: str) -> str:
        """What the file is called: ``blob``, or as its artifact is declared."""
        artifact = self.artifacts.get(relative.partition("/")[0])
        return "blob" if artifact is None else artifact.noun

    def size(self, relative: str) -> int | None:
        """Size of a file in bytes, which from now on is referred to; None where it is not there."""
        [name] = digests([relative])
        rows = self._find.rows(name)
        if not rows.size:
            return None
        self._rows["seen"][rows] = True
        return int(self._rows["size"][rows[0]])

    def unseen(self) -> Iterator[str]:
        """Names of the files that no row referred to."""
        if self._rows["seen"].all():
            return
        for folder in self.folders:
            for relative, _ in below(self.output, folder):
                if is_ours(relative, self.folders) and not self._is_seen(relative):
                    yield relative

    def _is_seen(self, relative: str) -> bool:
        [name] = digests([relative])
        rows = self._find.rows(name)
        return bool(self._rows["seen"][rows].all())  # none: it appeared after the listing, so leave it

    def wrong(
        self,
        relative: str,
        shape: Sequence[int] | None = None,
        written: tuple[int | None, str | None] | None = None,
    ) -> str | None:
        """What is wrong with a file that a row refers to; None where nothing is.

        Of ``.npy`` files the header is read, of artifacts the mark at their start, and all of both where `deep`.

        Args:
            written: size and sha256 that the row has of it; None of rows that older versions wrote.
        """
        size = self.size(relative) if is_ours(relative, self.folders) else None
        if size is None:
            return "is not there"
        if written is not None and written[0] not in (None, size):
            return f"has {size} bytes, and had {written[0]} when it was written"
        if relative.endswith(".npy"):
            found = _wrong_npy(self._head(relative, size), size, shape)
        else:
            artifact = self.artifacts[relative.partition("/")[0]]
            begins = self._head(relative, size).startswith(artifact.magic)
            found = None if begins else f"is not a {artifact.suffix.lstrip('.').upper()} file"
        return self._wrong_content(relative, written) if found is None and self.deep else found

    def _wrong_content(self, relative: str, written: tuple[int | None, str | None] | None) -> str | None:
        data = self.output.read(relative)
        if written is not None and written[1] is not None:
            same = hashlib.sha256(data).hexdigest() == written[1]
            return None if same else "holds other bytes than were written"
        if relative.endswith(".npy"):
            values = np.load(io.BytesIO(data), allow_pickle=False)
            finite = values.dtype.kind not in "fc" or bool(np.isfinite(values).all())
            return None if finite else "holds NaN or infinity"
        if not self.artifacts[relative.partition("/")[0]].audio:
            return None
        # Here: a verify that reads no sound needs no decoder.
        from pipeline.audio.stream import open_bytes
        from pipeline.audio.validate import DecodeError

        try:
            with open_bytes(data, relative) as stream:
                for _ in stream:
                    pass
        except DecodeError as error:
            return f"cannot be decoded ({one_line(error, 80)})"
        return None

    def _head(self, relative: str, size: int) -> bytes:
        if size == 0:
            return b""
        return self.output.fs.cat_file(self.output.path(relative), start=0, end=min(size, _HEAD_BYTES))


def _wrong_npy(head: bytes, size: int, shape: Sequence[int] | None) -> str | None:
    source = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(source)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        found, fortran, dtype = read[version](source)
    except (ValueError, KeyError) as error:
        return f"is not a readable .npy file ({' '.join(str(error).split())[:80]})"
    if dtype.hasobject or fortran:
        return "holds Python objects" if dtype.hasobject else "is not in C order"
    if shape is not None and list(found) != list(shape):
        return f"has shape {list(found)}, its row says {list(shape)}"
    expected = source.tell() + math.prod(found) * dtype.itemsize
    return None if size == expected else f"has {size} bytes of {expected}"


def _chunks(items: Iterator[tuple[str, int]], size: int) -> Iterator[list[tuple[str, int]]]:
    chunk: list[tuple[str, int]] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
