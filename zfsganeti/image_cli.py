"""`gnt-zfs image` and `gnt-zfs disk`: the catalogue of golden images, and what is done with one disk."""

from __future__ import annotations

import os

from zfsganeti.errors import BadInput, Missing, Refused, Unavailable, ZfsGanetiError, human, one_line
from zfsganeti.here import Here
from zfsganeti.holders import holders, named, places, to_use
from zfsganeti.image import GOLDEN
from zfsganeti.image_list import everywhere, having, list_images, rows_of, show
from zfsganeti.names import check_image, means, meant
from zfsganeti.parsing import mib
from zfsganeti.terminal import Meter, command, complain, confirm, day, group, must_be_master, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from zfsganeti.image import Image

    Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # what nodes say of their images of one name

POLL_SECONDS = 1.0
EITHER = "NAME or NAME:VERSION; where none is called NAME alone, its newest version"
SAVE_SECONDS = 86400.0  # a copy of a whole disk; the peer ends it when it fails


def image_parser(commands: Any) -> None:
    example = "gnt-zfs image import debian-12 https://example.com/debian-12.qcow2"
    verbs = group(commands, "image", "golden images: disks to begin from", "Golden images, of which disks are instant clones.", example)
    made = command(verbs, "import", _import, "make an image of a file or URL, on this node", example)
    made.add_argument("name", help="NAME or NAME:VERSION, such as debian-12:2026-11-01")
    made.add_argument(
        "source",
        help="a file, or a URL of http, https, ftp or file: raw, qcow2, vmdk, vdi or vhdx, perhaps compressed with gz, xz, zst or bz2",
    )
    made.add_argument("--sha256", default="", metavar="SUM", help="what the source's checksum must be")
    made.add_argument(
        "--format", default="", choices=["raw", "qcow2", "vmdk", "vdi", "vhdx"], help="what the source is (default: it says so itself)"
    )
    made.add_argument("--datastore", default="", metavar="NAME", help="one of the datastores of this node (default: the root)")
    made = command(verbs, "list", list_images, "show the images of this node", "gnt-zfs image list --all-nodes")
    made.add_argument("--all-nodes", action="store_true", help="who has which")
    made.add_argument("--json", action="store_true", help="for programs")
    made = command(verbs, "show", show, "show all that is known of one image", "gnt-zfs image show debian-12")
    made.add_argument("name", help=EITHER)
    _datastore(made, "the one in this datastore (default: in each that has it)")
    made.add_argument("--json", action="store_true", help="for programs")
    made = _one(verbs, "rename", _rename, "give an image another name", "gnt-zfs image rename debian-12 debian-12:2026-11-01")
    made.add_argument("new", help="its new name, NAME or NAME:VERSION")
    made = _one(verbs, "push", _push, "send an image from this node to others", "gnt-zfs image push debian-12 node2 node3")
    made.add_argument("node", nargs="*", default=[], help="to these (default: every other node)")
    made.add_argument("--bwlimit", type=mib, default=0, metavar="MIB", help="at most so many MiB a second to each node")
    _datastore(made, "that of this datastore, into the other nodes' of that name (default: the newest of all)")
    made = _one(verbs, "pull", _pull, "bring an image to this node from one that has it", "gnt-zfs image pull debian-12")
    _datastore(made, "into this datastore (default: as where it comes from)")
    made = _one(
        verbs, "copy", _copy, "bring an image from one datastore of this node to another", "gnt-zfs image copy debian-12 --datastore ssd"
    )
    made.add_argument("--datastore", default="", metavar="NAME", help="the datastore that it is to be in as well (default: the root)")
    _one(verbs, "retire", _retire, "make no more disks of an image, which stays", "gnt-zfs image retire debian-12:2026-10-01")
    _one(verbs, "restore", _restore, "take back that an image was retired or deleted", "gnt-zfs image restore debian-12:2026-10-01")
    made = _one(verbs, "lend", _lend, "allow one instance to use the image itself, with use=persistent", "gnt-zfs image lend data")
    made.add_argument("--off", action="store_true", help="allow it no longer")
    _datastore(made, "only that of this datastore (default: of each that has it)")
    made = _one(
        verbs,
        "delete",
        _delete,
        "let an image go, after its last clone and the days of the trash; one that is not whole, at once",
        "gnt-zfs image delete debian-11",
    )
    made.add_argument(
        "--now", action="store_true", help="do not keep it for the days of the trash, not even when its last clone goes later"
    )
    made.add_argument("--with-snapshots", action="store_true", help="snapshots that somebody took of it go with it")
    made.add_argument("-y", "--yes", action="store_true", help="do not ask")
    made = _one(
        verbs, "verify", _verify, "compare an image with the checksum of what it held when it was made", "gnt-zfs image verify debian-12"
    )
    _datastore(made, "that of this datastore (default: of each that has it)")
    made = command(verbs, "export", _export, "write an image to a file", "gnt-zfs image export debian-12 /srv/debian-12.qcow2")
    made.add_argument("name", help=EITHER)
    made.add_argument("file", help="the file to make; one that ends in .qcow2 is made as qcow2, any other as raw")
    made.add_argument("--format", default="", choices=["raw", "qcow2"], help="what the file is to be")
    _datastore(made, "that of this datastore (default: of the first that has it)")
    made = command(verbs, "save", _save, "make an image of an instance's disk", "gnt-zfs image save web1/0 web:2026-11-01")
    made.add_argument("disk", metavar="INSTANCE[/DISK]", help="the disk, the first without a number; the instance may be running")
    made.add_argument("name", help="NAME or NAME:VERSION")


def disk_parser(commands: Any) -> None:
    text = "What is done with one disk of a stopped instance."
    verbs = group(commands, "disk", "format a disk of an instance", text, "gnt-zfs disk swap web1/1")
    swap = command(verbs, "swap", _swap, "format a disk as swap", "gnt-zfs disk swap web1/1")
    fill = command(verbs, "fill", _fill, "make an ext4 filesystem with what is in a directory", "gnt-zfs disk fill web1/1 /srv/rescue")
    for made in (swap, fill):
        made.add_argument("disk", metavar="INSTANCE/DISK", help="the disk of a stopped instance, such as web1/1")
        made.add_argument("-y", "--yes", action="store_true", help="do not ask")
    fill.add_argument("directory", help="a directory of the instance's node")


def detach_parser(commands: Any) -> None:
    text = "make the disks of an instance independent of the image that they are clones of"
    made = command(commands, "detach", _detach, text, "gnt-zfs detach web1")
    made.add_argument("instance", help="whose disks")
    made.add_argument("--wait", action="store_true", help="come back when all is copied that can be copied now")


def _one(verbs: Any, name: str, function: Any, text: str, example: str) -> argparse.ArgumentParser:
    made = command(verbs, name, function, text, example)
    made.add_argument("name", help=EITHER if name == "verify" else "which image")
    if name in CHANGES:
        made.add_argument("--all-nodes", action="store_true", help="on every node that has it (default: on this one)")
        _datastore(made, "only in this datastore (default: in each that has it)")
    return made


def _datastore(made: argparse.ArgumentParser, text: str) -> None:
    """One of a node's roots can be chosen, '' being the first."""
    made.add_argument("--datastore", metavar="NAME", help=text)


# making


def _import(here: Here, options: argparse.Namespace) -> int:
    with Meter(options.name) as meter:
        image = here.at(options.datastore).images.import_from(
            options.name, options.source, sha256=options.sha256, kind=options.format, progress=meter
        )
    say(f"{image.name} is an image on {here.node}: {human(image.size)}, of which {human(image.referenced)} are used, from {image.format}.")
    _publish(here)
    _say_use(image, options.datastore)
    return 0


def _publish(here: Here) -> None:
    """gnt-instance add knows the images that there are now; a node that cannot be told learns it from the watcher."""
    from zfsganeti import variants

    for problem in variants.publish(here):
        complain(problem)


def _say_use(image: Image, datastore: str) -> None:
    mib = -(-image.size >> 20)
    where, system = (f",datastore={datastore}", "noop") if datastore else ("", f"zfs-image+{image.name}")
    say(f"Now, for example: gnt-instance add -t ext --disk 0:size={mib}M,provider=zfs,image={image.name}{where} -o {system} ...")


def _save(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import disks

    must_be_master(here)
    instance, disk = disks.locate(here.master.instances(), options.disk)
    say(f"Copying disk {disk['disk']} of {instance.name} on {instance.primary}.")
    made = here.call(instance.primary, "image-save", seconds=SAVE_SECONDS, image=options.name, **disk)
    say(f"{made['name']} is an image on {instance.primary}: {human(made['size'])}, of which {human(made['referenced'])} are used.")
    _publish(here)
    return 0


# reading


def _verify(here: Here, options: argparse.Namespace) -> int:
    """Of each datastore that has it: one may have lost what another one has."""
    from zfsganeti import exports

    name, status = named(here, options.name, options.datastore), 0
    found = holders(here, name, options.datastore)
    for place in found:
        which, there = _in_which(place.datastore, found), f" --datastore {place.datastore or repr('')}" if len(found) > 1 else ""
        try:
            with Meter(name) as meter:
                exports.verify(place.images, name, meter, there)
            say(f"{which}{name} holds what it held when it was made.")
        except ZfsGanetiError as error:
            if len(found) == 1:
                raise
            complain(f"{which}{one_line(error)}")
            status = error.exit_code
    return status


def _in_which(datastore: str, all_of_them: Sequence[object]) -> str:
    """Return what is said before what is true of one of several datastores, nothing when there is but one."""
    return f"{datastore or 'the root'}: " if len(all_of_them) > 1 else ""


def _export(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import exports

    kind = options.format or ("qcow2" if options.file.endswith(".qcow2") else "raw")
    name = named(here, options.name, options.datastore)
    with Meter(name) as meter:
        exports.export(holders(here, name, options.datastore)[0].images, name, os.path.abspath(options.file), kind, meter)
    say(f"{options.file} holds {name} as {kind}.")
    return 0


# other nodes


def _push(here: Here, options: argparse.Namespace) -> int:
    """Each node is told of by itself: one that fails keeps none from getting it."""
    from zfsganeti import transfer

    here, image = to_use(here, options.name, options.datastore)
    online = [node for node in here.ssconf.nodes if node not in here.ssconf.offline_nodes]
    peers = list(dict.fromkeys(_full(node, online) for node in options.node)) or [node for node in online if node != here.node]
    if not peers:
        say(f"There is no other node online: {image.name} was sent to none.")
        return 0
    with Meter(image.name) as meter:
        results = transfer.push(
            here,
            peers,
            image.dataset,
            GOLDEN,
            "image",
            image.name,
            marks=image.provenance,
            progress=_together(meter, peers),
            limit=options.bwlimit,
        )
    status = 0
    for peer, result in results.items():
        if isinstance(result, ZfsGanetiError):
            complain(f"{peer}: {one_line(result).removeprefix(f'{peer}: ')}")
            status = result.exit_code
        else:
            say(f"{peer} has {image.name}{f', {human(result.moved)} sent' if result.moved else ' already'}.")
    return status


def _together(meter: Callable[[str, int, int], None], peers: Sequence[str]) -> Callable[[str, int, int], None]:
    """Return the progress of pushes to several nodes at once, as one line for all of them."""
    from threading import Lock

    what = f"to {', '.join(peer.split('.')[0] for peer in peers)}" if len(peers) < 4 else f"to {len(peers)} nodes"
    known: dict[str, tuple[int, int]] = {}
    alone = Lock()

    def told(peer: str, done: int, size: int) -> None:
        with alone:
            known[peer] = done, size
            meter(what, sum(done for done, _size in known.values()), sum(size for _done, size in known.values()))

    return told


def _full(node: str, known: Sequence[str]) -> str:
    found = [name for name in known if name == node or name.split(".")[0] == node]
    if len(found) != 1:
        raise Missing(f"node {node}", meant(node, known, f"online are {', '.join(known)}"))
    return found[0]


def _pull(here: Here, options: argparse.Namespace) -> int:
    found, problems = everywhere(here)
    here.at(options.datastore or "").root  # noqa: B018 - it is looked for, and must be there
    mine = found.pop(here.node, [])
    for problem in problems:
        complain(problem)
    source = next_source(found, options.name)
    beside = next_source({here.node: [row for row in mine if options.datastore not in (None, row["datastore"])]}, options.name)
    if beside is not None and (source is None or beside[1]["imported"] >= source[1]["imported"]):
        return _copy(here, options)  # which is in another datastore here
    if source is None:
        known = [image["name"] for images in found.values() for image in images]
        raise Missing(f"image {options.name} on any other node that answers", meant(options.name, known, "gnt-zfs image import makes one"))
    peer, image = source
    into = image["datastore"] if options.datastore is None else options.datastore
    request = {"image": image["name"], "node": here.node, "datastore": image["datastore"], "into": into}
    _wait(here, image, lambda: here.call(peer, "image-push", seconds=SAVE_SECONDS, **request))
    _publish(here)
    say(f"{image['name']} is on {here.node} now, from {peer}.")
    return 0


def _copy(here: Here, options: argparse.Namespace) -> int:
    """The newest that the name means, of this node's other datastores."""
    from zfsganeti import transfer
    from zfsganeti.image import newest

    others = [image for place in here.places() if place.datastore != options.datastore for image in place.images.all()]
    image = newest(others, options.name)
    if image is None:
        near = meant(options.name, [image.name for image in others], "gnt-zfs image list shows what is here")
        raise Missing(f"image {options.name} in any other datastore of this node", near)
    with Meter(image.name) as meter:
        made = transfer.copy_image(here, image, options.datastore, meter)
    say(f"{image.name} is in {here.at(options.datastore).root.name} {'now' if made else 'already'}.")
    return 0


def _wait(here: Here, image: Mapping[str, Any], does: Callable[[], object]) -> None:
    """It is done; meanwhile one sees how much of the image has come. Who is interrupted does not wait for the peer to end it."""
    from threading import Thread

    failed: list[Exception] = []

    def work() -> None:
        try:
            does()
        except Exception as error:
            failed.append(error)

    worker = Thread(target=work, daemon=True)
    worker.start()
    with Meter(image["name"]) as meter:
        worker.join(POLL_SECONDS)
        while worker.is_alive():
            for arrival in here.call(here.node, "image-arrivals"):
                if arrival["name"] == image["name"]:
                    meter("receive", min(arrival["used"], image["referenced"]), image["referenced"])
            worker.join(POLL_SECONDS)
    if failed:
        raise failed[0]


def next_source(found: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return a node and its image that a name means, the newest where it has no version; None without one."""
    usable = [(node, image) for node, images in found.items() for image in images if not image["retired"] and means(name, image["name"])]
    return max(usable, key=lambda each: (int(each[1]["imported"]), each[1]["name"], each[0])) if usable else None


# changing


# what can be done on all nodes at once, and of whom it is not done yet
CHANGES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "retire": lambda row: not row["retired"],
    "restore": lambda row: bool(row["retired"]),
    "delete": lambda row: not row["deleted"],
    "rename": lambda _row: True,
}


def _change(here: Here, options: argparse.Namespace, change: str, told: Callable[[Any], str], **request: Any) -> int:
    """The image is changed here, or wherever it is; each node is told of by itself, and one that fails keeps none from it."""
    rows, problems = having(here, options.name, options.datastore) if options.all_nodes else ({here.node: []}, [])
    if options.all_nodes and not rows:
        raise Missing(f"image {options.name} on any node that answers", "; ".join(problems))
    for problem in problems:
        complain(problem)
    status = 3 if problems else 0
    request.update(image=options.name, change=change, datastore=options.datastore)
    for node, answer in here.call_all("image-change", list(rows), **request).items():
        status = _tell(f"{node}: " if options.all_nodes else "", node, answer, told) or status
    _publish(here)
    if not status and not options.all_nodes:
        _say_others(here, options, change)
    return status


def _tell(before: str, node: str, answer: Any, told: Callable[[Any], str]) -> int:
    """Say what has become of the image in each datastore of a node; return the exit status."""
    if isinstance(answer, ZfsGanetiError):
        complain(f"{before}{one_line(answer).removeprefix(f'{node}: ')}" if before else one_line(answer))
        return answer.exit_code
    status = 0
    for row in answer:
        which = before + _in_which(row["datastore"], answer)
        if "error" in row:
            complain(f"{which}{row['error']}")
            status = int(row["code"])
        else:
            say(f"{which}{told(row)}")
    return status


def _say_others(here: Here, options: argparse.Namespace, change: str) -> None:
    found, at_once = having(here, options.name, options.datastore)[0], True
    if change == "rename":
        new = having(here, options.new, options.datastore)[0]
        both = _having_both(found, new)
        at_once = not both and not _having_another(found, new)  # or it would be refused
        found = {node: rows for node, rows in found.items() if node not in both}
    others = [node.split(".")[0] for node, rows in found.items() if node != here.node and any(CHANGES[change](row) for row in rows)]
    if others:
        has, where = ("has", others[0]) if len(others) == 1 else ("have", "each of them")
        does = "--all-nodes does it there" if at_once else f"on {where} does it"
        say(f"{', '.join(others)} {has} {options.name} as it was: {_words(options, change)} {does}, too.")


def _words(options: argparse.Namespace, change: str) -> str:
    """Return the command that changes the image like this."""
    new = f" {options.new}" if change == "rename" else ""
    return f"gnt-zfs image {change} {options.name}{new}{_there(options)}"


def _there(options: argparse.Namespace) -> str:
    """Return the option that leads to the same datastore again."""
    return f" --datastore {options.datastore or repr('')}" if options.datastore is not None else ""


def _rename(here: Here, options: argparse.Namespace) -> int:
    if options.all_nodes:
        _check_new_name(here, options)
    return _change(here, options, "rename", lambda _image: f"{options.name} is called {options.new} now.", new=options.new)


def _check_new_name(here: Here, options: argparse.Namespace) -> None:
    """Each node that has the image can rename it, and who has the new name already has got it by an earlier rename."""
    old, new = (having(here, name, options.datastore)[0] for name in (options.name, check_image(options.new)))
    if both := _having_both(old, new):
        raise Refused(f"image {options.new}", f"exists already on {', '.join(both)}", "choose another name")
    if another := _having_another(old, new):
        way_out = f"choose another name, or {_words(options, 'rename')} on each node by itself"
        raise Refused(f"image {options.new}", f"is another one than {options.name} on {', '.join(another)}", way_out)


def _having_both(old: Rows, new: Rows) -> list[str]:
    """Return the nodes that have an image of each name in one datastore."""
    where = {node: {row["datastore"] for row in rows} for node, rows in old.items()}
    return [node for node, rows in new.items() if any(row["datastore"] in where.get(node, ()) for row in rows)]


def _having_another(old: Rows, new: Rows) -> list[str]:
    """Return the nodes whose image of the new name is none of those that have the old one, which was therefore not renamed."""
    # a GUID goes along with a push, but each node may have imported the same for itself
    known = {row[fact] for rows in old.values() for row in rows for fact in ("guid", "sha256") if row[fact]}
    return [node for node, rows in new.items() if old and not all({row["guid"], row["sha256"]} & known for row in rows)]


def _retire(here: Here, options: argparse.Namespace) -> int:
    words = f"gnt-zfs image restore {options.name}{_there(options)}{' --all-nodes' if options.all_nodes else ''}"
    return _change(here, options, "retire", lambda _image: f"No more disks are made of {options.name}; {words} takes that back.")


def _restore(here: Here, options: argparse.Namespace) -> int:
    return _change(here, options, "restore", lambda _image: f"Disks can be made of {options.name} again.")


def _lend(here: Here, options: argparse.Namespace) -> int:
    found = holders(here, options.name, options.datastore)
    may = f"can{'not' if options.off else ''} be used by one instance itself{'' if options.off else ', which may change it'}"
    for place in found:
        place.images.set_lendable(options.name, not options.off)
        say(f"{_in_which(place.datastore, found)}{options.name} {may}.")
    return 0


def _half_made(here: Here, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what has come here of an image that is not whole, nothing where there is one of that name."""
    if any(image.name == options.name for place in places(here, options.datastore) for image in place.images.all()):
        return []
    found = here.call(here.node, "image-arrivals")
    return [each for each in found if each["name"] == options.name and not each["owner"] and options.datastore in (None, each["datastore"])]


def _drop(here: Here, options: argparse.Namespace, half: Sequence[Mapping[str, Any]]) -> int:
    what = f"what has come of {options.name}"
    if not options.yes and not confirm(f"Destroy {what} on {here.node} ({human(sum(each['used'] for each in half))}) for good?"):
        say("Nothing was changed.")
        return 1
    here.call(here.node, "image-change", image=options.name, change="drop", datastore=options.datastore)
    say(f"{what[0].upper()}{what[1:]} is gone.")
    return 0


def _delete(here: Here, options: argparse.Namespace) -> int:
    half = [] if options.all_nodes else _half_made(here, options)
    if half:
        return _drop(here, options, half)
    if (options.now or options.with_snapshots) and not options.yes:
        here_alone = None if options.all_nodes else {here.node: rows_of(here, options.name, options.datastore)}
        rows = here_alone or having(here, options.name, options.datastore)[0]
        doomed = [
            f"{node} ({_in_which(row['datastore'], alike)}{human(row['used'])})"
            for node, alike in rows.items()
            for row in alike
            if not row["clones"]
        ]
        also = " and its snapshots" if options.with_snapshots else ""
        if doomed and not confirm(f"Destroy {options.name}{also} on {', '.join(doomed)} for good?"):
            say("Nothing was changed.")
            return 1
    return _change(here, options, "delete", lambda image: _deleted(options, image), now=options.now, with_snapshots=options.with_snapshots)


def _deleted(options: argparse.Namespace, image: Mapping[str, Any]) -> str:
    name = options.name
    if image["gone"]:
        return f"{name} is gone."
    said = f"No more disks are made of {name}, and it goes on {day(image['goes'])}"
    if image["clones"]:
        count = len(image["clones"])
        clones = f"{count} clone{'s' if count != 1 else ''}, such as {image['clones'][0]}"
        when = f"after {'them' if count != 1 else 'it'}, not before {day(image['goes'])}"
        said = f"{name} has {clones}: it goes {when if image['goes'] > image['deleted'] else 'as soon as the last of them has gone'}"
    return f"{said}; gnt-zfs image restore {name}{_there(options)} takes that back."


# one disk


def _swap(here: Here, options: argparse.Namespace) -> int:
    return _format(here, options, "disk-swap", "swap")


def _fill(here: Here, options: argparse.Namespace) -> int:
    return _format(here, options, "disk-fill", f"a filesystem with what is in {options.directory}", directory=options.directory)


def _format(here: Here, options: argparse.Namespace, verb: str, what: str, **request: Any) -> int:
    from zfsganeti import disks

    must_be_master(here)
    if "/" not in options.disk:
        raise BadInput(f"{options.disk}: say which disk, such as {options.disk}/1")
    instance, disk = disks.locate(here.master.instances(), options.disk)
    if instance.admin_state == "up":
        raise Unavailable(instance.name, "is running", f"gnt-instance stop {instance.name}")
    title = f"disk {disk['disk']} of {instance.name} on {instance.primary}"
    if not options.yes and not confirm(f"Make {title} {what}? What it holds stays in a snapshot for the days of the trash."):
        say("Nothing was changed.")
        return 1
    here.call(instance.primary, verb, seconds=SAVE_SECONDS, **disk, **request)
    say(f"{title[0].upper()}{title[1:]} is {what} now.")
    return 0


def _detach(here: Here, options: argparse.Namespace) -> int:
    from zfsganeti import disks

    must_be_master(here)
    instance = disks.find_instance(here.master.instances(), options.instance)
    names = disks.datasets_of(instance)
    if not names:
        raise Refused(instance.name, "has no disk that is ours")
    wanted = here.call(instance.primary, "detach", datasets=names, wait=options.wait)
    if not wanted:
        say(f"{instance.name} shares blocks with nothing: there is nothing to do.")
        return 0
    if not options.wait:
        say(f"{', '.join(wanted)} on {instance.primary}: being copied in the background; the rest is done when {instance.name} is stopped.")
        return 0
    before = _replaced(here, instance.primary, wanted)
    said = here.call(instance.primary, "detach-work", seconds=SAVE_SECONDS, patience=int(SAVE_SECONDS))
    left = {name: why for name, why in said.items() if name in wanted and why}
    for name, why in left.items():
        complain(f"{instance.primary}: {name}: {why}")
    if not left:
        say(f"{instance.name} shares blocks with nothing any more.")
    for entry in _replaced(here, instance.primary, wanted) - before:
        way_out = f"gnt-zfs trash empty {entry} --with-snapshots destroys it"
        say(f"What it was is in the trash with its snapshots, and shares blocks still: {way_out}.")
    return 6 if left else 0


def _replaced(here: Here, node: str, names: Sequence[str]) -> set[str]:
    """Return the entries of a node's trash that were removed under one of these names."""
    return {each["entry"] for each in here.call(node, "report")["trash"] if each["entry"].rpartition(":")[0] in names}
