"""Channel programs: what the kernel looks up, changes or destroys in one go, without a program of ours or zfs(8) being started.

Programs are texts in Lua, given strings and answering with a string (zfs-program(8)). Those that only look wait for no transaction
group; all that one changes is in one of them. What one answers is what `zfs get -Hp` prints, or lines `key=value`. None sets properties:
`zfs.sync.inherit` of one that is not set stops the whole pool for good (seen with 2.3.9: a panic in dsl_props_set_sync).
"""

from __future__ import annotations

from zfsganeti import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OF_A_SNAPSHOT = ("guid", "clones")  # what LOOK tells of one

# the properties of a filesystem, or of one that has a snapshot of a name, and what is known of that
LOOK = """
local a = ...
local lines = {}
local function line(name, key, value, source)
  if type(value) == "number" then value = string.format("%u", value) end
  lines[#lines + 1] = name .. "\\t" .. key .. "\\t" .. value .. "\\t" .. source
end
local function tell(name)
  for key in pairs(a["native"]) do
    local value = zfs.get_prop(name, key)
    if value ~= nil then line(name, key, value, "-") end
  end
  for key, value, source in zfs.list.user_properties(name) do -- at once: each that is asked for alone is looked for in all parents
    if source == name and a["marks"][key] then line(name, key, value, "local") end
  end
end
local function tell_snapshot(snap)
  local clones = {}
  for clone in zfs.list.clones(snap) do clones[#clones + 1] = clone end
  line(snap, "guid", zfs.get_prop(snap, "guid"), "-")
  line(snap, "clones", table.concat(clones, ","), "-")
end
local fs = a["root"]
if zfs.get_prop(fs, "type") ~= "filesystem" then return "" end
if a["short"] == "" then
  tell(fs)
elseif zfs.exists(fs .. "@" .. a["short"]) then
  tell(fs)
  tell_snapshot(fs .. "@" .. a["short"])
end
return table.concat(lines, "\\n")
"""

# the names of what is directly below a dataset
CHILDREN = """
local names = {}
for child in zfs.list.children((...)["root"]) do names[#names + 1] = child end
return table.concat(names, "\\n")
"""

NO = """
local function no(why, what, more) return "why=" .. why .. "\\nwhat=" .. what .. "\\n" .. (more or "") end
"""

# a filesystem with its snapshots, or nothing
DESTROY = (
    NO
    + """
local a = ...
local fs = a["fs"]
if not zfs.exists(fs) then return no("missing", fs) end
local seen = {}
for name, value, source in zfs.list.user_properties(fs) do
  if source == fs then seen[name] = value end
end
for name, value in pairs(a["marks"]) do
  if seen[name] ~= value then return no("foreign", name) end
end
for child in zfs.list.children(fs) do return no("child", child) end
local snaps, count, strangers, stranger = {}, 0, 0, nil
for snap in zfs.list.snapshots(fs) do
  count = count + 1
  snaps[count] = snap
  for clone in zfs.list.clones(snap) do return no("clone", clone) end
  for tag in zfs.list.holds(snap) do return no("hold", snap .. " (" .. tag .. ")") end
  local own = string.find(snap, "@" .. a["prefix"], 1, true) or snap == fs .. "@" .. a["also"]
  if not own then strangers = strangers + 1; stranger = snap end
end
if strangers > 0 and a["strangers"] == "" then return no("snapshot", stranger, "count=" .. strangers) end
for i = 1, count do
  if zfs.check.destroy(snaps[i]) ~= 0 then return no("sending", snaps[i]) end
end
local e
if count == 0 then e = zfs.check.destroy(fs) else e = zfs.check.rollback(fs) end
if e == EAGAIN then return no("again", fs) end
if e == EEXIST then return no("bookmark", fs) end
if e ~= 0 and e ~= EDQUOT and e ~= ENOSPC then return no("mounted", fs) end
if a["only_check"] ~= "" then return "ok=yes\\ncount=" .. count end
for i = count, 1, -1 do
  if zfs.sync.destroy(snaps[i]) ~= 0 then return no("partial", snaps[i]) end
end
if zfs.sync.destroy(fs) ~= 0 then return no("partial", fs) end
return "ok=yes\\ncount=" .. count
"""
)

# filesystems that hold again what their snapshots do, all or none
ROLL_BACK = (
    NO
    + """
local targets = (...)["targets"]
local doomed, count = {}, 0
for fs, short in pairs(targets) do
  local wanted, of = fs .. "@" .. short, "fs=" .. fs
  if not zfs.exists(wanted) then return no("missing", wanted, of) end
  local oldest = zfs.get_prop(wanted, "createtxg")
  for snap in zfs.list.snapshots(fs) do
    local born = zfs.get_prop(snap, "createtxg")
    if born > oldest then
      for clone in zfs.list.clones(snap) do return no("clone", clone, of) end
      for tag in zfs.list.holds(snap) do return no("hold", snap .. " (" .. tag .. ")", of) end
      if zfs.check.destroy(snap) ~= 0 then return no("sending", snap, of) end
      count = count + 1
      doomed[count] = snap
    end
  end
  local e = zfs.check.rollback(fs)
  if e == EAGAIN then return no("again", fs, of) end
  if e == EEXIST then return no("bookmark", fs, of) end
  if e == EBUSY then return no("mounted", fs, of) end
  if e ~= 0 then return no("full", fs, of) end
end
for i = 1, count do
  if zfs.sync.destroy(doomed[i]) ~= 0 then return no("partial", doomed[i], "fs=" .. doomed[i]) end
end
for fs in pairs(targets) do
  if zfs.sync.rollback(fs) ~= 0 then return no("partial", fs, "fs=" .. fs) end
end
return "ok=yes\\ncount=" .. count
"""
)


def children(root: str) -> list[str] | None:
    """Return the names of what is directly below a dataset, in no order; None when the kernel would not say: then zfs(8) says why."""
    said = _ask(root, CHILDREN, {})
    return None if said is None else said.splitlines()


def look(root: str, wanted: Iterable[str], short: str = "") -> str | None:
    """Return what `zfs get -Hp` would print of a filesystem, or of one with a snapshot of a name, and guid and clones of that.

    None when the kernel would not say: then zfs(8) says why. Of many, zfs(8) is sooner: to a program each property of what is not
    mounted takes as long as to zfs(8) all of them.
    """
    names = list(wanted)
    asked: dict[bytes, object] = {
        b"native": {name.encode(): b"yes" for name in names if ":" not in name},
        b"marks": {name.encode(): b"yes" for name in names if ":" in name},
        b"short": short.encode(),
    }
    return _ask(root, LOOK, asked)


def _ask(root: str, program: str, asked: Mapping[bytes, object]) -> str | None:
    pool = root.split("/")[0]
    if not is_quick(pool):
        return None
    try:
        status, said = core.program(pool.encode(), program.encode(), {**asked, b"root": root.encode()}, changing=False)
    except OSError:
        return None
    return None if status else said.decode(errors="replace")


def is_quick(pool: str) -> bool:
    """Tell whether the kernel answers at once for a pool: of one that stands still it might never."""
    try:
        with open(f"/proc/spl/kstat/zfs/{pool}/state", encoding="ascii") as file:
            return file.read().strip() == "ONLINE"
    except OSError:
        return False


def facts(said: bytes) -> dict[str, str]:
    """Return what a program that destroys or rolls back says, by key: `ok`, or `why` not and `what` is in the way."""
    return dict(line.split("=", 1) for line in said.decode(errors="replace").splitlines() if "=" in line)
