"""Running a program with a deadline: the one place that knows `sh` and how its versions differ.

`query` does the same with `os` alone: hooks and verbs of disks ask zfs(8) something, and importing `sh` takes as long as all
the rest of them together, `subprocess` as long as zfs(8) itself.
"""

from __future__ import annotations

import contextlib
import os
import time

from zfsganeti.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COMMAND = "/usr/sbin/gnt-zfs"  # ours; an ssh session's PATH has no sbin
EARLY = "early"  # said to a verb on a peer that is to say when it is ready for its request
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
NOBODY = "65533"  # a user and group that Debian reserves and gives to nobody, unlike 65534, whose processes may be anybody's
SIGKILL, SIGPIPE, SIGXFSZ = 9, 13, 25  # the module `signal` makes enumerations of them at every start
SAID_BYTES = 1 << 20  # as much of what a program says is of use; a confined one may write no more to files, of which stderr is one


class Done:
    """What a program ended with."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr


def execute(command: Sequence[str], *, stdin: str = "", seconds: float) -> Done:
    """Run a program to its end and return it, whatever its status; Unavailable when it is missing or too slow.

    It is in a session of its own: whoever is interrupted at a terminal decides what becomes of it, and it does not outlive this call.
    """
    import sh

    # since version 2 a call returns a str unless told otherwise; before, the option would become an argument of the program
    returns = {"_return_cmd": True} if int(sh.__version__.split(".")[0]) >= 2 else {}
    try:
        with Deferred() as interruption:  # or it would have begun and nobody would know it
            # looked for where we say, not in the PATH of whoever called us
            started = sh.Command(command[0], search_paths=ENVIRONMENT["PATH"].split(":"))(
                *command[1:],
                _in=stdin,
                _env=ENVIRONMENT,
                _timeout=seconds,
                _tty_out=False,
                _cwd="/",
                _ok_code=list(range(256)),
                _bg=True,
                _new_session=True,  # since version 2 it is in our group unless told otherwise, and would take us with it
                _bg_exc=False,
                **returns,
            )
        try:
            interruption.happens()
            done = started.wait()
        except KeyboardInterrupt:
            if started.is_alive():  # or it would do what it was told later, when nobody expects it any more
                started.kill_group()
                started.process.wait()
            raise
    except sh.CommandNotFound:
        raise Unavailable(command[0], "is not installed") from None
    except (sh.TimeoutException, sh.SignalException):
        raise Unavailable(" ".join(command[:2]), f"no end within {seconds:.0f} s") from None
    return Done(done.exit_code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


class Deferred:
    """A Ctrl-C that comes meanwhile does nothing until it is let happen."""

    def __enter__(self) -> Deferred:
        import signal
        import threading

        self._came = False
        # in another thread nobody is interrupted, and what is ignored or heard by somebody else stays so
        ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self._before = signal.signal(signal.SIGINT, self._hear) if ours else None
        return self

    def __exit__(self, *_error: object) -> None:
        import signal

        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, _number: int, _frame: object) -> None:
        self._came = True

    def happens(self) -> None:
        """KeyboardInterrupt, if there was one."""
        if self._came:
            raise KeyboardInterrupt


def query(command: Sequence[str], *, seconds: float) -> Done:
    """Run a program that is asked for something, without input, to its end; Unavailable when it is missing or too slow."""
    out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        pid = os.posix_spawn(
            _found(command[0]),
            list(command),
            ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, err, 2),
            ],
            setsigdef=[SIGPIPE, SIGXFSZ],  # which Python ignores, and a program would go on ignoring
        )
        status = _ended(pid, seconds)
        if status is None:
            raise Unavailable(" ".join(command[:2]), f"no end within {seconds:.0f} s")
        return Done(status, _written(out), _written(err))
    finally:
        os.close(out)
        os.close(err)


def _found(program: str) -> str:
    """Return the path of a program; Unavailable when it is nowhere on our PATH."""
    places = [program] if "/" in program else [f"{directory}/{program}" for directory in ENVIRONMENT["PATH"].split(":")]
    for place in places:
        if os.access(place, os.X_OK):
            return place
    raise Unavailable(program, "is not installed")


def _ended(pid: int, seconds: float) -> int | None:
    """Return the exit status that a program ended with, None when it had to be killed."""
    import select

    descriptor, reached = os.pidfd_open(pid), False
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        reached = bool(waiting.poll(1000 * seconds))
    finally:
        os.close(descriptor)
        if not reached:
            os.kill(pid, SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if reached else None


def _written(descriptor: int) -> str:
    """Return what was written to a file in memory."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def background(*words: str) -> None:
    """Our own command goes on by itself, whatever becomes of us."""
    import subprocess

    command = [COMMAND, *words]
    if os.path.isdir("/run/systemd/system"):
        command = ["systemd-run", "--quiet", "--collect", "--", *command]  # not in the service of whoever called us, which may be restarted
    subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )


# streams


CHUNK = 1 << 20  # the largest pipe that an unprivileged kernel setting allows, and what moves at once
F_SETPIPE_SZ = 1031
ENDING_SECONDS = 5  # a program that was told to end and does not is killed


class Child:
    """A program at work; what it prints is kept in memory, and it does not outlive the `with` that it was started in."""

    def __init__(self, command: Sequence[str], stdin: int, stdout: int | None = None, descriptors: Sequence[int] = ()) -> None:
        import subprocess

        self.name = " ".join(command[:2])
        self.is_over = False  # ended, and what it printed forgotten
        self._out, self._err = os.memfd_create("stdout"), os.memfd_create("stderr")
        try:
            self.program = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=self._out if stdout is None else stdout,
                stderr=self._err,
                pass_fds=descriptors,
                env=ENVIRONMENT,
                cwd="/",
            )
        except OSError:
            self._forget()
            raise Unavailable(command[0], "is not installed") from None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_failure: object) -> None:
        self.end()
        self._forget()

    def _forget(self) -> None:
        self.is_over = True
        os.close(self._out)
        os.close(self._err)

    @property
    def pipe(self) -> int:
        """The end that is ours of the one pipe that was asked for, of two that which is written to."""
        return next(pipe.fileno() for pipe in (self.program.stdin, self.program.stdout) if pipe is not None)

    def read(self, size: int) -> bytes:
        """Return some of what the program prints into the pipe that was asked for, nothing at its end."""
        return os.read(self.pipe, size)

    def close(self) -> None:
        """Our end of the pipe is closed: a program that reads sees the end of its input."""
        for pipe in (self.program.stdin, self.program.stdout):
            if pipe is not None:
                pipe.close()

    def has_spoken(self) -> bool:
        """Tell whether the program has printed anything, or ended without."""
        import select

        if self.program.stdout is None:
            return os.fstat(self._out).st_size > 0 or self.wait(0) is not None
        return bool(select.select([self.program.stdout], [], [], 0)[0])

    def wait(self, seconds: float) -> int | None:
        """Return the status that the program ended with, None when it has not ended in time."""
        import subprocess

        try:
            return self.program.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """The program has ended, by itself or not, and its pipes are closed."""
        self.close()
        if self.program.poll() is None:
            self.program.terminate()
            if self.wait(ENDING_SECONDS) is None:
                self.program.kill()
                self.program.wait()

    def ended(self, seconds: float) -> Done:
        """Return what the program ended with by itself; Unavailable when it does not."""
        if self.wait(seconds) is None:
            raise Unavailable(self.name, f"no end within {seconds:.0f} s")
        return self.done()

    def done(self) -> Done:
        """Return what the program ended with; it is ended if need be."""
        self.end()
        texts = [os.pread(kept, min(SAID_BYTES, os.fstat(kept).st_size), 0).decode(errors="replace") for kept in (self._out, self._err)]
        return Done(self.program.returncode, *texts)


class Relayed:
    """How both programs of a relay ended; `early` says that the sink did before the source had."""

    def __init__(self, source: Done, sink: Done, early: bool) -> None:
        self.source, self.sink, self.early = source, sink, early


class Flow:
    """Bytes on their way from one pipe to another, by splice(2), no faster than `limit` bytes a second."""

    def __init__(self, source: int, sink: int, progress: Callable[[int], None], limit: int, seconds: float) -> None:
        self.source, self.sink, self.progress, self.limit, self.seconds = source, sink, progress, limit, seconds
        self.moved = 0
        self._due = 0.0
        self._told = 0.0

    def run(self) -> None:
        """All is moved; BrokenPipeError when nobody reads the sink any more, TimeoutError when nothing moves."""
        step = max(4096, min(CHUNK, self.limit // 20)) if self.limit else CHUNK
        while True:
            self._wait(self.source)
            self._wait(self.sink)
            try:
                moved = os.splice(self.source, self.sink, step, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                continue
            if moved == 0:
                break
            self.moved += moved
            self._tell()
            self._brake(moved)
        self.progress(self.moved)

    def _wait(self, descriptor: int) -> None:
        """The descriptor is ready."""
        import select

        poll = select.poll()
        poll.register(self.source, select.POLLIN if descriptor == self.source else 0)
        poll.register(self.sink, select.POLLOUT if descriptor == self.sink else 0)
        deadline = time.monotonic() + self.seconds
        while True:
            found = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if found.get(self.sink, 0) & (select.POLLERR | select.POLLNVAL):
                raise BrokenPipeError
            if descriptor in found:
                return
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no byte was moved for {self.seconds:.0f} s")
            if self.source in found:
                poll.unregister(self.source)  # it has ended while the sink is full, which poll(2) says again and again

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= 0.1:
            self._told = now
            self.progress(self.moved)

    def _brake(self, moved: int) -> None:
        if self.limit:
            now = time.monotonic()
            self._due = max(self._due, now - 0.1) + moved / self.limit  # what a pause has saved is not made up for
            time.sleep(max(0.0, self._due - now))


def relay(
    source: Sequence[str], sink: Sequence[str] | Child, head: bytes, *, progress: Callable[[int], None], limit: int = 0, seconds: float
) -> Relayed:
    """Both programs have ended: the sink, which may be waiting, was given `head`, then all that the source wrote, unless one ended before.

    The other is ended then. TimeoutError when no byte moves for `seconds`, or the sink takes as long to end after the last one.
    """
    import subprocess

    with Child(source, subprocess.DEVNULL, subprocess.PIPE) as giver, sink if isinstance(sink, Child) else waiting(sink) as taker:
        flow = Flow(giver.pipe, taker.pipe, progress, limit, seconds)
        early = False
        try:
            _widen(flow.source, flow.sink)
            os.write(flow.sink, head)  # which the empty pipe has room for
            flow.run()
        except BrokenPipeError:
            early = giver.wait(0) in (None, 0)
            giver.end()
        taker.close()
        status = giver.wait(seconds)
        if taker.wait(seconds if status == 0 or early else ENDING_SECONDS) is None and (status == 0 or early):
            raise TimeoutError(f"no end within {seconds:.0f} s of the last byte")
        return Relayed(giver.done(), taker.done(), early)


def _widen(*pipes: int) -> None:
    """The pipes hold as much as the kernel lets them."""
    import fcntl

    for pipe in pipes:
        try:
            fcntl.fcntl(pipe, F_SETPIPE_SZ, CHUNK)
        except OSError:
            pass


def feed(command: Sequence[str], descriptor: int, *, seconds: float) -> Done:
    """Run a program that reads a stream from a descriptor to its end, and return it, whatever its status.

    Unavailable when the stream brings nothing for `seconds` while its other end is open: whoever sent it is gone without a word.
    """
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    with Child(command, descriptor) as child:
        seen, since = -1, time.monotonic()
        while child.wait(min(1.0, seconds)) is None:
            read = _bytes_read(child.program.pid)
            if read != seen or poll.poll(0):
                seen, since = read, time.monotonic()
            elif time.monotonic() - since > seconds:
                raise Unavailable(child.name, f"the stream brought nothing for {seconds:.0f} s")
        return child.done()


def _bytes_read(pid: int) -> int:
    """Return how many bytes a process has read so far, 0 when it has just ended."""
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            return int(file.readline().split()[1])  # rchar
    except (OSError, IndexError):
        return 0


BEAT_SECONDS = 5.0  # so often either end of a conversation says that it is there


def waiting(command: Sequence[str], *, talks: bool = False) -> Child:
    """Return a program at work that waits for its input, and may talk while it runs."""
    import subprocess

    return Child(command, subprocess.PIPE, subprocess.PIPE if talks else None)


def told(child: Child, text: str, *, seconds: float) -> Done:
    """Give a program that waits all of its input, and return what it has ended with; Unavailable when it does not end."""
    with child:
        _offer(child.pipe, text.encode())
        child.close()
        return child.ended(seconds)


def _offer(pipe: int, data: bytes) -> None:
    """What a program reads it was given; what it has printed before it stopped to read is of use all the same."""
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(pipe, data) :]


def converse(child: Child, head: str, hear: Callable[[str], None], *, seconds: float) -> Done:
    """Give a program that talks `head`, and empty lines for as long as somebody listens, and hear each line that it prints.

    TimeoutError when it prints nothing for `seconds`. It has ended when this returns, and sees the end of its input when we die.
    """
    import select

    with child:
        assert child.program.stdin is not None
        assert child.program.stdout is not None
        given, printed = child.program.stdin.fileno(), child.program.stdout.fileno()
        poll = select.poll()
        poll.register(printed, select.POLLIN)
        text, heard = b"", time.monotonic()
        _offer(given, head.encode())
        while True:
            if poll.poll(BEAT_SECONDS * 1000):
                more = os.read(printed, CHUNK)
                if not more:
                    break
                heard = time.monotonic()
                *lines, text = (text + more).split(b"\n")
                for line in lines:
                    hear(line.decode(errors="replace"))
            elif time.monotonic() - heard > seconds:
                raise TimeoutError(f"nothing was heard for {seconds:.0f} s")
            _offer(given, b"\n")
        child.wait(ENDING_SECONDS)
        return child.done()


def reading(command: Sequence[str], *, stdin: int | None = None, descriptors: Sequence[int] = ()) -> Child:
    """Return a program at work whose output is read while it runs, without input unless it is given some."""
    import subprocess

    return Child(command, subprocess.DEVNULL if stdin is None else stdin, subprocess.PIPE, descriptors)


def confined(*command: str, memory: int, seconds: int) -> list[str]:
    """Return a command as one that reaches nothing but the descriptors it is given, for programs that read what strangers made.

    Of all files it sees those below /usr alone, which Debian's merged directories make a root that programs run in; it has no
    network, no rights and no way to get any. Who is not root has little to lose and cannot do the first two.
    """
    limits = ("prlimit", f"--as={memory}", f"--cpu={seconds}", f"--fsize={SAID_BYTES}", "--core=0", "--nofile=64")
    if os.geteuid() != 0:
        return ["setpriv", "--no-new-privs", *limits, *command]
    alone = ("unshare", "--net", "--ipc", "--root=/usr", "--wd=/")
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")
    return [*alone, "setpriv", *user, *limits, *command]


# who else is there


def processes() -> Iterator[str]:
    """Yield the number of every process."""
    return (entry for entry in os.listdir("/proc") if entry.isdigit())


def describe(pid: str) -> str:
    """Return a process the way messages name it: process qemu-system-x86 (4711)."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"process {file.read().strip()} ({pid})"
    except OSError:
        return f"process {pid}"


def open_files(pid: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what a process has open, its working directory too, as (path in /proc, status); one that ends meanwhile yields less."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for held in (*(f"fd/{number}" for number in numbers), "cwd"):
        link = f"/proc/{pid}/{held}"
        try:
            status = os.stat(link)
        except OSError:
            continue
        yield link, status


def holding(paths: Sequence[str]) -> list[str]:
    """Return the processes that have one of the files open."""
    wanted = {(status.st_dev, status.st_ino) for status in map(os.stat, paths)}
    return [describe(pid) for pid in processes() if any((status.st_dev, status.st_ino) in wanted for _link, status in open_files(pid))]
