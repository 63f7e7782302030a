"""What ZFS can do with a filesystem's past: promote a clone of it, go back to a snapshot, say and end what holds one.

Mixed into `zfsganeti.zfs.Zfs`, through which everything here reaches libzfs_core and zfs(8).
"""

from __future__ import annotations

from zfsganeti import programs
from zfsganeti.errors import Busy, CommandFailed
from zfsganeti.names import check_dataset, check_hold, check_snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class History:
    """The part of the node's ZFS that goes back in time."""

    if TYPE_CHECKING:

        def snapshot_facts(self, root: str, wanted: Iterable[str], *, depth: int) -> dict[str, dict[str, str]]: ...
        def _command(self, program: str, *arguments: str) -> str: ...
        def _run(self, name: str, program: str, asked: Mapping[bytes, object]) -> dict[str, str]: ...
        def _call(self, name: str, function: str, *arguments: Any, **options: Any) -> Any: ...
        def _refusal(self, name: str, answer: Mapping[str, str]) -> Exception: ...

    def promote(self, name: str) -> None:
        """What the filesystem was a clone of is a clone of it instead, and it has the snapshots up to that point."""
        self._call(name, "lzc_promote", check_dataset(name).encode())

    def rename_snapshot(self, name: str, new: str) -> None:
        """The snapshot, of which there may be clones, has the other full name."""
        self._command("zfs", "rename", check_snapshot(name), check_snapshot(new))

    def holds(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the tags by which snapshots are held, by the full name of each that is."""
        wanted = [check_snapshot(name) for name in names]
        found: dict[str, list[str]] = {}
        for line in self._command("zfs", "holds", "-H", *wanted).splitlines() if wanted else ():
            name, tag = line.split("\t")[:2]
            found.setdefault(name, []).append(tag)
        return found

    def held(self, name: str) -> dict[str, list[str]]:
        """Return the tags of the holds on a filesystem's snapshots, by the full name of each that is held and has a name as ours do."""
        facts = self.snapshot_facts(name, ("userrefs",), depth=1)
        held = [snapshot for snapshot, known in facts.items() if known["userrefs"] not in ("0", "-")]
        return self.holds(snapshot for snapshot in held if " " not in snapshot)  # which others may have, and nobody of us holds

    def hold(self, snapshot: str, tag: str) -> None:
        """The snapshot cannot be destroyed before the hold of that tag is released; holding it twice is holding it once."""
        try:
            self._command("zfs", "hold", check_hold(tag), check_snapshot(snapshot))
        except CommandFailed as error:
            if "tag already exists" not in error.said:
                raise

    def release(self, snapshot: str, tag: str) -> None:
        """The snapshot has no hold of that tag."""
        try:
            self._command("zfs", "release", check_hold(tag), check_snapshot(snapshot))
        except CommandFailed as error:
            if "no such tag" not in error.said:
                raise

    def roll_back(self, targets: Mapping[str, str]) -> None:
        """Every filesystem of one pool holds what its snapshot of that short name does, in one txg, or nothing has changed.

        Snapshots that are newer are gone. None of the filesystems may be mounted; clones, holds, sends and newer bookmarks are Busy.
        """
        for name, short in targets.items():
            check_snapshot(f"{name}@{short}")
            self.refuse_newer_bookmarks(name, short)
        asked = {b"targets": {name.encode(): short.encode() for name, short in targets.items()}}
        known = self._run(next(iter(targets)).split("/")[0], programs.ROLL_BACK, asked)
        if "ok" not in known:
            name = known["fs"]
            if known["why"] == "full":
                raise Busy(f"dataset {name}", "its pool, a quota or a reservation leaves no room to go back")
            raise self._refusal(known["what"] if known["why"] == "missing" else name, known)

    def refuse_newer_bookmarks(self, name: str, short: str) -> None:
        """Programs cannot destroy bookmarks, and a rollback fails, half done, where one is newer than what is gone back to."""
        listed = self._command("zfs", "list", "-Hp", "-d", "1", "-t", "snapshot,bookmark", "-o", "name,createtxg", name)
        born = {line.split("\t")[0]: int(line.split("\t")[1]) for line in listed.splitlines()}
        oldest = born.get(f"{name}@{short}", 0)
        newer = [bookmark for bookmark, txg in born.items() if "#" in bookmark and txg > oldest]
        if newer:
            raise Busy(f"dataset {name}", f"has the bookmark {newer[0]}, which is newer", f"zfs destroy {newer[0]}")
