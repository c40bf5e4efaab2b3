"""Fetching data from a local server leaves complete files or none."""

import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading

import pytest
from conftest import cifar, component

from sa import data
from sa.dataset import _cifar
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
    """Serve ``served.body``, or only its first ``served.cut`` bytes under its whole length."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            here = self.server
            here.hits += 1
            self.send_response(here.code)
            self.send_header("Content-Length", str(len(here.body)))
            self.end_headers()
            self.wfile.write(here.body[: here.cut])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hits, server.code, server.cut = 0, 200, None
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


def test_help_names_the_data_and_loads_nothing_heavy(tmp_path):
    words = [sys.executable, "-X", "importtime", "-m", "sa.data", "--help"]
    told = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0 and "cifar10" in told.stdout and "--md5" not in told.stdout
    loaded = {line.split("|")[-1].strip() for line in told.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "pooch", "requests", "rich", "hydra"}
