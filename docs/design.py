"""The picture of the design, docs/design.svg: `python3 -m docs.design` writes it, and a test holds that it was.

It has a background of its own, so that it can be read on a light and on a dark page.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

PICTURE = Path(__file__).parent / "design.svg"
WIDTH, HEIGHT = 1200, 800
INK, FAINT, PAPER = "#1f2933", "#52606d", "#fbfaf7"
FONT = "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, sans-serif"
FILLS = {  # what fills and what borders each kind of thing
    "node": ("#ffffff", "#9aa5b1"),
    "ganeti": ("#e4e7eb", "#616e7c"),
    "door": ("#dbeafe", "#1d4ed8"),
    "library": ("#dcfce7", "#15803d"),
    "pool": ("#fef3c7", "#b45309"),
    "image": ("#ede9fe", "#6d28d9"),
    "dataset": ("#ffffff", "#b45309"),
    "disk": ("#fde68a", "#b45309"),
    "trash": ("#fee2e2", "#b91c1c"),
}

HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"
 role="img" aria-labelledby="title desc" font-family="{FONT}">
<title id="title">The design of zfsganeti</title>
<desc id="desc">On every node Ganeti and the administrator come through three doors, hooks, an ExtStorage provider and the command
gnt-zfs, to one library. It keeps a dataset for each instance or disk on the node's own pool, made as clones of golden images; what is
removed goes to the trash and comes back. Images are pushed to other nodes, and instances move there as what they differ by.</desc>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
<path d="M0 0 10 5 0 10z" fill="{INK}"/></marker></defs>
<rect width="{WIDTH}" height="{HEIGHT}" rx="18" fill="{PAPER}" stroke="#cbd2d9"/>
"""


def word(x: float, y: float, text: str, *, size: int = 13, bold: bool = False, anchor: str = "middle", colour: str = INK) -> str:
    how = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}"' + (' font-weight="bold"' if bold else "")
    return f'<text x="{x:g}" y="{y:g}" {how}>{escape(text, quote=False)}</text>\n'


def area(kind: str, x: int, y: int, width: int, height: int, *, dashed: bool = False) -> str:
    fill, border = FILLS[kind]
    line = ' stroke-dasharray="6 4"' if dashed else ""
    place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
    return f'<rect {place} rx="8" fill="{fill}" stroke="{border}" stroke-width="1.5"{line}/>\n'


def box(kind: str, x: int, y: int, width: int, height: int, title: str, *lines: str) -> str:
    """Return an area with a title and lines in its middle."""
    middle, top = x + width / 2, y + (height - 19 * len(lines)) / 2 + 6
    said = word(middle, top, title, size=15, bold=True)
    return area(kind, x, y, width, height) + said + "".join(word(middle, top + 19 * at, line) for at, line in enumerate(lines, 1))


def arrow(x: int, y: int, to_x: int, to_y: int, *, dashed: bool = False) -> str:
    line = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<path d="M{x} {y}L{to_x} {to_y}" stroke="{INK}" stroke-width="1.8" fill="none" marker-end="url(#head)"{line}/>\n'


def note(x: int, y: int, *lines: str) -> str:
    return "".join(word(x, y + 16 * at, line, size=12, colour=FAINT) for at, line in enumerate(lines))


def dataset(x: int, y: int, width: int, title: str, kind: str, disks: tuple[str, ...], *, dashed: bool = False) -> str:
    """Return a dataset with the files of its disks."""
    each = (width - 16 - 8 * (len(disks) - 1)) / len(disks)
    drawn = area("dataset", x, y, width, 104, dashed=dashed)
    drawn += word(x + width / 2, y + 26, title, size=15, bold=True) + word(x + width / 2, y + 46, kind, size=12)
    for at, disk in enumerate(disks):
        left = x + 8 + at * (each + 8)
        drawn += area("disk", round(left), y + 60, round(each), 32) + word(left + each / 2, y + 81, disk, size=12)
    return drawn


def node(x: int, width: int, name: str, pool: str) -> str:
    """Return what every node has: its frame, and its pool."""
    drawn = area("node", x, 28, width, 748) + word(x + 20, 58, name, size=17, bold=True, anchor="start")
    drawn += area("pool", x + 20, 462, width - 40, 294)
    return drawn + word(x + 36, 488, f"its own pool, root {pool}", anchor="start", bold=True)


def first_node() -> str:
    drawn = node(24, 720, "node1", "zfs/vm")
    drawn += box("ganeti", 44, 76, 452, 72, "Ganeti, unpatched", "gnt-instance add, remove, rename, grow, export, …")
    drawn += box("ganeti", 516, 76, 208, 72, "the administrator", "sees, undoes, moves")
    drawn += box("door", 44, 200, 216, 92, "hooks", "-t file:", "a dataset per instance")
    drawn += box("door", 280, 200, 216, 92, "ExtStorage provider", "-t ext:", "a dataset per disk")
    drawn += box("door", 516, 200, 208, 92, "gnt-zfs", "images, snapshots, trash,", "moves, checks")
    rules = "plans that can be printed before they are done; touches only what is ours;"
    drawn += box("library", 44, 344, 680, 78, "one library", rules, "every verb can be repeated; no state but ZFS properties")
    drawn += "".join(arrow(x, 148, x, 198) + arrow(x, 292, x, 342) for x in (152, 388, 620)) + arrow(384, 422, 384, 460)
    drawn += box("image", 64, 502, 640, 58, "golden image debian-12", "a dataset with a snapshot, @golden: read-only, never half made")
    drawn += arrow(394, 560, 394, 630) + note(449, 600, "clone: at once") + arrow(609, 560, 609, 630) + note(637, 600, "clone")
    fill = box("trash", 64, 632, 150, 104, "trash", "for some days", "all there is", "to restore it")
    drawn += fill + dataset(304, 632, 180, "a volume", "a disk with -t ext", ("disk.raw",))
    drawn += dataset(514, 632, 190, "web1", "an instance with -t file", ("disk 0", "disk 1"))
    drawn += arrow(302, 664, 216, 664) + note(259, 656, "remove") + arrow(216, 704, 302, 704) + note(259, 722, "restore")
    return drawn


def second_node() -> str:
    drawn = node(868, 308, "node2", "tank/vm")
    drawn += box("ganeti", 888, 76, 268, 72, "Ganeti", "the same cluster")
    drawn += box("door", 888, 200, 268, 92, "the same doors", "the master asks its peers", "through the cluster's ssh")
    drawn += box("library", 888, 344, 268, 78, "the same library", "each node knows its own root")
    drawn += arrow(1022, 148, 1022, 198) + arrow(1022, 292, 1022, 342) + arrow(1022, 422, 1022, 460)
    drawn += box("image", 908, 502, 228, 58, "debian-12", "the same GUID")
    drawn += arrow(1022, 560, 1022, 630) + note(1062, 600, "clone")
    return drawn + dataset(908, 632, 228, "web1", "is a clone here, too", ("disk 0", "disk 1"), dashed=True)


def between() -> str:
    drawn = arrow(704, 531, 906, 531, dashed=True) + word(806, 521, "image push", bold=True) + note(806, 549, "once")
    drawn += arrow(704, 684, 906, 684, dashed=True) + word(806, 674, "gnt-zfs move", bold=True)
    return drawn + note(806, 702, "all while it runs,", "the last changes", "while it is down")


def picture() -> str:
    """Return the whole picture."""
    return HEAD + first_node() + second_node() + between() + "</svg>\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
