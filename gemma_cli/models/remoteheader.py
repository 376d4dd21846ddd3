"""The header of a GGUF file that is still on the Hub: its first megabytes, by range requests."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gemma_cli.errors import DownloadError, ModelFileError
from gemma_cli.models.gguf import Header, read_header
from gemma_cli.models.hub import open_content
from gemma_cli.models.layout import check_layout
from gemma_cli.models.listing import RemoteFile
from gemma_cli.models.patience import TransientError

# A Gemma's header is 6 to 20 MB, most of it the vocabulary.
_FIRST, _MOST = 8 << 20, 128 << 20


def remote_header(remote: RemoteFile) -> Header:
    """Read a remote file's header, of a split set its first part's.

    DownloadError if the Hub does not answer, ModelFileError if it is no GGUF file.
    """
    with tempfile.TemporaryDirectory(prefix="gemma-header-") as folder:
        path = Path(folder) / Path(remote.file).name
        wanted = min(_FIRST, remote.size)
        while True:
            _fetch(remote, path, wanted)
            try:
                check_layout(path)
                break
            except ModelFileError:  # not all of the header yet, or damaged
                if wanted >= min(_MOST, remote.size) or not _is_gguf(path):
                    break
            wanted = min(wanted * 2, remote.size)
        with path.open("r+b") as file:
            file.truncate(remote.size)  # sparse: the tensors' data is not needed
        try:
            return read_header(path)
        except ModelFileError as error:  # the copy is gone when this is read
            message = error.message.replace(str(path), f"{remote.repo}/{remote.file}")
            raise ModelFileError(message, error.hint) from error


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _fetch(remote: RemoteFile, path: Path, length: int) -> None:
    """Lengthen the file at path to `length` bytes of the remote one."""
    have = path.stat().st_size if path.exists() else 0
    try:
        with open_content(remote, have, length) as (start, blocks), path.open("ab") as file:
            skip = have - start  # a server without ranges begins at 0
            for block in blocks:
                piece = block[max(skip, 0) :] if skip > 0 else block
                skip -= len(block)
                file.write(piece[: length - file.tell()])
                if file.tell() >= length:
                    break
    except TransientError as error:
        raise DownloadError(
            f"the header of {remote.repo}/{remote.file} could not be read: {error}",
            "try again, or download it: gemma pull",
        ) from error
    if path.stat().st_size < length:
        raise DownloadError(
            f"the header of {remote.repo}/{remote.file} came only in part",
            "try again, or download it: gemma pull",
        )
