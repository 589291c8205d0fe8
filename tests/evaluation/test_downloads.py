"""Official files: fetched once, only with the right bytes, from the first address that has them, and told with the way out."""

import hashlib
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from daybreak.evaluation.downloads import OFFICIAL, Official, fetch
from daybreak.evaluation.protocols import PROTOCOLS
from daybreak.files import FileProblem

TEXT = b'{"text": "the sun rises"}\n'


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tasks"


class Quiet(SimpleHTTPRequestHandler):
    asked = None

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A server of a folder on this machine: (folder, address, what it was asked for)."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()
    handler = type("Handler", (Quiet,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server, empty_cache):
    folder, address, asked = server
    (folder / "task.jsonl").write_bytes(TEXT)
    table = {"task": Official("task.jsonl", (f"{address}/task.jsonl",), digest(TEXT))}
    assert fetch("task", table) == empty_cache / "task.jsonl"
    assert fetch("task", table).read_bytes() == TEXT
    assert asked == ["/task.jsonl"]


def test_a_damaged_file_in_the_cache_is_fetched_again(server, empty_cache):
    folder, address, asked = server
    (folder / "task.jsonl").write_bytes(TEXT)
    table = {"task": Official("task.jsonl", (f"{address}/task.jsonl",), digest(TEXT))}
    fetch("task", table).write_bytes(TEXT[:-1])
    assert fetch("task", table).read_bytes() == TEXT
    assert len(asked) == 2


def test_other_bytes_are_not_kept(server, empty_cache):
    folder, address, _ = server
    (folder / "task.jsonl").write_bytes(b"tampered")
    with pytest.raises(FileProblem) as caught:
        fetch("task", {"task": Official("task.jsonl", (f"{address}/task.jsonl",), digest(TEXT))})
    assert f"wanted sha256 {digest(TEXT)}, came {digest(b'tampered')}; nothing was kept" in str(caught.value)
    assert str(caught.value).endswith("; or put task.jsonl into a folder and name it with --task-files DIR")
    assert "\n" not in str(caught.value)
    assert not list(empty_cache.iterdir())


def test_the_next_address_is_tried(server, empty_cache):
    folder, address, asked = server
    (folder / "mirror.jsonl").write_bytes(TEXT)
    (folder / "tampered.jsonl").write_bytes(b"tampered")
    urls = tuple(f"{address}/{name}.jsonl" for name in ("gone", "tampered", "mirror"))
    assert fetch("task", {"task": Official("task.jsonl", urls, digest(TEXT))}).read_bytes() == TEXT
    assert asked == ["/gone.jsonl", "/tampered.jsonl", "/mirror.jsonl"]
    with pytest.raises(FileProblem, match=r"gone\.jsonl: could not be downloaded \(.*404.*\); or put other\.jsonl into a folder"):
        fetch("other", {"other": Official("other.jsonl", urls[:1], digest(TEXT))})


@pytest.fixture
def archive(server):
    """An archive with the wanted text, another, and one that would climb out of its folder."""
    folder, address, _ = server
    with zipfile.ZipFile(folder / "texts.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("texts/test.raw", TEXT)
        made.writestr("texts/train.raw", TEXT * 100)
        made.writestr("../../climbed.raw", TEXT)
    content = (folder / "texts.zip").read_bytes()
    return partial(Official, "test.raw", (f"{address}/texts.zip",), member="texts/test.raw", archive_sha256=digest(content))


def test_only_the_wanted_member_of_an_archive_is_unpacked_and_the_archive_goes(archive, empty_cache, tmp_path):
    assert fetch("task", {"task": archive(sha256=digest(TEXT))}).read_bytes() == TEXT
    assert [path.name for path in empty_cache.iterdir()] == ["test.raw"]
    assert not list(tmp_path.rglob("climbed.raw"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sha256": "0" * 64}, "texts/test.raw: wanted sha256 000"),
        ({"sha256": digest(TEXT), "member": "texts/none.raw"}, "texts/none.raw: is not in the archive"),
        ({"sha256": digest(TEXT), "archive_sha256": "0" * 64}, "texts.zip: wanted sha256 000"),
    ],
)
def test_an_archive_of_other_content_leaves_nothing(archive, empty_cache, changed, told):
    with pytest.raises(FileProblem) as caught:
        fetch("task", {"task": archive(**changed)})
    assert told in str(caught.value)
    assert not list(empty_cache.iterdir())


def test_what_is_no_archive_leaves_nothing(server, empty_cache):
    folder, address, _ = server
    (folder / "texts.zip").write_bytes(TEXT)
    row = Official("test.raw", (f"{address}/texts.zip",), digest(TEXT), "texts/test.raw", archive_sha256=digest(TEXT))
    with pytest.raises(FileProblem, match=r"texts/test\.raw: is not in the archive \(File is not a zip file\)"):
        fetch("task", {"task": row})
    assert not list(empty_cache.iterdir())


def test_a_task_without_an_official_file_is_told_with_the_way_out():
    with pytest.raises(FileProblem, match=r"^helaswag: no official file is known here; did you mean hellaswag\? There are hellaswag, .*"):
        fetch("helaswag")
    with pytest.raises(FileProblem, match=r"^qqq: no official file is known here; there are .*; or name your own with --task-files DIR$"):
        fetch("qqq")


def test_the_table_is_whole():
    for row in OFFICIAL.values():
        assert row.urls
        assert all(url.startswith("https://") for url in row.urls)
        for pinned in [row.sha256, *([row.archive_sha256] if row.member else [])]:
            assert len(pinned) == 64
            assert set(pinned) <= set("0123456789abcdef")
        assert "/" not in row.file
    assert len({row.file for row in OFFICIAL.values()}) == len(OFFICIAL)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_named_task_has_an_official_file_under_the_name_that_it_looks_for(name):
    assert OFFICIAL[PROTOCOLS[name].published].file in PROTOCOLS[name].file_names
