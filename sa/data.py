"""Data that are fetched before they are used, ``python -m sa.data fetch NAME``: checked whole.

NAME is cifar10, fashion_mnist, torchvision:CLASS or huggingface:OWNER/NAME. Nothing else in the
project downloads data.
"""

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sa.dataset import _cifar, _fashion_mnist, _idx
from sa.record import files, telling

LARGEST = 64 << 20
"""The largest size, in bytes, of a file in the archive; CIFAR-10's files have half of it."""


class Unfetched(Exception):
    """Raised if the data could not be fetched; the message says why, and what to do.

    Incomplete files are never left where a run would read them.
    """


def fetch(root: Path, url: str = _cifar.URL, md5: str = _cifar.MD5) -> Path:
    """Return the folder of CIFAR-10 in ``root``; download it if it is missing or damaged.

    An archive that is in ``root`` already is used if its md5 is right. It is removed at the end.

    Args:
        root: the folder for the data; it is made if it does not exist.
        url: where to download the archive from.
        md5: md5 of the archive.

    Raises:
        Unfetched: the data could not be fetched.

    """
    found = _cifar.find(root)
    if found and _is_valid(found):
        return found
    folder = found or root / _cifar.FOLDER
    try:
        root.mkdir(parents=True, exist_ok=True)
        _download(url, root / _cifar.ARCHIVE, root, md5)
        _unpack(root / _cifar.ARCHIVE, folder)
        (root / _cifar.ARCHIVE).unlink()
    except OSError as error:
        raise _unwritable(root, error) from error
    return folder


def _is_valid(folder: Path) -> bool:
    """Return True if all files of CIFAR-10 in the folder can be read."""
    try:
        for name in _cifar.FILES:
            _cifar.read(folder / name)
    except (_cifar.Damaged, OSError):
        return False
    return True


def fetch_fashion_mnist(root: Path, urls: Sequence[str] = _fashion_mnist.URLS) -> Path:
    """Return the folder of Fashion-MNIST; download the files that are missing or damaged.

    Nothing is downloaded if a run with ``dataset.root=ROOT`` finds all files.

    Args:
        root: the folder for the data; it is made if it does not exist.
        urls: folders on servers that have the files as .gz; the next one is tried if one fails.

    Raises:
        Unfetched: the data could not be fetched.

    """
    found = _fashion_mnist.find(root)
    if found and all(map(_is_fashion_mnist, found, _fashion_mnist.FILES)):
        return found[0].parent
    folder = root / _fashion_mnist.FOLDER
    if found and found[0].parent == root:  # a run looks there first
        folder = root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
            for name in _fashion_mnist.FILES:
                old = _idx.find([folder], [name])
                if old and _is_fashion_mnist(old[0], name):
                    continue
                new = _fashion_mnist_file(urls, name, Path(scratch), folder)
                if old:
                    old[0].unlink()
                os.replace(new, folder / new.name)
    except OSError as error:
        raise _unwritable(root, error) from error
    return folder


def _is_fashion_mnist(file: Path, name: str) -> bool:
    """Return True if a file has the published content of the file of this name."""
    try:
        _fashion_mnist.read_file(file, name)
    except (_idx.Damaged, OSError):
        return False
    return True


def _fashion_mnist_file(urls: Sequence[str], name: str, scratch: Path, into: Path) -> Path:
    """Return a file in ``scratch``, from the first server that sends the right one."""
    file, why = scratch / f"{name}.gz", ""
    for url in urls:
        try:
            _download(f"{url}/{file.name}", file, into)
            _fashion_mnist.read_file(file, name)
            return file
        except Unfetched as error:
            why = str(error)
        except _idx.Damaged as error:
            file.unlink()
            sent = str(error).removeprefix(str(file)).strip()
            why = f"{url}/{file.name} sends another file: it {sent}; repeat the command"
    raise Unfetched(why)


def _unwritable(root: Path, error: OSError) -> Unfetched:
    """Return the error for a folder that cannot be written to."""
    return Unfetched(
        f"{root}: {error.strerror or error}; choose another folder: --root DIR, or SA_DATA=DIR in "
        "the environment"
    )


def _download(url: str, file: Path, into: Path, md5: str | None = None) -> None:
    """Download a file, unless it is there with the right md5.

    Args:
        url: where to download it from.
        file: where to save it.
        into: the folder that a user would put it into.
        md5: its md5; None accepts any content.

    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    bar = _Bar()
    try:
        pooch.retrieve(
            url, md5 and f"md5:{md5}", fname=file.name, path=file.parent,
            downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16),
        )  # fmt: skip
    except RequestException as error:
        raise Unfetched(
            f"{url} could not be downloaded ({type(error).__name__}: {error}); repeat the command, "
            f"or download {file.name} in another way, put it into {into}, and repeat"
        ) from error
    except ValueError as error:  # a wrong md5; pooch has removed the file
        raise Unfetched(
            f"the file that {url} sends is not the expected archive: {error}; repeat the command"
        ) from error
    finally:
        bar.close()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the six files of the archive, check them, and move them into the folder.

    Other files in the archive, links included, are ignored.
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
            raise Unfetched(
                f"{archive} lacks {', '.join(lacking)}; delete it and repeat the command"
            )
        for name in _cifar.FILES:
            _cifar.read(scratch / name)
        folder.mkdir(exist_ok=True)
        for name in _cifar.FILES:
            os.replace(scratch / name, folder / name)
    except (tarfile.TarError, zlib.error, EOFError, _cifar.Damaged) as error:
        raise Unfetched(
            f"{archive} is damaged ({error}); delete it and repeat the command"
        ) from error
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


def from_library(
    library: str,
    name: str,
    root: Path,
    size: int | None = None,
    inputs: str | None = None,
    targets: str | None = None,
) -> Path:
    """Return the file of a dataset of a library: the one that is there, if whole, else a new one.

    Args:
        library: ``torchvision`` or ``huggingface``.
        name: of the dataset in the library.
        root: the folder it goes below.
        size: height and width to resize every image to; None expects images of one size.
        inputs: of the hub, the column of the inputs; None for the only column of images.
        targets: of the hub, the column of the targets; None for the only column of classes.

    Raises:
        Unfetched: the library is not installed, or its data cannot be used.

    """
    import numpy as np

    from sa.dataset import _fetched, _libraries
    from sa.types import BadData

    try:
        file = _fetched.place(library, name, root)
        if _whole(file):
            return file
        file.parent.mkdir(parents=True, exist_ok=True)
        if library == "torchvision":
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=".fetching-") as scratch:
                arrays = _libraries.torchvision(name, Path(scratch), size)
        else:
            arrays = _libraries.huggingface(name, inputs, targets, size)

        def write(path: Path) -> None:
            with path.open("wb") as opened:
                np.savez_compressed(opened, allow_pickle=False, **arrays)

        files.write_atomic(file, write)
    except (_libraries.Unusable, BadData) as error:
        raise Unfetched(str(error)) from error
    except OSError as error:
        raise _unwritable(root, error) from error
    return file


def _whole(file: Path) -> bool:
    """Return whether a file is there and its checksums are right."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False


def _use(library: str, name: str, root: Path) -> str:
    """Return what to type to use fetched data, with the hash of their content."""
    from sa.dataset import _fetched
    from sa.dataset.huggingface import HuggingFace
    from sa.dataset.torchvision import Torchvision
    from sa.types import BadData

    kind = Torchvision if library == "torchvision" else HuggingFace
    try:
        splits = _fetched.splits(_fetched.place(library, name, root))
        train = "train" if "train" in splits else splits[0]
        test = "test" if "test" in splits else None
        sha = kind(name=name, root=str(root), train=train, test=test).digest()
    except BadData as error:
        raise Unfetched(str(error)) from error
    words = [f"dataset={library}", f"dataset.name={name}"]
    words += [] if train == "train" else [f"dataset.train={train}"]
    words += [] if test else ["dataset.test=null"]
    return f"splits: {', '.join(splits)}; to use them: {' '.join(words)} (sha {sha})"


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0 if the data are there and complete, 1 if they are not."""
    telling.patient()
    parser = argparse.ArgumentParser(
        prog="python -m sa.data",
        description="Fetch the files of a dataset. Datasets that are not listed need no files.",
    )
    parser.add_argument("command", choices=["fetch"], help="download, check and unpack")
    parser.add_argument(
        "name", type=_name,
        help="cifar10, fashion_mnist, torchvision:CLASS such as torchvision:CIFAR100, or "
        "huggingface:OWNER/NAME[:CONFIG]; the last two need pip install 'sa-lab[torchvision]' or "
        "'sa-lab[huggingface]'",
    )  # fmt: skip
    parser.add_argument("--size", type=int, help="resize every image of a library to SIZE x SIZE")
    parser.add_argument("--inputs", help="huggingface: the column of the inputs")
    parser.add_argument("--targets", help="huggingface: the column of the targets")
    parser.add_argument(
        "--root", type=Path, default=Path(os.environ.get("SA_DATA", "data")),
        help="the folder to save the data in (default: $SA_DATA, or ./data)",
    )  # fmt: skip
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--md5", default=_cifar.MD5, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    root = given.root.expanduser()
    library, _, name = given.name.partition(":")
    try:
        if library == "cifar10":
            print(f"data: {fetch(root, given.url or _cifar.URL, given.md5)}")
        elif library == "fashion_mnist":
            urls = [given.url] if given.url else _fashion_mnist.URLS
            print(f"data: {fetch_fashion_mnist(root, urls)}")
        else:
            file = from_library(library, name, root, given.size, given.inputs, given.targets)
            print(f"data: {file}")
            print(_use(library, name, root))
    except Unfetched as error:
        print(f"sa: {error}", file=sys.stderr)
        return 1
    return 0


def _name(given: str) -> str:
    """Return the name of data to fetch; ArgumentTypeError for one that is none."""
    library, _, name = given.partition(":")
    if given in ("cifar10", "fashion_mnist") or (
        library in ("torchvision", "huggingface") and name
    ):
        return given
    raise argparse.ArgumentTypeError(
        f"{given}: expected cifar10, fashion_mnist, torchvision:CLASS or huggingface:OWNER/NAME"
    )


if __name__ == "__main__":
    sys.exit(main())
