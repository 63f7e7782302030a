"""What ZFS can do with a filesystem's past: promote a clone of it, go back to a snapshot, say and end what holds one.

Mixed into `zfsganeti.zfs.Zfs`, through which everything here reaches libzfs_core and zfs(8).
"""

from __future__ import annotations

from zfsganeti.errors import Busy, CommandFailed
from zfsganeti.names import check_dataset, check_hold, check_snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

ROLL_BACK = """
local targets = (...)["argv"]["targets"]
local function no(why, what, fs) return { ok = false, why = why, what = what, fs = fs } end
local doomed, count = {}, 0
for fs, short in pairs(targets) do
  local wanted = fs .. "@" .. short
  if not zfs.exists(wanted) then return no("missing", wanted, fs) end
  local oldest = zfs.get_prop(wanted, "createtxg")
  for snap in zfs.list.snapshots(fs) do
    local born = zfs.get_prop(snap, "createtxg")
    if born > oldest then
      for clone in zfs.list.clones(snap) do return no("clone", clone, fs) end
      for tag in zfs.list.holds(snap) do return no("hold", snap .. " (" .. tag .. ")", fs) end
      if zfs.check.destroy(snap) ~= 0 then return no("sending", snap, fs) end
      count = count + 1
      doomed[count] = snap
    end
  end
  local e = zfs.check.rollback(fs)
  if e == EAGAIN then return no("again", fs, fs) end
  if e == EEXIST then return no("bookmark", fs, fs) end
  if e == EBUSY then return no("mounted", fs, fs) end
  if e ~= 0 then return no("full", fs, fs) end
end
for i = 1, count do
  if zfs.sync.destroy(doomed[i]) ~= 0 then return no("partial", doomed[i], doomed[i]) end
end
for fs in pairs(targets) do
  if zfs.sync.rollback(fs) ~= 0 then return no("partial", fs, fs) end
end
return { ok = true, count = count }
"""


class History:
    """The part of the node's ZFS that goes back in time."""

    if TYPE_CHECKING:

        def snapshot_facts(self, root: str, wanted: Iterable[str], *, depth: int) -> dict[str, dict[str, str]]: ...
        def _command(self, program: str, *arguments: str) -> str: ...
        def _call(self, name: str, function: str, *arguments: Any, **options: Any) -> Any: ...
        def _refusal(self, name: str, answer: Mapping[str, Any]) -> Exception: ...

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
        """Return the tags of the holds on a filesystem's snapshots, by the full name of each that is held."""
        facts = self.snapshot_facts(name, ("userrefs",), depth=1)
        return self.holds(snapshot for snapshot, known in facts.items() if known["userrefs"] not in ("0", "-"))

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
            self._refuse_newer_bookmarks(name, short)
        argv = {b"targets": {name.encode(): short.encode() for name, short in targets.items()}}
        pool = next(iter(targets)).split("/")[0]
        answer = self._call(pool, "lzc_channel_program", pool.encode(), ROLL_BACK.encode(), params=argv)
        known = {key.decode(): value.decode() if isinstance(value, bytes) else value for key, value in answer.items()}
        if not known["ok"]:
            name = str(known["fs"])
            if known["why"] == "full":
                raise Busy(f"dataset {name}", "its pool, a quota or a reservation leaves no room to go back")
            raise self._refusal(str(known["what"]) if known["why"] == "missing" else name, known)

    def _refuse_newer_bookmarks(self, name: str, short: str) -> None:
        """Programs cannot destroy bookmarks, and a rollback fails, half done, where one is newer than what is gone back to."""
        listed = self._command("zfs", "list", "-Hp", "-d", "1", "-t", "snapshot,bookmark", "-o", "name,createtxg", name)
        born = {line.split("\t")[0]: int(line.split("\t")[1]) for line in listed.splitlines()}
        oldest = born.get(f"{name}@{short}", 0)
        newer = [bookmark for bookmark, txg in born.items() if "#" in bookmark and txg > oldest]
        if newer:
            raise Busy(f"dataset {name}", f"has the bookmark {newer[0]}, which is newer", f"zfs destroy {newer[0]}")
