"""Sources: real servers on this machine that do what servers do, from going on with a download to cutting it and lying."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from zfsganeti import sources
from zfsganeti.errors import BadInput, Busy, Missing, Refused, Unavailable
from zfsganeti.sources import Fetched, fetch, local, recorded, shown

CONTENT = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(20_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Site(http.server.ThreadingHTTPServer):
    """What the server has, and how it behaves; `asked` holds (path, Range, Authorization) of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.ranges, self.cut, self.length = True, 0, 0
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.conditions: list[str | None] = []  # If-Range of every request

    def url(self, path: str = "/image", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_port}{path}"

    def ranges_asked(self) -> list[str | None]:
        return [asked for _path, asked, _user in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *_said: object) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802
        path, site = urlsplit(self.path).path, self.server
        site.asked.append((self.path, self.headers["Range"], self.headers["Authorization"]))
        site.conditions.append(self.headers["If-Range"])
        if path.startswith("/to/"):
            self.redirect(path.removeprefix("/to/").replace("~", "/"))
        elif path == "/loop":
            self.redirect("/loop")
        elif path != "/image":
            self.send_error(404)
        else:
            self.image(site)

    def redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def image(self, site: Site) -> None:
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and site.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        if site.etag:
            self.send_header("ETag", site.etag)
        self.send_header("Content-Length", str(site.length or len(site.content) - start))
        self.end_headers()
        self.wfile.write(site.content[start : site.cut or None])
        site.cut = 0
        self.close_connection = True


@contextmanager
def serving() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ftp_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sources, "NETWORK_SECONDS", 5)


def left(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def cut(site: Site, target: Path, at: int = HALF) -> str:
    """A download ended in the middle; return what was said."""
    site.cut = at
    with pytest.raises(Unavailable) as caught:
        fetch(site.url(), str(target))
    return str(caught.value)


# names


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/srv/a b.img", "/srv/a b.img"),
        ("https://me:secret@host:8443/a/b.qcow2?token=secret#secret", "https://host:8443/a/b.qcow2"),
        ("HTTP://host/x", "http://host/x"),
        ("ftp://secret@host/x", "ftp://host/x"),
        ("me:secret@host/x", "me:..."),
        ("http:me:secret@host/x", "http:..."),
        ("http://[secret/x", "http:..."),
        ("http://host/\x1b[31mred", "http://host/[31mred"),
        (" https://me:secret@host/x?token=secret", " https://host/x"),
        ("\ufeff'\thttps://me:secret@host/x", "?'?https://host/x"),
        ("/srv/a\tb\n\udcff.raw", "/srv/a?b??.raw"),
    ],
)
def test_no_secret_is_shown(source: str, said: str) -> None:
    assert shown(source) == said


def test_files_and_urls_are_told_apart() -> None:
    assert local("/srv/image") == "/srv/image"
    assert local("./a:b") == "./a:b"
    assert local("file:///srv/a%20b%3A") == "/srv/a b:"
    assert local("FILE://localhost/srv/x") == "/srv/x"
    assert local("https://host/x") is None
    with pytest.raises(BadInput, match="source s3:...: s3 is none of file, http, https, ftp"):
        local("s3://bucket/x")
    for bad in ("", "file:", "file://other/x", "file:///a%00b", "/a\0b"):
        with pytest.raises(BadInput):
            local(bad)
    with pytest.raises(BadInput) as caught:
        local(" https://me:secret@host/x")
    assert str(caught.value) == "source  https://host/x: has ' ' before the URL"
    assert local("./mirror/https://x") == "./mirror/https://x"


def test_where_a_file_is_is_recorded_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert recorded("a\tb.raw") == f"{tmp_path}/a?b.raw"
    assert recorded("https://me@host/x?y") == "https://host/x"
    assert recorded("file:///srv/x") == "file:///srv/x"


# files


def test_a_file_is_not_copied_and_read_only_to_be_checked(tmp_path: Path) -> None:
    image = tmp_path / "an image"
    image.write_bytes(CONTENT)
    nowhere = str(tmp_path / "copy")
    assert fetch(str(image), nowhere) == Fetched(str(image), "", len(CONTENT))
    assert fetch(f"file://{tmp_path}/an%20image", nowhere, sha256=SHA256.upper()) == Fetched(str(image), SHA256, len(CONTENT))
    with pytest.raises(Refused, match=f"has sha256 {SHA256}, not 0"):
        fetch(str(image), nowhere, sha256="0" * 64)
    with pytest.raises(BadInput, match="'abc': is not 64 hexadecimal digits"):
        fetch(str(image), nowhere, sha256="abc")
    assert left(tmp_path) == ["an image"]


def test_only_files_are_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/hostname")
    for source, why in ((tmp_path / "fifo", "not a regular file"), (tmp_path, "not a regular file"), (tmp_path / "link", "symbolic link")):
        with pytest.raises(Refused, match=why):
            fetch(str(source), str(tmp_path / "copy"))
    with pytest.raises(Refused, match="/dev/null: is not a regular file"):
        fetch("/dev/null", str(tmp_path / "copy"))
    with pytest.raises(Missing, match="/nowhere/x does not exist"):
        fetch("/nowhere/x", str(tmp_path / "copy"))


# http


def test_a_download_is_whole_and_checked(site: Site, tmp_path: Path) -> None:
    target, told = tmp_path / "image", []
    found = fetch(site.url(), str(target), sha256=SHA256, progress=lambda *step: told.append(step))
    assert found == Fetched(str(target), SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert left(tmp_path) == ["image", "image.json"]
    assert told[-1] == ("download", len(CONTENT), len(CONTENT))


def test_what_was_cut_goes_on(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "image"
    assert cut(site, target) == f"{site.url()}: ended after 312K of 625K: run it again to go on"
    assert left(tmp_path) == ["image.json", "image.part"]
    assert fetch(site.url(), str(target), sha256=SHA256).sha256 == SHA256
    assert site.ranges_asked() == [None, f"bytes={HALF}-"]
    assert left(tmp_path) == ["image", "image.json"]


def test_a_weak_etag_is_no_reason_to_go_on(site: Site, tmp_path: Path) -> None:
    """Of bytes that mean the same the first half and the second half make nothing that means anything."""
    target = tmp_path / "image"
    site.etag = 'W/"one"'
    assert cut(site, target).endswith(": run it again")
    site.content = CONTENT[::-1]
    assert Path(fetch(site.url(), str(target)).path).read_bytes() == CONTENT[::-1]
    assert site.ranges_asked() == [None, None]


def test_a_server_is_told_of_what_the_rest_is_wanted(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "image"
    cut(site, target)
    fetch(site.url(), str(target))
    assert site.conditions == [None, '"one"']


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One that nobody but this test has signed, with its key in the same file."""
    made = tmp_path / "certificate"
    key, names = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes", "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(
        ["openssl", *f"req -x509 -days 2 {key} {names}".split(), "-keyout", made, "-out", f"{made}.pem"], check=True, capture_output=True
    )
    with made.open("ab") as file:
        file.write(Path(f"{made}.pem").read_bytes())
    return made


def test_https_is_for_who_trusts_the_certificate(site: Site, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    url, target = f"https://localhost:{site.server_port}/image", tmp_path / "image"
    with pytest.raises(Unavailable, match=f"^{url}: its certificate is not valid .self-signed certificate.$"):
        fetch(url, str(target))
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.pem")
    with pytest.raises(Unavailable, match="its certificate is not valid .*127.0.0.1"):
        fetch(url.replace("localhost", "127.0.0.1"), str(target))
    site.cut = HALF
    with pytest.raises(Unavailable, match=f"^{url}: ended after 312K of 625K"):
        fetch(url, str(target))
    assert fetch(url, str(target), sha256=SHA256) == Fetched(str(target), SHA256, len(CONTENT))
    assert site.ranges_asked() == [None, f"bytes={HALF}-"]
    with pytest.raises(Refused, match=f"is redirected from https to http://localhost:{site.server_port}/image, which anybody may have"):
        fetch(f"https://localhost:{site.server_port}/to/http:~~localhost:{site.server_port}~image", str(target))


def test_a_part_that_is_whole_is_not_downloaded_again(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "image"
    cut(site, target)
    (tmp_path / "image.part").write_bytes(CONTENT)  # killed before it got its name
    assert fetch(site.url(), str(target)).sha256 == SHA256
    assert site.ranges_asked()[-1] == f"bytes={len(CONTENT) - 1}-"


@pytest.mark.parametrize("change", ["etag", "ranges", "length", "source", "notes"])
def test_what_may_be_another_is_downloaded_afresh(site: Site, tmp_path: Path, change: str) -> None:
    target = tmp_path / "image"
    cut(site, target)
    (tmp_path / "image.part").write_bytes(b"?" * HALF)  # so that going on would be seen
    if change == "etag":
        site.etag = '"two"'
    elif change == "ranges":
        site.ranges = False
    elif change == "length":
        site.content += b"more"
    elif change == "notes":
        (tmp_path / "image.json").write_text('{"total": []')
    fetch(site.url("/image?v=2" if change == "source" else "/image"), str(target))
    assert target.read_bytes() == site.content
    assert left(tmp_path) == ["image", "image.json"]


def test_without_a_mark_nothing_is_kept(site: Site, tmp_path: Path) -> None:
    site.etag = ""
    assert cut(site, tmp_path / "image").endswith(": run it again")
    assert left(tmp_path) == []


def test_another_checksum_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"has sha256 {SHA256}, not 1"):
        fetch(site.url(), str(tmp_path / "image"), sha256="1" * 64)
    assert left(tmp_path) == []


def test_a_length_that_is_not_reached_is_said(site: Site, tmp_path: Path) -> None:
    site.length = 2 * len(CONTENT)
    with pytest.raises(Unavailable, match="ended after 625K of 1.22M"):
        fetch(site.url(), str(tmp_path / "image"))
    site.length, site.content, site.etag = 0, b"", '"three"'
    with pytest.raises(Refused, match="is empty"):
        fetch(site.url(), str(tmp_path / "image"))
    assert left(tmp_path) == []


def test_redirects_are_followed_but_not_for_ever(site: Site, tmp_path: Path) -> None:
    target = str(tmp_path / "image")
    assert fetch(site.url("/to/~image"), target).sha256 == SHA256
    with pytest.raises(Refused, match=r"/loop: is redirected more than 10 times"):
        fetch(site.url("/loop"), target)
    assert len([path for path, _range, _user in site.asked if path == "/loop"]) == 11
    with pytest.raises(Refused, match=r"is redirected to file:///etc/passwd, which is none of http, https, ftp"):
        fetch(site.url("/to/file:~~~etc~passwd"), target)


def test_a_redirect_never_leaves_https(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "_http", lambda _url, _start, _mark: "http://elsewhere/x?secret")
    with pytest.raises(Refused) as caught:
        fetch("https://me:secret@host/x", str(tmp_path / "image"))
    assert str(caught.value) == "https://host/x: is redirected from https to http://elsewhere/x, which anybody may have changed"


def test_passwords_go_to_their_own_server_only(site: Site, tmp_path: Path) -> None:
    fetch(site.url("/to/~image", "me:se%2Fcret@"), str(tmp_path / "image"))
    assert [user for _path, _range, user in site.asked] == ["Basic bWU6c2UvY3JldA=="] * 2
    fetch(site.url(f"/to/http:~~localhost:{site.server_port}~image", "me:secret@"), str(tmp_path / "image"))
    assert site.asked[-1] == ("/image", None, None)
    with pytest.raises(Unavailable) as caught:
        fetch(site.url("/none?key=secret", "me:secret@"), str(tmp_path / "other"))
    assert str(caught.value) == f"{site.url('/none')}: the server says 404 Not Found"
    assert left(tmp_path) == ["image", "image.json"]


def test_servers_that_are_not_there_are_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for scheme in ("http", "ftp"):
            url = f"{scheme}://127.0.0.1:{taken.getsockname()[1]}/x"
            with pytest.raises(Unavailable, match=f"{url}: connection refused"):
                fetch(url, str(tmp_path / "image"))
        taken.listen()
        monkeypatch.setattr(sources, "NETWORK_SECONDS", 0.1)
        with pytest.raises(Unavailable, match="no answer within"):
            fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/x", str(tmp_path / "image"))
    with pytest.raises(Unavailable, match="http://host.invalid/x: the name of its host is not known"):
        fetch("http://host.invalid/x", str(tmp_path / "image"))
    for bad in ("http://host:port/x", "http://[::1/x", "http://", "ftp://host/a%0d%0aDELE%20b"):
        with pytest.raises((BadInput, Unavailable)):
            fetch(bad, str(tmp_path / "image"))
    assert left(tmp_path) == []


def test_two_do_not_download_the_same(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "image"
    cut(site, target)
    with closing(sources._Part(str(target), site.url())), pytest.raises(Busy, match="is being downloaded by another process"):
        fetch(site.url(), str(target))
    (tmp_path / "image.part").unlink()
    (tmp_path / "image.part").symlink_to(tmp_path / "victim")
    with pytest.raises(Unavailable, match="symbolic links"):
        fetch(site.url(), str(target))
    assert not (tmp_path / "victim").exists()


def test_a_whole_download_that_was_not_used_is_not_downloaded_again(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "image"
    fetch(site.url(), str(target))
    assert fetch(site.url(), str(target)) == Fetched(str(target), SHA256, len(CONTENT))
    assert site.ranges_asked() == [None, f"bytes={len(CONTENT) - 1}-"], "the server is asked whether it has the same still"
    with pytest.raises(Refused, match="has sha256"):
        fetch(site.url(), str(target), sha256="1" * 64)
    assert left(tmp_path) == []


def test_a_whole_download_of_the_checksum_asked_for_needs_no_server(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "image"
    site.etag = ""
    fetch(site.url(), str(target))
    assert fetch(site.url(), str(target), sha256=SHA256).size == len(CONTENT)
    assert len(site.asked) == 1
    fetch(site.url(), str(target))
    assert len(site.asked) == 2, "what cannot be told from a later version is downloaded again"
    site.content, site.etag = CONTENT[::-1], '"two"'
    fetch(site.url("/image?v=2"), str(target))
    assert target.read_bytes() == CONTENT[::-1], "another source"


# ftp


class Ftp(socketserver.StreamRequestHandler):
    """As much of a server as one file needs; `cut` ends the first transfer there."""

    cut = 0
    rests: list[int] = []
    resumes = True

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def handle(self) -> None:
        self.say("220 here")
        rest = 0
        for raw in self.rfile:
            verb, _space, argument = raw.decode().strip().partition(" ")
            if verb in ("USER", "PASS", "TYPE"):
                self.say("230 yes")
            elif verb in ("SIZE", "MDTM", "RETR") and argument != "pub/image":
                self.say("550 no such file")
            elif verb == "SIZE":
                self.say(f"213 {len(CONTENT)}")
            elif verb == "MDTM":
                self.say("213 20240101000000")
            elif verb == "PASV":
                self.data = socket.create_server(("127.0.0.1", 0))
                port = self.data.getsockname()[1]
                self.say(f"227 (127,0,0,1,{port >> 8},{port & 255})")
            elif verb == "REST" and self.resumes:
                rest = int(argument)
                self.rests.append(rest)
                self.say("350 go on")
            elif verb == "RETR":
                self.send(rest)
            else:
                self.say("502 what?")

    def send(self, rest: int) -> None:
        self.say("150 here it comes")
        with self.data, self.data.accept()[0] as connection:
            connection.sendall(CONTENT[rest : self.cut or None])
        self.say("426 cut" if self.cut else "226 all")
        type(self).cut = 0


@pytest.fixture
def ftp() -> Iterator[str]:
    Ftp.cut, Ftp.resumes = 0, True
    Ftp.rests.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Ftp) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"ftp://127.0.0.1:{server.server_address[1]}/pub"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("resumes", [True, False])
def test_ftp_goes_on_where_it_was_cut(ftp: str, tmp_path: Path, resumes: bool) -> None:
    Ftp.cut, Ftp.resumes = HALF, resumes
    with pytest.raises(Unavailable, match="ended after 312K of 625K .the server says 426 cut.: run it again to go on"):
        fetch(f"{ftp}/image", str(tmp_path / "image"))
    assert fetch(f"{ftp}/image", str(tmp_path / "image")) == Fetched(str(tmp_path / "image"), SHA256, len(CONTENT))
    assert Ftp.rests == ([HALF] if resumes else [])
    assert left(tmp_path) == ["image", "image.json"]


def test_ftp_says_what_it_has_not(ftp: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the server says 550 no such file"):
        fetch(f"{ftp}/other", str(tmp_path / "image"))
    assert left(tmp_path) == []
