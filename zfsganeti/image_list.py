"""`gnt-zfs image list` and `show`: what is known of the images of one node or of all, and of those that are not whole."""

from __future__ import annotations

from zfsganeti.colours import Bad, Odd
from zfsganeti.errors import ZfsGanetiError, human, one_line
from zfsganeti.holders import holders, named
from zfsganeti.terminal import day, left_out, print_json, say, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

    from zfsganeti.here import Here

SHOWN = (  # to programs, as the man page promises it
    *("name", "node", "datastore", "guid", "size", "used", "referenced", "clones", "source", "sha256", "format", "imported"),
    *("retired", "lendable", "deleted", "goes", "state"),
)


def list_images(here: Here, options: argparse.Namespace) -> int:
    found, problems = _asked(here) if options.all_nodes else ({here.node: here.call(here.node, "images")}, [])
    status = left_out(problems, here.ssconf.offline_nodes if options.all_nodes else [], "its images are")
    rows = sorted(
        ({**image, "node": node, "state": _state(image)} for node, images in found.items() for image in images),
        key=lambda row: (row["name"], row["node"]),
    )
    arrivals = _arrivals(here, None if options.all_nodes else [here.node], rows)
    if options.json:
        print_json([{key: row[key] for key in SHOWN} for row in [*rows, *({**NOT_WHOLE, **each} for each in arrivals)]])
        return status
    if not rows and not arrivals:
        say(f"There is no image {'on any node' if options.all_nodes else 'on this node'}: gnt-zfs image import makes one.")
    elif options.all_nodes:
        say(_table_of_nodes(rows, arrivals))
    else:
        say(_table_of_images(rows, arrivals))
    return status


# what programs are told of an image that is in no catalogue now, beside what is known of it
NOT_WHOLE: dict[str, Any] = {
    "guid": "", "size": 0, "referenced": 0, "clones": [], "sha256": "", "format": "", "imported": 0, "retired": False, "lendable": False,
    "deleted": 0, "goes": 0,
}  # fmt: skip


def everywhere(here: Here) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return the images of the nodes that answer, and a line for each other one, whether it is expected to or not."""
    found, problems = _asked(here)
    return found, [*problems, *(f"{node} is offline: its images are not shown" for node in here.ssconf.offline_nodes)]


def _asked(here: Here) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    answers = here.call_all("images")
    problems = [one_line(answer) for answer in answers.values() if isinstance(answer, ZfsGanetiError)]
    return {node: answer for node, answer in answers.items() if not isinstance(answer, ZfsGanetiError)}, problems


def _arrivals(here: Here, nodes: list[str] | None, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is not whole on the nodes, each with its `state`; how much there is in all, the nodes know that have it."""
    found = here.call_all("image-arrivals", nodes)
    arrivals = [{**each, "node": node} for node, all_of_it in found.items() if isinstance(all_of_it, list) for each in all_of_it]
    if arrivals and nodes is not None:
        rows = [image for images in everywhere(here)[0].values() for image in images]
    for arrival in arrivals:
        sizes = [row["referenced"] for row in rows if row["name"] == arrival["name"] and not arrival["source"]]
        arrival["state"] = _state_of_arrival(arrival, max(sizes, default=0))
    return sorted(arrivals, key=lambda arrival: (arrival["name"], arrival["node"]))


def _state_of_arrival(arrival: Mapping[str, Any], size: int) -> str:
    if arrival["owner"]:
        return f"used by {arrival['owner']} alone"
    if arrival["source"]:
        return "being made" if arrival["moving"] else Odd(f"cut, the same import goes on until {day(arrival['until'])}")
    far = f"{min(99, 100 * arrival['used'] // size)}%" if size else human(arrival["used"])
    return f"arriving, {far}" if arrival["moving"] else Odd(f"cut at {far}, image pull goes on until {day(arrival['until'])}")


def _table_of_images(rows: Sequence[Mapping[str, Any]], arrivals: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("IMAGE", "DATASTORE", "SIZE", "USED", "CLONES", "MADE (UTC)", "STATE", "SOURCE"),
        [
            (
                row["name"],
                row["datastore"] or "-",
                human(row["size"]),
                human(row["used"]),
                str(len(row["clones"])),
                day(row["imported"]),
                row["state"],
                row["source"],
            )
            for row in rows
        ]
        + [
            (
                each["name"],
                each["datastore"] or "-",
                "-",
                human(each["used"]) if each["used"] else "-",
                "-",
                "-",
                each["state"],
                each["source"],
            )
            for each in arrivals
        ],
        right=(2, 3, 4),
    )


def _state(row: Mapping[str, Any]) -> str:
    if row.get("stuck"):
        return Odd(f"cannot go: {row['stuck']}")
    if row["deleted"]:
        return Odd("goes with its clones" if row["clones"] else f"goes {day(row['goes'])}")
    return Odd("retired") if row["retired"] else "ready"


def _table_of_nodes(rows: Sequence[Mapping[str, Any]], arrivals: Sequence[Mapping[str, Any]]) -> str:
    """One line for each image of which all nodes have the same; two when nodes have different ones under one name."""
    same: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        same.setdefault((row["name"], row["guid"]), []).append(row)
    names = [name for name, _guid in same]
    lines = []
    for (name, guid), alike in same.items():
        nodes = ", ".join(row["node"].split(".")[0] for row in alike)
        differs = Bad("differs from another of this name") if names.count(name) > 1 else ""
        lines.append((name, human(alike[0]["size"]), str(sum(len(row["clones"]) for row in alike)), guid, nodes, differs))
    lines += [(each["name"], "-", "-", "-", each["node"].split(".")[0], each["state"]) for each in arrivals]
    return table(("IMAGE", "SIZE", "CLONES", "GUID", "NODES", ""), lines, right=(1, 2))


def rows_of(here: Here, name: str, datastore: str | None) -> list[dict[str, Any]]:
    """Return what this node says of the image of exactly this name, for each datastore that has it."""
    where = [place.datastore for place in holders(here, name, datastore)]
    rows = [row for row in here.call(here.node, "images") if row["name"] == name and row["datastore"] in where]
    return [{**row, "node": here.node, "state": _state(row)} for row in rows]


def having(here: Here, name: str, datastore: str | None) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return the nodes that have the image of exactly this name, with what they say of each of it, and who was not to be asked."""
    found, problems = everywhere(here)
    rows = {
        node: [image for image in images if image["name"] == name and datastore in (None, image["datastore"])]
        for node, images in found.items()
    }
    return {node: alike for node, alike in rows.items() if alike}, problems


def show(here: Here, options: argparse.Namespace) -> int:
    """With two datastores that have it, programs are shown that of the first."""
    rows = rows_of(here, named(here, options.name, options.datastore), options.datastore)
    if options.json:
        print_json({key: rows[0][key] for key in SHOWN})
        return 0
    for number, row in enumerate(rows):
        say(_facts(row) if number == 0 else f"\n{_facts(row)}")
    return 0


def _facts(row: Mapping[str, Any]) -> str:
    facts = {
        "image": row["name"],
        "state": row["state"],
        "size": human(row["size"]),
        "used": human(row["used"]),
        "made": f"{day(row['imported'])} UTC",
        "datastore": row["datastore"] or "-",
        "source": row["source"],
        "format": row["format"],
        "sha256": row["sha256"] or "-",
        "guid": row["guid"],
        "clones": ", ".join(row["clones"]) or "none",
    }
    return "\n".join(f"{name + ':':10} {value}" for name, value in facts.items())
