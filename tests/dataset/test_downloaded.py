"""Real downloads by torchvision and by the hub's library, from a server on this machine."""

import gzip
import hashlib
import importlib
import json
import os
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sa import data
from sa.dataset.huggingface import HuggingFace
from sa.dataset.torchvision import Torchvision

ROOT = Path(__file__).parents[2]
COMMIT = "1" * 40
NOWHERE = "http://127.0.0.1:9"

pytestmark = pytest.mark.filterwarnings(  # urllib and the server leave a socket of a failed request
    "ignore:unclosed <socket:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def library(name):
    """Return a library; skip the test if it is not installed, or was built for another torch."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported here: {error}")


@pytest.fixture
def served(monkeypatch):
    """Serve a mapping path -> bytes over HTTP; return it, and the address."""
    found: dict[str, bytes] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            body = found.get(self.path.partition("?")[0])
            self.send_response(404 if body is None else 200)
            if body is None:
                missing = "EntryNotFound" if "/resolve/" in self.path else "RepoNotFound"
                self.send_header("X-Error-Code", missing)
            body = body or b""
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, *words):
            if os.environ.get("SHOW"):
                print(self.command, self.path, file=sys.stderr)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield found, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def pixels(rows, seed):
    return np.random.default_rng(seed).integers(0, 256, (rows, 6, 6), dtype=np.uint8)


@pytest.fixture
def mnist(monkeypatch, tmp_path, served):
    """Serve a MNIST of 6 x 6 pixels; return the class of torchvision that downloads it."""
    datasets = library("torchvision.datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SA_DATA", raising=False)
    found, address = served
    resources = []
    for part, rows, seed in (("train", 30, 0), ("t10k", 12, 1)):
        labels = np.arange(rows, dtype=np.uint8) % 3
        for kind, number, array in (
            ("images-idx3", 2051, pixels(rows, seed)), ("labels-idx1", 2049, labels)
        ):  # fmt: skip
            head = struct.pack(f">{1 + array.ndim}i", number, *array.shape)
            body = gzip.compress(head + array.tobytes())
            name = f"{part}-{kind}-ubyte.gz"
            found[f"/{name}"] = body
            resources.append((name, hashlib.md5(body).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return datasets.MNIST


def test_torchvision_downloads_a_dataset_that_a_run_can_read(mnist, capsys):
    assert data.main(["fetch", "torchvision:MNIST"]) == 0
    assert "dataset=torchvision dataset.name=MNIST" in capsys.readouterr().out
    assert Torchvision(name="MNIST").shape == (1, 6, 6)
    with np.load("data/torchvision/MNIST.npz") as raw:
        assert np.array_equal(raw["train_inputs"][:, 0], pixels(30, 0))
        assert np.array_equal(raw["test_inputs"][:, 0], pixels(12, 1))
        assert raw["test_targets"].tolist() == [i % 3 for i in range(12)]


@pytest.mark.parametrize("broken", ["no server", "a file is missing", "a file is damaged"])
def test_a_download_of_torchvision_that_fails_says_why_and_leaves_no_file(
    mnist, served, capsys, monkeypatch, broken
):
    if broken == "no server":
        monkeypatch.setattr(mnist, "mirrors", [f"{NOWHERE}/"])
    elif broken == "a file is missing":
        del served[0]["/t10k-images-idx3-ubyte.gz"]
    else:
        served[0]["/t10k-images-idx3-ubyte.gz"] += b"?"
    assert data.main(["fetch", "torchvision:MNIST"]) == 1
    err = capsys.readouterr().err
    assert "torchvision:MNIST could not be fetched (RuntimeError: " in err
    why = {"no server": "Connection refused", "a file is missing": "HTTP Error 404",
           "a file is damaged": "corrupted"}[broken]  # fmt: skip
    assert why in err and "dataset=digits" in err and "Traceback" not in err
    assert not [p for p in Path(".").rglob("*") if p.is_file()]


def fetch(address, tmp_path):
    """Fetch lab/tiny from a hub in a process of its own: its library reads the address once."""
    env = os.environ | {
        "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    words = [sys.executable, "-m", "sa.data", "fetch", "huggingface:lab/tiny", "--root", "data"]
    return subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=110)


def test_the_library_of_the_hub_downloads_a_dataset_that_a_run_can_read(served, tmp_path):
    datasets = library("datasets")
    found, address = served
    columns = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    files = {}
    from PIL import Image

    for split, rows, seed in (("train", 30, 0), ("test", 12, 1)):
        images = [Image.fromarray(x) for x in pixels(rows, seed)]
        made = datasets.Dataset.from_dict(
            {"image": images, "label": [i % 3 for i in range(rows)]}, features=columns
        )
        made.to_parquet(tmp_path / "rows.parquet")
        files[f"data/{split}-00000-of-00001.parquet"] = (tmp_path / "rows.parquet").read_bytes()
    about = {
        "id": "lab/tiny", "sha": COMMIT, "private": False, "gated": False, "tags": [],
        "siblings": [{"rfilename": name} for name in files], "downloads": 0, "likes": 0,
    }  # fmt: skip
    tree = [
        {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
        for name, body in files.items()
    ]
    api = "/api/datasets/lab/tiny"
    for path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
        found[path] = json.dumps(about).encode()
    for revision in ("main", COMMIT):
        found[f"{api}/paths-info/{revision}"] = json.dumps(tree).encode()
        found[f"{api}/tree/{revision}/data"] = json.dumps(tree).encode()
        top = [{"type": "directory", "path": "data", "size": 0, "oid": COMMIT}]
        found[f"{api}/tree/{revision}"] = json.dumps(top).encode()
        for name, body in files.items():
            found[f"/datasets/lab/tiny/resolve/{revision}/{name}"] = body
    done = fetch(address, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dataset=huggingface dataset.name=lab/tiny" in done.stdout
    root = str(tmp_path / "data")
    assert HuggingFace(name="lab/tiny", root=root, test="test").shape == (1, 6, 6)
    with np.load(tmp_path / "data/huggingface/lab--tiny.npz") as raw:
        assert np.array_equal(raw["train_inputs"][:, 0], pixels(30, 0))
        assert np.array_equal(raw["test_inputs"][:, 0], pixels(12, 1))
        assert raw["test_targets"].tolist() == [i % 3 for i in range(12)]


@pytest.mark.parametrize("there", [True, False])
def test_a_hub_that_does_not_answer_or_lacks_the_dataset_is_named_at_once(there, served, tmp_path):
    library("datasets")
    done = fetch(served[1] if there else NOWHERE, tmp_path)
    assert done.returncode == 1 and "huggingface:lab/tiny could not be fetched (" in done.stderr
    assert "404" in done.stderr if there else "refused" in done.stderr
    assert "Retrying" not in done.stderr and "dataset=digits" in done.stderr
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
