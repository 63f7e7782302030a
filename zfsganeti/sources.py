"""Where a golden image comes from: a file here or a URL; what is behind it becomes a file, checked, in one go or several.

It runs as root on what strangers serve: redirects never leave https, and no message or note holds a password.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import ftplib
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import stat
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

from zfsganeti.errors import BadInput, Busy, Full, NoSpace, Refused, Unavailable, human
from zfsganeti.files import KIB, PIECE, checksum, checksum_asked, compare, directory_of, pieces, regular, silent, told, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import Message
    from typing import Any

    from zfsganeti.files import Progress

SCHEMES = ("file", "http", "https", "ftp")
REDIRECTS = 10
NETWORK_SECONDS = 60  # without a byte


@dataclass(frozen=True)
class Fetched:
    """A source as a local file; sha256 is empty when it was one already and nobody had to read it."""

    path: str
    sha256: str
    size: int


# what a source is called


def _scheme(source: str) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", source)
    return found.group(1).lower() if found else ""


def _plain(text: str) -> str:
    """Return a text as it can be shown and recorded: what is no character, or moves a terminal's cursor, is a question mark."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _split(source: str) -> tuple[str, str]:
    """Return what is before the first URL in a text, and the rest."""
    found = re.search(r"[A-Za-z][A-Za-z0-9+.-]*://", source)
    return (source[: found.start()], source[found.start() :]) if found else (source, "")


def recorded(source: str) -> str:
    """Return what is recorded as where an image comes from: a URL as it is shown, of a file its whole path."""
    return shown(source) if _scheme(source) else shown(os.path.abspath(source))


def shown(source: str) -> str:
    """Return a source as it may be written down: in one line, without user, password, query and fragment."""
    scheme = _scheme(source)
    if not scheme:
        before, address = _split(source)  # a blank that was copied along makes a URL a path, and may not show its password
        return _plain(before) + (shown(address) if address else "")
    try:
        parts = urllib.parse.urlsplit(source)
    except ValueError:
        return f"{scheme}:..."
    if scheme not in SCHEMES or ("@" in parts.path and not parts.netloc):
        return f"{scheme}:..."  # such as user:password@host/image
    text = urllib.parse.urlunsplit((scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return "".join(filter(str.isprintable, text))  # a redirect's may hold anything


def local(source: str) -> str | None:
    """Return the path of a source that is a file here, None for one that has to be downloaded; BadInput for what is neither."""
    scheme, before = _scheme(source), _split(source)[0]
    if scheme in SCHEMES[1:]:
        return None
    if before != source and before and not any(character.isalnum() or character in "./" for character in before):
        raise BadInput(f"source {shown(source)}: has {before!r} before the URL")
    if scheme not in ("", "file"):
        raise BadInput(f"source {shown(source)}: {scheme} is none of {', '.join(SCHEMES)}; a file's path may start with ./")
    path = source
    if scheme:
        try:
            parts = urllib.parse.urlsplit(source)
        except ValueError:
            raise BadInput(f"source {shown(source)}: is no URL") from None
        if parts.netloc not in ("", "localhost"):
            raise BadInput(f"source {shown(source)}: a file: URL has no host, such as file:///srv/image.qcow2")
        path = urllib.parse.unquote(parts.path)
    if not path or "\0" in path:
        raise BadInput(f"source {path[:80]!r}: is no path")
    return path


# the network


@dataclass
class _Body:
    """What a server sends: from which byte on, how much there is in all (0: not said), what tells it from a later version."""

    read: Callable[[int], bytes]
    close: Callable[[], None]
    start: int
    total: int
    mark: str


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error, which `_http` looks at."""

    def redirect_request(self, *_answer: Any) -> None:
        return None


def _network_reason(error: BaseException) -> str:
    """Return why a server could not be reached, in words without what the URL or the server may have put into them."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "the name of its host is not known"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({cause.verify_message})"
    if isinstance(cause, TimeoutError):
        return f"no answer within {NETWORK_SECONDS} s"
    if isinstance(cause, ftplib.Error):
        return f"the server says {''.join(filter(str.isprintable, str(cause)))[:100]}"
    if isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
        return os.strerror(cause.errno).lower()
    return f"the server does not speak the protocol ({type(cause).__name__})"


NETWORK_ERRORS = (OSError, EOFError, ftplib.Error, http.client.HTTPException)


def _connect(url: str, start: int, mark: str = "") -> _Body:
    """Return what a URL leads to, from a byte on if the server can; redirects are followed, but never out of https.

    The mark is that of what there is up to that byte.
    """
    seen = url
    for _redirect in range(REDIRECTS + 1):
        try:
            found = _ftp(url, start) if _scheme(url) == "ftp" else _http(url, start, mark)
        except http.client.InvalidURL:
            raise BadInput(f"source {shown(url)}: is no URL") from None
        except NETWORK_ERRORS as error:  # one of a certificate is a ValueError too
            raise Unavailable(shown(url), _network_reason(error)) from error
        except ValueError:
            raise BadInput(f"source {shown(url)}: is no URL") from None
        if isinstance(found, _Body):
            return found
        if _scheme(found) not in SCHEMES[1:]:
            raise Refused(shown(url), f"is redirected to {shown(found)}, which is none of {', '.join(SCHEMES[1:])}")
        if _scheme(url) == "https" and _scheme(found) != "https":
            raise Refused(shown(url), f"is redirected from https to {shown(found)}, which anybody may have changed")
        url = found
    raise Refused(shown(seen), f"is redirected more than {REDIRECTS} times")


def _request(url: str, start: int, mark: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    path = urllib.parse.quote(parts.path, safe="%/:=~+!$,;'@()*[]&")
    query = urllib.parse.quote(parts.query, safe="%/:=~+!$,;'@()*[]&?")
    headers = {"Accept-Encoding": "identity", "User-Agent": "zfsganeti"}
    if at:
        headers["Authorization"] = "Basic " + base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    if start:
        headers["Range"] = f"bytes={start}-"
        if etag := re.match(r'"[^"]*"', mark):
            headers["If-Range"] = etag.group()  # of anything else the server sends all at once, and need not be asked again
    return urllib.request.Request(urllib.parse.urlunsplit((parts.scheme, host, path or "/", query, "")), headers=headers)  # noqa: S310


def _http(url: str, start: int, mark: str = "") -> _Body | str:
    """Return what a server sends, or where it says that it is."""
    try:
        opener = urllib.request.build_opener(_NoRedirects)
        answer = opener.open(_request(url, start, mark), timeout=NETWORK_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (301, 302, 303, 307, 308) and error.headers.get("Location"):
                return _moved(url, error.headers["Location"])
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _http(url, 0)
        said = f"the server says {error.code} {http.client.responses.get(error.code, '')}".rstrip()
        raise Unavailable(shown(url), said) from None
    headers: Message = answer.headers
    begin, total = 0, _number(headers.get("Content-Length"))
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        begins = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", headers.get("Content-Range", ""))
        begin, total = (int(begins.group(1)), int(begins.group(2))) if begins else (-1, 0)
    return _Body(answer.read, answer.close, begin, total, _mark(headers))


def _mark(headers: Message) -> str:
    """Return what tells these bytes from others, '' when nothing does: a weak ETag says that other bytes may mean the same."""
    if headers.get("ETag", "").startswith("W/"):
        return ""
    return " ".join(headers[name] for name in ("ETag", "Last-Modified") if headers.get(name))


def _moved(url: str, location: str) -> str:
    """Return a redirect's address; user and password go along to the same server only."""
    new = urllib.parse.urljoin(url, location)
    old_parts, parts = urllib.parse.urlsplit(url), urllib.parse.urlsplit(new)
    user, at, host = old_parts.netloc.rpartition("@")
    if at and (parts.scheme, parts.netloc) == (old_parts.scheme, host):
        return urllib.parse.urlunsplit(parts._replace(netloc=f"{user}@{host}"))
    return new


def _number(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,18}", text) else 0


def _ftp(url: str, start: int) -> _Body:
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path[1:])
    server = ftplib.FTP(timeout=NETWORK_SECONDS)  # noqa: S321 (that is what the URL asks for)
    try:
        server.connect(parts.hostname or "", parts.port or ftplib.FTP_PORT)
        server.login(urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or ""))
        server.voidcmd("TYPE I")
        total, mark = 0, ""
        with contextlib.suppress(ftplib.error_perm):
            total = server.size(path) or 0
            mark = server.sendcmd(f"MDTM {path}")
        try:
            data, _size = server.ntransfercmd(f"RETR {path}", rest=start or None)
        except ftplib.error_perm:
            if not start:
                raise
            start = 0
            data, _size = server.ntransfercmd(f"RETR {path}")
    except BaseException:
        server.close()
        raise

    def read(count: int) -> bytes:
        received = data.recv(count)
        if not received:
            data.close()
            server.voidresp()  # it says whether that was all
        return received

    def close() -> None:
        data.close()
        server.close()

    return _Body(read, close, start, total, mark)


# downloads


class _Part:
    """A download under way: PATH.part, and beside it PATH.json with what its server said; nobody else writes it."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.whole, self.notes = f"{path}.part", path, f"{path}.json"
        self._source = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()  # it may hold a password
        self._take_whole()
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
        except BaseException:
            os.close(self.descriptor)
            raise
        self.total, self.mark = self._noted()

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            raise Refused(self.path, "is not a regular file")
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = os.stat(self.path, follow_symlinks=False)
        except (BlockingIOError, FileNotFoundError):
            raise Busy(self.path, "is being downloaded by another process") from None
        if not os.path.samestat(os.fstat(self.descriptor), there):
            raise Busy(self.path, "is being downloaded by another process")

    def _take_whole(self) -> None:
        """A download that was whole, and that nobody has come to use, is a part again."""
        total, _mark = self._noted()
        with contextlib.suppress(FileNotFoundError):
            if total and not os.path.lexists(self.path) and os.stat(self.whole, follow_symlinks=False).st_size == total:
                os.rename(self.whole, self.path)

    def _noted(self) -> tuple[int, str]:
        """Return (bytes in all, mark) of what the part is the beginning of; without a mark it cannot be gone on with."""
        try:
            with open(self.notes, "rb") as file:
                notes = json.loads(file.read(64 * KIB))
            known = notes["source"] == self._source
            return (int(notes["total"]), str(notes["mark"])) if known else (0, "")
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ""

    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def resumable(self) -> int:
        """Return from which byte on to ask: always for one at least, for a part may be whole."""
        return min(self.size(), self.total - 1) if self.mark and self.total else 0

    def digest_if(self, asked: str, progress: Progress) -> str:
        """Return the checksum asked for when the part is whole and has it, so that no server need be asked; '' otherwise."""
        if not asked or not self.total or self.size() != self.total:
            return ""
        found = checksum(self.descriptor, progress)
        return found if found == asked else ""

    def begins(self, body: _Body) -> bool:
        """Tell whether the part is the beginning of what the server has now."""
        return bool(self.mark) and (body.mark, body.total, body.start) == (self.mark, self.total, self.resumable())

    def restart(self, body: _Body) -> None:
        os.ftruncate(self.descriptor, 0)
        self._note(body.total, body.mark)

    def _note(self, total: int, mark: str) -> None:
        self.total, self.mark = total, mark
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.notes)  # whatever it is, it is not written through
        with open(os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
            json.dump({"source": self._source, "total": total, "mark": mark}, file)

    def finish(self) -> None:
        """The download has its name; the notes stay, so that who is stopped before it was used need not get it again."""
        os.fsync(self.descriptor)
        if not self.total:
            self._note(self.size(), self.mark)
        os.replace(self.path, self.whole)

    def remove(self) -> None:
        self._forget(self.path, self.notes)

    def close(self) -> None:
        os.close(self.descriptor)

    def _forget(self, *paths: str) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def fetch(source: str, path: str, *, sha256: str = "", progress: Progress = silent) -> Fetched:
    """The bytes of a source are in the file that is returned: `path` for a download, the file itself for one that is here.

    A download that was cut goes on where it ended when the server still has the same; so does one that was whole and not used
    up. The caller removes PATH.json with PATH. A file that is here is read only when
    a checksum is asked for; to_raw takes it too, and then reads once for all.
    """
    asked, here, name = checksum_asked(sha256), local(source), shown(source)
    if here is not None:
        with told(name, directory_of(here)), regular(here, name) as descriptor:
            found = checksum(descriptor, progress) if asked else ""
            compare(name, asked, found)
            return Fetched(here, found, os.fstat(descriptor).st_size)
    with told(name, directory_of(path)):
        part = _Part(path, source)
        try:
            found = part.digest_if(asked, progress) or _download(part, source, progress)
            compare(name, asked, found)
            size = part.size()
            part.finish()
            return Fetched(path, found, size)
        except BaseException as error:
            # a full disk can be helped, another content cannot
            wrong = isinstance(error, Refused) and not isinstance(error, NoSpace | Full) and not isinstance(error.__cause__, OSError)
            if wrong or not part.resumable():
                part.remove()
            raise
        finally:
            part.close()


def _download(part: _Part, source: str, progress: Progress) -> str:
    """The part is whole; return its sha256."""
    body = _connect(source, part.resumable(), part.mark)
    try:
        if body.start and not part.begins(body):
            body.close()
            body = _connect(source, 0)
        if body.start:
            os.ftruncate(part.descriptor, body.start)
        else:
            part.restart(body)
        digest = hashlib.sha256()
        for _piece in pieces(part.descriptor, "verify", progress, digest):
            pass
        _receive(part, body, shown(source), progress, digest)
        return digest.hexdigest()
    finally:
        body.close()


def _receive(part: _Part, body: _Body, name: str, progress: Progress, digest: Any) -> None:
    done, cut = body.start, ""
    while not cut:
        try:
            piece = body.read(PIECE)
        except NETWORK_ERRORS as error:
            cut = f" ({_network_reason(error)})"
            break
        if not piece:
            break
        write(part.descriptor, piece, done)
        digest.update(piece)
        done += len(piece)
        progress("download", done, body.total)
    if cut or (body.total and done != body.total):
        way_out = "run it again to go on" if part.resumable() else "run it again"
        raise Unavailable(name, f"ended after {human(done)} of {human(body.total) if body.total else '?'}{cut}", way_out)
    if not done:
        raise Refused(name, "is empty")
