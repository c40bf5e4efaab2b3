"""Data that are fetched before they are used, ``python -m sa.data fetch cifar10``: checked whole.

Nothing else in the project downloads anything.
"""

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

from sa.dataset import _cifar
from sa.record import telling

LARGEST = 64 << 20
"""Bytes that one file of the archive may have; CIFAR-10's have half of it."""


class Unfetched(Exception):
    """What went wrong on the way, and what to do; nothing half fetched is left in its place."""


def fetch(root: Path, url: str = _cifar.URL, md5: str = _cifar.MD5) -> Path:
    """The folder of CIFAR-10 below root: what is there if it is whole, else downloaded.

    An archive that lies in root already is taken if its md5 is right; it is removed in the end.
    """
    there = _cifar.find(root)
    if there and _sound(there):
        return there
    folder = there or root / _cifar.FOLDER
    try:
        root.mkdir(parents=True, exist_ok=True)
        _download(url, md5, root)
        _unpack(root / _cifar.ARCHIVE, folder)
        (root / _cifar.ARCHIVE).unlink()
    except OSError as error:
        raise Unfetched(
            f"{root}: {error.strerror or error}; another place: --root DIR, or SA_DATA=DIR in the "
            "environment"
        ) from error
    return folder


def _sound(folder: Path) -> bool:
    try:
        for name in _cifar.FILES:
            _cifar.read(folder / name)
    except (_cifar.Damaged, OSError):
        return False
    return True


def _download(url: str, md5: str, root: Path) -> None:
    """The archive of that md5 in root, there already or downloaded beside it and renamed."""
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    bar = _Bar()
    try:
        pooch.retrieve(
            url, f"md5:{md5}", fname=_cifar.ARCHIVE, path=root,
            downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16),
        )  # fmt: skip
    except RequestException as error:
        raise Unfetched(
            f"{url} could not be downloaded ({type(error).__name__}: {error}); repeat the command, "
            f"or put {_cifar.ARCHIVE} into {root} by other means and repeat it then"
        ) from error
    except ValueError as error:  # pooch has removed what it got
        raise Unfetched(f"what {url} sends is not what it should be: {error}") from error
    finally:
        bar.close()


def _unpack(archive: Path, folder: Path) -> None:
    """The six files of the archive, each read once, then renamed into the folder.

    Only regular files of the expected names are looked at, whatever else the archive holds.
    """
    wanted = {f"{_cifar.FOLDER}/{name}": name for name in _cifar.FILES}
    scratch = Path(tempfile.mkdtemp(dir=archive.parent, prefix=".unpacking-"))
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name)
                if name is None or not member.isreg() or member.size > LARGEST:
                    continue
                source = tar.extractfile(member)
                assert source is not None
                with source, (scratch / name).open("wb") as file:
                    shutil.copyfileobj(source, file)
        lacking = [name for name in _cifar.FILES if not (scratch / name).exists()]
        if lacking:
            raise Unfetched(f"{archive} lacks {', '.join(lacking)}; delete it and repeat")
        for name in _cifar.FILES:
            _cifar.read(scratch / name)
        folder.mkdir(exist_ok=True)
        for name in _cifar.FILES:
            os.replace(scratch / name, folder / name)
    except (tarfile.TarError, zlib.error, EOFError, _cifar.Damaged) as error:
        raise Unfetched(f"{archive} is damaged ({error}); delete it and repeat") from error
    finally:
        shutil.rmtree(scratch)


class _Bar:
    """The progress bar of a download, on stderr, with the methods that pooch calls."""

    def __init__(self) -> None:
        self._bar, self._done = telling.Bar("", stream=sys.stderr, of_bytes=True), 0

    @property
    def total(self) -> Any:
        return self._bar.total

    @total.setter
    def total(self, size: int) -> None:
        self._bar.total = size
        self._bar.update(self._done)

    def update(self, size: int) -> None:
        self._done += size
        self._bar.update(self._done)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        self._bar.close()


def main(argv: list[str] | None = None) -> int:
    """0: it is there, whole; 1: it could not be fetched."""
    telling.patient()
    parser = argparse.ArgumentParser(
        prog="python -m sa.data",
        description="Fetch data that a dataset reads from files; the others need nothing.",
    )
    parser.add_argument("command", choices=["fetch"], help="download, check and unpack")
    parser.add_argument("name", choices=["cifar10"])
    parser.add_argument(
        "--root", type=Path, default=Path(os.environ.get("SA_DATA", "data")),
        help="the folder it goes below (default: SA_DATA, or ./data)",
    )  # fmt: skip
    parser.add_argument("--url", default=_cifar.URL, help=argparse.SUPPRESS)
    parser.add_argument("--md5", default=_cifar.MD5, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    try:
        folder = fetch(given.root.expanduser(), given.url, given.md5)
    except Unfetched as error:
        print(f"sa: {error}", file=sys.stderr)
        return 1
    print(f"data: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
