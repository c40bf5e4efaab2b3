"""The files of CIFAR-10's Python version (Krizhevsky 2009): finds them and reads them.

The files are pickles. They are read by an unpickler that makes nothing but arrays of numbers.
"""

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FOLDER = "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
FILES = (*TRAIN, TEST)
ARCHIVE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
MD5 = "c58f30108f718f92721af3b95e74349a"
PIXELS = 3 * 32 * 32


class Damaged(ValueError):
    """Raised for a file that exists and is not a valid batch of CIFAR-10."""


def find(root: str | Path) -> Path | None:
    """Return the folder with all six files, in ``root`` or ``root`` itself; None if neither is."""
    return next((f for f in _places(root) if all((f / x).is_file() for x in FILES)), None)


def missing(root: str | Path) -> str:
    """Return the error message for missing files, which says how to get them."""
    tried = ", ".join(str(f.absolute()) for f in _places(root))
    return (
        f"CIFAR-10 is not on this machine (tried: {tried})\n"
        f"expected the files {', '.join(TRAIN)} and {TEST}\n"
        "to get them, type: python -m sa.data fetch cifar10 (if they are in another folder: "
        "dataset.root=DIR, or SA_DATA=DIR in the environment)\n"
        f"source: {URL}, md5 {MD5}\n"
        "use dataset=digits to run offline; size=full of a study also takes images=fashion_mnist"
    )


def read(path: Path) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Return images (n, 3072) uint8, channels first, and labels (n,) int64; raise Damaged."""
    import numpy as np

    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
        named = {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
        images, labels = named["data"], np.asarray(named["labels"])
        if images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
            raise ValueError(f"its images are {images.dtype} of shape {images.shape}")
        if labels.dtype.kind != "i" or labels.shape != images.shape[:1]:
            raise ValueError(f"it has {len(images)} images, and labels of shape {labels.shape}")
        if not (len(labels) and 0 <= labels.min() and labels.max() <= 9):
            raise ValueError("it has labels that are not from 0 to 9")
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise Damaged(
            f"{path} is damaged, or is not a file of CIFAR-10 ({type(error).__name__}: {error}); "
            "to download it again, type: python -m sa.data fetch cifar10"
        ) from error
    return images, labels.astype(np.int64)


def _places(root: str | Path) -> list[Path]:
    """Return the folders in which the files may be."""
    root = Path(root).expanduser()
    return [root / FOLDER, root]


class _Unpickler(pickle.Unpickler):
    """An unpickler that makes dicts, lists, texts, numbers and arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        known = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy._core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": _latin1,
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}, which is not allowed")
        return known[f"{module}.{name}"]


def _latin1(text: str, _: str) -> bytes:
    """Return the bytes that Python 3 saved as text for Python 2."""
    return text.encode("latin1")
