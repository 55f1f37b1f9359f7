"""What a server of http answers, and what is told of it."""

import socket
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.slide.cache import version_of
from wsi_pipeline.slide.cohort import find_slides
from wsi_pipeline.slide.urls import is_absent

pytest.importorskip("aiohttp")
TOLD = {403: "access refused", 404: "no such file; check the URL", 410: "no such file", 500: "cannot be reached"}


class Answers(BaseHTTPRequestHandler):
    """Answers with the number that a path begins with."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as answering:
        Thread(target=answering.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{answering.server_port}"
        answering.shutdown()


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("code", TOLD)
def test_what_a_server_answers_is_told(server: str, code: int) -> None:
    with pytest.raises(SlideError, match=TOLD[code]) as caught:
        version_of(f"{server}/{code}/a.svs")
    assert is_absent(caught.value.__cause__) == (code in (404, 410))


def test_a_server_that_is_not_reached_has_not_said_that_a_slide_is_gone(nobody: str) -> None:
    with pytest.raises(SlideError, match=r"a\.svs: cannot be reached .*check the URL, network") as caught:
        version_of(f"{nobody}/a.svs")
    assert not is_absent(caught.value.__cause__)


@pytest.mark.parametrize("name", ["a.svs", "slides", "m.csv"])
def test_a_cohort_is_not_empty_where_its_server_is_not_reached(server: str, nobody: str, name: str) -> None:
    with pytest.raises((ConfigError, SlideError), match="cannot be reached"):
        find_slides(f"{nobody}/{name}")
    with pytest.raises((ConfigError, SlideError), match="access refused"):
        find_slides(f"{server}/403/{name}")
    with pytest.raises((ConfigError, SlideError), match=r"no slides found|no such file"):
        find_slides(f"{server}/404/{name}")


def test_a_folder_of_a_server_that_lists_it_is_searched(tmp_path: Path) -> None:
    (tmp_path / "st").mkdir()
    for name in ("a.svs", "b.tif", "notes.txt"):
        (tmp_path / "st" / name).write_bytes(b"x")
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as listing:
        Thread(target=listing.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listing.server_port}/st/"
        assert [(entry.slide_id, entry.path) for entry in find_slides(url)] == [
            ("a", f"{url}a.svs"),
            ("b", f"{url}b.tif"),
        ]
        listing.shutdown()


def test_the_page_of_a_folder_is_no_slide(server: str) -> None:
    with pytest.raises(SlideError, match="slides: a folder, not a slide file; take it out"):
        version_of(f"{server}/200/slides/")
