"""The optional patch of Ganeti's own backend on this node: whether it is in, putting it in, taking it out.

The patch files are applied by `patched()` below, not by patch(1), which takes the nearest of several places that fit where we refuse,
and would be one more package on every node for what is thirty lines here; the tests compare the two on Ganeti's real files.
"""

from __future__ import annotations

import fcntl
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from glob import glob
from typing import NamedTuple

from zfsganeti.errors import BadInput, CommandFailed, Missing, Refused, Unavailable, ZfsGanetiError

Run = Callable[..., object]
_Plan = tuple["Backend", str, str]  # what to change, its text before and after
PATCHED = "patched"
UNPATCHED = "unpatched"
UNFIT = "does not apply"
NO_PATCH = "no patch for this series"
RESTARTED = "the node daemon was restarted"
RESTART_NEEDED = "the node daemon still has the old code: restart it, or do this again with --restart"
AS_IT_WAS = "the node daemon needs no restart"
_DAEMON_UTIL = "/usr/lib/ganeti/daemon-util"
_NODED = "ganeti-noded"
_PIDFILE = "run/ganeti/ganeti-noded.pid"
_OLD_CODE = "run/zfsganeti/noded-has-old-code"
_STOPPED = "stopped"
_GANETI = "usr/share/ganeti"
_PATCHES = "usr/share/zfsganeti/patches"
_ORIGINAL = ".zfsganeti-orig"
_CODEC = ("utf-8", "surrogateescape")  # any byte comes back as it was
_SERIES = re.compile(r"\d+\.\d+")
_HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*\n", re.MULTILINE)


class Hunk(NamedTuple):
    """One place of a unified diff: the lines that must stand there, and the lines that shall."""

    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class Backend:
    """One installed Ganeti series: its backend.py, our patch file ("" if there is none), whether it is in, whether the node runs it."""

    series: str
    path: str
    patch: str
    state: str
    running: bool


@dataclass(frozen=True)
class Outcome:
    """What apply() or revert() did: series changed, series that needed nothing, why others were left alone, and what noded has."""

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    skipped: tuple[str, ...]
    noded: str
    failed: bool = False  # the files are as they were asked for, but noded could not be restarted

    def __str__(self) -> str:
        lines = [f"Ganeti {series}: changed" for series in self.changed] + [f"Ganeti {series}: nothing to do" for series in self.unchanged]
        return "\n".join([*lines, *self.skipped, self.noded])


def parse(diff: str, name: str) -> tuple[Hunk, ...]:
    """Return the hunks of a unified diff of one file; BadInput carries the diff's name when it is damaged."""
    _, *parts = _HUNK.split(diff)
    return tuple(
        _hunk(body.removesuffix("\n").split("\n"), [int(old or 1), int(new or 1)], name)
        for old, new, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    )


def _hunk(lines: list[str], wanted: list[int], name: str) -> Hunk:
    old, new = list[str](), list[str]()
    for line in lines:
        # editors and mailers strip the blank off an empty context line
        kind = line[:1] or " "
        if [len(old), len(new)] == wanted or kind not in " -+":
            break
        if kind in " -":
            old.append(line[1:])
        if kind in " +":
            new.append(line[1:])
    if [len(old), len(new)] != wanted:
        raise BadInput(f"{name}: a hunk is not as long as it says: install zfsganeti again")
    return Hunk(tuple(old), tuple(new))


def reverse(hunks: Sequence[Hunk]) -> tuple[Hunk, ...]:
    """Return the hunks that undo these."""
    return tuple(Hunk(hunk.new, hunk.old) for hunk in hunks)


def patched(text: str, hunks: Sequence[Hunk]) -> str | None:
    """Return the text with every hunk in its one exact place, or None where that, or the way back from it, is not unique."""
    result = _substituted(text, hunks)
    return result if result is not None and _substituted(result, reverse(hunks)) == text else None


def _substituted(text: str, hunks: Sequence[Hunk]) -> str | None:
    lines = text.split("\n")
    result, end = list[str](), 0
    for hunk in hunks:
        size = len(hunk.old)
        # line numbers are not looked at: they shift with every point release
        places = [at for at in range(len(lines) - size + 1) if tuple(lines[at : at + size]) == hunk.old]
        if len(places) != 1 or places[0] < end:
            return None
        result += [*lines[end : places[0]], *hunk.new]
        end = places[0] + size
    return "\n".join(result + lines[end:])


def state(text: str, hunks: Sequence[Hunk]) -> str:
    """Return what a patch is to a text: in it, ready to be put in, or neither."""
    fits = patched(text, hunks) is not None, patched(text, reverse(hunks)) is not None
    return {(True, False): UNPATCHED, (False, True): PATCHED}.get(fits, UNFIT)


def status(*, root: str = "/", patches: str = "") -> list[Backend]:
    """Return every Ganeti series installed below `root`, oldest first; `patches` overrides where our patch files are."""
    place, running = patches or _patches(root), _running(root)
    installed, found = _installed(root), []
    if not installed:
        raise Missing(_path(root, "X.Y"), "install Ganeti from Debian's packages")
    for series in installed:
        path, file = _path(root, series), os.path.join(place, f"ganeti-{series}.patch")
        said = state(_read(path), parse(_read(file), file)) if os.path.exists(file) else NO_PATCH
        found.append(Backend(series, path, "" if said == NO_PATCH else file, said, series == running))
    return found


def lost(*, enabled: bool = False, root: str = "/", patches: str = "") -> str:
    """Return, as one line, which series lack our patch that was put in, as after an upgrade of Ganeti, or that is enabled; "" if none."""
    without = [one for one in status(root=root, patches=patches) if one.state != PATCHED]
    if enabled:
        named = [f"{one.series} ({one.state})" for one in without if one.running or _of_use(one, root)]
        way_out = "gnt-zfs patch apply says why, gnt-zfs patch disable is to be without it"
        return f"the patch is enabled, but not in Ganeti {' and '.join(named)}: {way_out}" if named else ""
    names = [one.series for one in without if os.path.exists(one.path + _ORIGINAL)]
    return f"the patch is no longer in Ganeti {' and '.join(names)}: run gnt-zfs patch apply, or revert to be without it" if names else ""


def _of_use(backend: Backend, root: str) -> bool:
    """Tell whether a series that does not run could, with the patch: nobody is to be reminded for ever of one that cannot."""
    return bool(backend.patch) and (not backend.series.startswith("2.") or os.access(_python2(root), os.X_OK))


def apply(*, run: Run, series: str = "", restart: bool = False, root: str = "/", patches: str = "") -> Outcome:
    """The patch is in the named series, or in the running one and every other that it fits; a refusal means nothing was changed."""
    chosen = _chosen(series, root, patches)
    plans, refused = list[_Plan](), dict[str, ZfsGanetiError]()
    for backend in chosen:
        try:
            if plan := _plan(backend, UNPATCHED):
                _compile(backend, plan[2], run, root)
                plans.append(plan)
        except ZfsGanetiError as error:
            refused[backend.series] = error
            # one that only lies beside the running one is nobody's concern until it is asked for
            if series or backend.running or len(refused) == len(chosen):
                raise
    noded = _Noded(root, run)
    noded.foresee(plans)
    for backend, before, after in plans:
        # what the patch is put on is what the backup holds: one left by an older version of Ganeti is replaced
        _replace(backend.path + _ORIGINAL, before, backend.path)
        _replace(backend.path, after, backend.path)
    return _finish(chosen, plans, refused, noded.outcome(restart))


def revert(*, run: Run, series: str = "", restart: bool = False, root: str = "/", patches: str = "") -> Outcome:
    """The patch is in no installed series (or not in the named one) and no backup is left; what else changed since then stays.

    Without Ganeti there is nothing to be taken out, which is no failure; only a series that was named must be there.
    """
    chosen = _chosen(series, root, patches) if series or _installed(root) else []
    plans = [plan for backend in chosen if backend.patch and _ours(backend) and (plan := _plan(backend, PATCHED))]
    noded = _Noded(root, run)
    noded.foresee(plans)
    for backend, _, after in plans:
        _replace(backend.path, after, backend.path)
    # a series whose package has gone leaves its backup, which dpkg does not know, and so the directory
    for original in glob(_path(root, series or "*") + _ORIGINAL):
        _remove(original)
        for directory in (os.path.dirname(original), os.path.dirname(os.path.dirname(original))):
            with suppress(OSError):
                os.rmdir(directory)
    return _finish(chosen, plans, {}, noded.outcome(restart))


def _installed(root: str) -> list[str]:
    names = glob("*", root_dir=os.path.join(root, _GANETI))
    found = [name for name in names if _SERIES.fullmatch(name) and os.path.exists(_path(root, name))]
    return sorted(found, key=lambda name: [int(part) for part in name.split(".")])


def _path(root: str, series: str) -> str:
    return os.path.join(root, _GANETI, series, "ganeti/backend.py")


def _running(root: str) -> str:
    """Return the series that this node's Ganeti is set to, "" if unknown; an absolute link is read, not followed out of `root`."""
    for link in ("etc/ganeti/share", f"{_GANETI}/default"):
        with suppress(OSError):
            name = os.path.basename(os.readlink(os.path.join(root, link)).rstrip("/"))
            if _SERIES.fullmatch(name):
                return name
    return ""


def _patches(root: str) -> str:
    """Return the directory of our patch files: the source tree's when run from one, else the installed one."""
    for place in (os.path.join(os.path.dirname(os.path.dirname(__file__)), "patches"), os.path.join(root, _PATCHES)):
        if os.path.exists(os.path.join(place, "ganeti-3.0.patch")):
            return os.path.abspath(place)
    raise Missing(os.path.join(root, _PATCHES), "install zfsganeti again")


def _chosen(series: str, root: str, patches: str) -> list[Backend]:
    chosen = [backend for backend in status(root=root, patches=patches) if series in ("", backend.series)]
    if not chosen:
        raise Missing(_path(root, series), f"installed here: Ganeti {', '.join(_installed(root))}")
    return chosen


def _ours(backend: Backend) -> bool:
    """Tell whether all our lines are in: a backend.py that the patch merely does not fit has nothing to be taken out."""
    added = {line for hunk in parse(_read(backend.patch), backend.patch) for line in hunk.new if line not in hunk.old}
    return added.issubset(_read(backend.path).split("\n"))


def _plan(backend: Backend, wanted: str) -> _Plan | None:
    """Return how to change a backend.py that is in the wanted state, None if it is in the opposite one."""
    if not backend.patch:
        raise Refused(backend.path, f"no patch for Ganeti {backend.series}", "a newer zfsganeti may have one")
    if backend.state not in (wanted, UNFIT):
        return None
    before, hunks = _read(backend.path), parse(_read(backend.patch), backend.patch)
    after = patched(before, hunks if wanted == UNPATCHED else reverse(hunks))
    if after is None or backend.state == UNFIT:
        raise Refused(
            backend.path,
            f"{os.path.basename(backend.patch)} does not fit it exactly once",
            f"if you changed the file, apt-get install --reinstall ganeti-{backend.series} brings the original back",
        )
    return backend, before, after


def _python2(root: str) -> str:
    return os.path.join(root, "usr/bin/python2")


def _compile(backend: Backend, text: str, run: Run, root: str) -> None:
    """The text compiles in the Python that the series runs on."""
    # Ganeti 2.x is Python 2, which Debian 12 and 13 lack: it cannot run there, so refusing to patch it costs nothing
    python2 = _python2(root)
    try:
        if not backend.series.startswith("2."):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(text.encode(*_CODEC), backend.path, "exec", dont_inherit=True)
        elif os.access(python2, os.X_OK):
            run(python2, "-ESc", "import sys; compile(sys.stdin.read(), 'backend.py', 'exec')", stdin=text)
        else:
            raise Unavailable(python2, f"not there to check what the patch makes of {backend.path}", "install Python 2, or patch by hand")
    except (SyntaxError, ValueError, CommandFailed) as error:
        raise Refused(backend.path, f"with the patch it would not compile ({error})", "it was left as it is") from error


def _finish(chosen: Sequence[Backend], plans: Sequence[_Plan], refused: dict[str, ZfsGanetiError], noded: tuple[str, bool]) -> Outcome:
    changed = tuple(backend.series for backend, _, _ in plans)
    unchanged = tuple(backend.series for backend in chosen if backend.series not in (*changed, *refused))
    return Outcome(changed, unchanged, tuple(str(error) for error in refused.values()), *noded)


class _Noded:
    """The node daemon, and whether it has the code that is in the file.

    A process that has older code is remembered in /run, before the file is changed: a run that was killed in between, or could not
    restart it, or was not to, leaves that to the next one, and a boot forgets it with the process.
    """

    def __init__(self, root: str, run: Run) -> None:
        self._root, self._run = root, run
        self._note = os.path.join(root, _OLD_CODE)

    def foresee(self, plans: Sequence[_Plan]) -> None:
        """It is known that the daemon which runs now, if one does, will have older code than the file."""
        if (process := self._process()) and any(backend.running for backend, _, _ in plans):
            self._remember(process)

    def outcome(self, restart: bool) -> tuple[str, bool]:
        """Return what noded has, and whether a restart has failed; where it does not run, or has the code of the file, none is tried."""
        if not self._outdated():
            _remove(self._note)
            return AS_IT_WAS, False
        if not restart:
            return RESTART_NEEDED, False
        try:
            self._restart()
        except (CommandFailed, Unavailable) as error:
            way_out = f"put that right, then {_DAEMON_UTIL} start {_NODED}"
            return f"the files are as they should be, but the node daemon could not be restarted ({error}): {way_out}", True
        return RESTARTED, False

    def _restart(self) -> None:
        self._remember(f"{self._process()}\n{_STOPPED}")
        self._run(_DAEMON_UTIL, "stop", _NODED)
        self._run(_DAEMON_UTIL, "start", _NODED)
        # with systemd `start` ends well whatever came of it
        self._run(_DAEMON_UTIL, "check", _NODED)
        _remove(self._note)

    def _outdated(self) -> bool:
        """Tell whether the daemon has older code, or was stopped by us for that and has not been started since."""
        if not os.path.exists(self._note):
            return False
        process, _, stopped = _read(self._note).partition("\n")
        running = self._process()
        return process == running if running else stopped == _STOPPED

    def _process(self) -> str:
        """Return the daemon as its process ID and when that was started, "" if none runs; no clock that may be set is asked."""
        try:
            number = str(int(_read(os.path.join(self._root, _PIDFILE))))
            command, stat = (_read(os.path.join(self._root, "proc", number, name)) for name in ("cmdline", "stat"))
        except (Unavailable, ValueError):
            return ""
        return f"{number} {stat.rpartition(')')[2].split()[19]}" if _NODED in command else ""

    def _remember(self, text: str) -> None:
        with _touching(self._note, "written"):
            os.makedirs(os.path.dirname(self._note), mode=0o700, exist_ok=True)
            with open(self._note, "w", encoding="utf-8") as file:
                file.write(text)


@contextmanager
def _touching(path: str, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(path, f"cannot be {doing} ({error.strerror})", "only root may, with room on the disk") from error


def _read(path: str) -> str:
    with _touching(path, "read"), open(path, "rb") as file:
        return file.read().decode(*_CODEC)


def _replace(path: str, text: str, like: str) -> None:
    """`path` holds the text, with mode and owner of `like`, on disk; a power cut leaves the old file or the new one, whole."""
    temporary = path + ".new"
    with _touching(path, "written"), ExitStack() as last:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        last.callback(os.close, directory)
        # the administrator and a package's trigger may come here at the same time
        fcntl.flock(directory, fcntl.LOCK_EX)
        last.callback(_remove, temporary)
        model = os.stat(like)
        with open(temporary, "wb") as file:
            os.fchown(file.fileno(), model.st_uid, model.st_gid)
            os.fchmod(file.fileno(), model.st_mode & 0o7777)
            file.write(text.encode(*_CODEC))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        os.fsync(directory)


def _remove(path: str) -> None:
    with _touching(path, "removed"), suppress(FileNotFoundError):
        os.unlink(path)
