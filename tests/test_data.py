"""Fetching data from a local server leaves complete files or none."""

import gzip
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading

import pytest
from conftest import cifar, component, fashion

from sa import data
from sa.dataset import _cifar, _fashion_mnist
from sa.params import stream


def archive(folder, *extra, without=()):
    """Return a tar.gz of the folder and of further members (name, bytes or TarInfo)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            if path.name not in without:
                tar.add(path, f"{folder.name}/{path.name}")
        for name, content in extra:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, str(content)
                tar.addfile(info)
    return made.getvalue()


@pytest.fixture
def served():
    """Serve ``served.body``, or only its first ``served.cut`` bytes under its whole length.

    ``served.files`` are served under their names.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            here = self.server
            here.hits += 1
            body = here.files.get(self.path.rpartition("/")[2], here.body)
            self.send_response(here.code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: here.cut])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hits, server.code, server.cut, server.body, server.files = 0, 200, None, b"", {}
    server.url = f"http://127.0.0.1:{server.server_address[1]}/cifar-10-python.tar.gz"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(tmp_path):
    return cifar(tmp_path / "source", rows=4)


@pytest.fixture
def got(tmp_path, served, capsys, monkeypatch):
    """Return a function that fetches into an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def typed(md5=None):
        md5 = md5 or hashlib.md5(served.body).hexdigest()
        words = ["fetch", "cifar10", "--root", str(tmp_path / "data")]
        code = data.main([*words, "--url", served.url, "--md5", md5])
        return code, *capsys.readouterr()

    return typed


def left(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


WHOLE = sorted(f"cifar-10-batches-py/{n}" for n in _cifar.FILES)


def test_fetched_files_equal_those_on_the_server_and_load_as_a_dataset(
    tmp_path, served, source, got
):
    served.body = archive(source, ("cifar-10-batches-py/readme.html", b"hello"))
    code, out, err = got()
    root = tmp_path / "data"
    assert code == 0, err
    assert out == f"data: {root / 'cifar-10-batches-py'}\n" and left(root) == WHOLE
    for name in _cifar.FILES:
        assert (root / source.name / name).read_bytes() == (source / name).read_bytes()
    assert component("dataset", "cifar10", root=str(root), n=20).load(stream(0)).test.rows == 4
    assert got()[0] == 0 and served.hits == 1  # nothing is fetched twice


def test_an_archive_with_a_wrong_md5_leaves_no_file(tmp_path, served, source, got):
    served.body = archive(source)
    code, _, err = got(md5="0" * 32)
    assert code == 1 and "0" * 32 in err and hashlib.md5(served.body).hexdigest() in err
    assert left(tmp_path / "data") == []


def test_a_download_cut_short_leaves_no_file_and_can_be_repeated(tmp_path, served, source, got):
    served.body = archive(source)
    served.cut = 5000
    code, _, err = got()
    assert code == 1 and "repeat the command" in err and "Traceback" not in err
    assert left(tmp_path / "data") == []
    served.cut = None
    assert got()[0] == 0 and left(tmp_path / "data") == WHOLE


def test_an_incomplete_archive_on_disk_is_fetched_again_and_a_complete_one_is_used(
    tmp_path, served, source, got
):
    served.body = archive(source)
    (tmp_path / "data").mkdir()
    kept = tmp_path / "data" / "cifar-10-python.tar.gz"
    kept.write_bytes(served.body[:5000])
    assert got()[0] == 0 and served.hits == 1 and left(tmp_path / "data") == WHOLE
    (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").unlink()
    kept.write_bytes(served.body)
    assert got()[0] == 0 and served.hits == 1 and left(tmp_path / "data") == WHOLE


def test_a_damaged_file_is_repaired(tmp_path, served, source, got):
    served.body = archive(source)
    got()
    path = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    assert got()[0] == 0 and served.hits == 2 and path.read_bytes() == whole


def test_archive_members_with_a_path_outside_the_folder_are_not_unpacked(
    tmp_path, served, source, got
):
    served.body = archive(
        source,
        ("../evil", b"x"), ("/tmp/sa-evil", b"x"), ("cifar-10-batches-py/../../evil", b"x"),
        ("cifar-10-batches-py/extra", b"x"),
    )  # fmt: skip
    assert got()[0] == 0 and left(tmp_path / "data") == WHOLE
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["absent", "link", "large"])
def test_an_archive_that_lacks_a_file_is_refused(tmp_path, served, source, got, kind, monkeypatch):
    extra = []
    if kind == "link":
        extra = [("cifar-10-batches-py/test_batch", source / "data_batch_1")]
    if kind == "large":
        monkeypatch.setattr(data, "LARGEST", 1 << 16)
        extra = [("cifar-10-batches-py/test_batch", bytes(1 << 17))]
    served.body = archive(source, *extra, without=["test_batch"])
    code, _, err = got()
    assert code == 1 and "lacks test_batch" in err
    assert not (tmp_path / "data" / "cifar-10-batches-py").exists()


def test_an_archive_with_other_content_is_refused(tmp_path, served, source, got):
    (source / "test_batch").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for body in (archive(source), b"no archive"):
        served.body = body
        code, _, err = got()
        assert code == 1 and "is damaged" in err and "Traceback" not in err
        assert not (tmp_path / "data" / "cifar-10-batches-py").exists()
        (tmp_path / "data" / "cifar-10-python.tar.gz").unlink()


def test_a_missing_server_and_an_unwritable_folder_are_reported(tmp_path, served, source, got):
    served.body, served.code = b"", 404
    code, _, err = got()
    assert code == 1 and "404" in err and served.url in err
    (tmp_path / "data").rmdir()
    (tmp_path / "data").write_text("")
    code, _, err = got()
    assert code == 1 and "--root DIR" in err


@pytest.fixture
def clothes(tmp_path, served, capsys, monkeypatch):
    """Serve Fashion-MNIST of a few images; return a function that fetches it as ``got`` does."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SA_DATA", raising=False)
    monkeypatch.setattr(_fashion_mnist, "DEBIAN", tmp_path / "debian")
    for file in sorted(fashion(tmp_path / "upstream", monkeypatch).iterdir()):
        served.files[file.name] = file.read_bytes()
        content = hashlib.md5(gzip.decompress(file.read_bytes())).hexdigest()
        monkeypatch.setitem(_fashion_mnist.FILES, file.stem, content)

    def typed():
        url = served.url.rpartition("/")[0]
        code = data.main(["fetch", "fashion_mnist", "--root", str(tmp_path / "data"), "--url", url])
        return code, *capsys.readouterr()

    return typed


CLOTHES = sorted(f"fashion-mnist/{n}.gz" for n in _fashion_mnist.FILES)


def test_fashion_mnist_is_fetched_once_and_loads_as_a_dataset(tmp_path, served, clothes):
    code, out, err = clothes()
    root = tmp_path / "data"
    assert code == 0, err
    assert out == f"data: {root / 'fashion-mnist'}\n" and left(root) == CLOTHES
    assert component("dataset", "fashion_mnist", root=str(root)).load(stream(0)).test.rows == 40
    assert clothes()[0] == 0 and served.hits == 4


def test_only_missing_and_damaged_files_of_fashion_mnist_are_fetched_again(
    tmp_path, served, clothes
):
    clothes()
    first, second, *_ = (tmp_path / "data" / name for name in CLOTHES)
    first.unlink()
    second.with_suffix("").write_bytes(b"damaged, and found before the compressed file")
    code, _, err = clothes()
    assert code == 0 and served.hits == 6, err
    assert left(tmp_path / "data") == CLOTHES
    for file in (first, second):
        assert file.read_bytes() == served.files[file.name]


def test_files_of_fashion_mnist_that_a_run_finds_elsewhere_are_not_fetched(
    tmp_path, served, clothes, monkeypatch
):
    monkeypatch.setattr(_fashion_mnist, "DEBIAN", tmp_path / "upstream")
    assert clothes()[:2] == (0, f"data: {tmp_path / 'upstream'}\n") and not served.hits


@pytest.mark.parametrize("body", [b"<html>moved</html>", gzip.compress(b"\0\0\x08\1\0\0\0\0")])
def test_another_file_of_fashion_mnist_is_refused_and_leaves_no_file(
    tmp_path, served, clothes, body
):
    served.files["t10k-images-idx3-ubyte.gz"] = body
    code, _, err = clothes()
    assert code == 1 and "t10k-images-idx3-ubyte.gz sends another file" in err
    assert not {x for x in left(tmp_path / "data") if "t10k-images" in x or "fetching" in x}


def test_the_second_server_is_asked_for_what_the_first_does_not_have(tmp_path, served, clothes):
    port = served.server_address[1]
    urls = ["http://127.0.0.1:1/none", f"http://127.0.0.1:{port}"]
    folder = data.fetch_fashion_mnist(tmp_path / "data", urls)
    assert folder == tmp_path / "data" / "fashion-mnist" and left(tmp_path / "data") == CLOTHES
    served.code = 404
    with pytest.raises(data.Unfetched, match=r"404.*put it into .*fashion-mnist, and repeat"):
        data.fetch_fashion_mnist(tmp_path / "other", urls[1:])


def test_help_names_the_data_and_loads_nothing_heavy(tmp_path):
    words = [sys.executable, "-X", "importtime", "-m", "sa.data", "--help"]
    told = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0 and "cifar10" in told.stdout and "--md5" not in told.stdout
    loaded = {line.split("|")[-1].strip() for line in told.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "pooch", "requests", "rich", "hydra"}
