"""Channel programs: what the kernel destroys or rolls back in one go, after it has looked whether it may.

Programs are texts in Lua, given strings and answering with one (zfs-program(8)); all that one changes is in one transaction group.
None only looks: each run is written to the pool's history, whole, which would soon hold nothing else. None sets properties:
`zfs.sync.inherit` of one that is not set stops the whole pool for good (seen with 2.3.9: a panic in dsl_props_set_sync).
"""

from __future__ import annotations

NO = """
local function no(why, what, more)
  local plain = string.gsub(what, "%c", "?") -- the tag of a hold may be anything, also a line that says ok
  return "why=" .. why .. "\\nwhat=" .. plain .. "\\n" .. (more or "")
end
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


def facts(said: bytes) -> dict[str, str]:
    """Return what a program says, by key: `ok`, which only the first line can say, or `why` not and `what` is in the way."""
    found: dict[str, str] = {}
    for line in said.decode(errors="replace").split("\n"):
        key, equals, value = line.partition("=")
        if equals and (key != "ok" or not found):
            found.setdefault(key, value)
    return found
