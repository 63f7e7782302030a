"""What a peer may ask of this node: a fixed set of verbs with validated names; requests and answers are JSON."""

from __future__ import annotations

import contextlib
import os
import sys

from zfsganeti.datasets import ABSORB_LIMIT, INTENT, TRASH, locked
from zfsganeti.errors import BadInput, Busy, Foreign, Missing, Unavailable, ZfsGanetiError, defect, of_system, one_line
from zfsganeti.ganeti import check_name
from zfsganeti.here import Here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zfsganeti.here import Verb
    from zfsganeti.volumes import Volumes


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value or len(value) > 255 or not value.isprintable():
        raise BadInput(f"request: {key} must be a text")
    return value


def _instance(request: dict[str, Any], key: str = "instance") -> str:
    return check_name(_text(request, key))


def _entry(request: dict[str, Any]) -> str:
    from zfsganeti.trash import parse_entry

    entry = _text(request, "entry")
    check_name(parse_entry(entry)[0])
    if "/" in entry:
        raise BadInput(f"trash entry {entry!r}: must not contain a slash")
    return entry


def _files(request: dict[str, Any]) -> list[str]:
    """Return file names of one directory."""
    files = request.get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) and name not in ("", ".", "..") and "/" not in name for name in files):
        raise BadInput("request: files must be a list of file names")
    return files


def _record(request: dict[str, Any]) -> dict[str, Any] | None:
    record = request.get("record")
    if record is not None and not isinstance(record, dict):
        raise BadInput("request: record must be an object")
    return record


def _report(here: Here, _request: dict[str, Any]) -> Any:
    from zfsganeti import check

    return check.report(here)


def _aside(here: Here, request: dict[str, Any]) -> Any:
    instance = _instance(request)
    if not here.has_root():
        return False
    with locked(instance):
        here.independent.finish_cut(instance)
        if request.get("used") is True:  # it is read before it goes
            from zfsganeti.moving import make_fit

            make_fit(here, instance)
        return here.store.put_aside(instance, _text(request, "intent"), _files(request), _record(request))


def _keep_record(here: Here, request: dict[str, Any]) -> Any:
    """The instance's dataset that a move has left here says how the instance is made, should there be one."""
    from zfsganeti.moving import keep_record

    instance, record = _instance(request), _record(request)
    if here.has_root() and record is not None:
        with locked(instance):
            keep_record(here, instance, record)


def _volumes(request: dict[str, Any]) -> list[str]:
    from zfsganeti.volumes import check_volume

    volumes = request.get("volumes")
    if not isinstance(volumes, list) or not all(isinstance(name, str) for name in volumes):
        raise BadInput("request: volumes must be a list of names")
    return [check_volume(name) for name in volumes]


def _keep_records(here: Here, request: dict[str, Any]) -> Any:
    """The volumes that are here say how their instance is made; return the others."""
    record, volumes, disks = _record(request) or {}, _volumes(request), request.get("disks")
    if not isinstance(disks, list) or len(disks) != len(volumes) or not all(isinstance(disk, int) for disk in disks):
        raise BadInput("request: disks must be a number for each volume")
    kept = set()
    for volume, disk in zip(volumes, disks, strict=True) if here.has_root() else ():
        with locked(volume):
            if here.place_of(volume).volumes.keep_record(volume, {**record, "disk": disk}):
                kept.add(volume)
    return [volume for volume in volumes if volume not in kept]


def _of_each_volume(does: Callable[[Volumes, str], object]) -> Verb:
    """Return a verb that does one thing with each of the volumes that a request names, alone on each."""

    def verb(here: Here, request: dict[str, Any]) -> Any:
        for volume in _volumes(request):
            with locked(volume):
                does(here.place_of(volume).volumes, volume)

    return verb


def _settle_volumes(here: Here, request: dict[str, Any]) -> Any:
    """Return for each volume, which is its instance's for good now, what sets aside room for it, '' where some is."""
    left = {}
    for volume in _volumes(request):
        with locked(volume):
            left[volume] = here.place_of(volume).volumes.settle(volume)
    return left


def _lacking_volumes(here: Here, request: dict[str, Any]) -> Any:
    """Return which volumes are not here; those that cannot be `used`, for a move has fenced them for another node, count if it is asked."""
    from zfsganeti.moving import is_fenced

    volumes, used = _volumes(request), request.get("used") is True
    if not here.has_root():
        return volumes
    known = {volume: here.place_of(volume).volumes for volume in volumes}
    found = {volume: place.find(volume) or place.take_copy(volume) for volume, place in known.items()}
    return [volume for volume, dataset in found.items() if dataset is None or (used and is_fenced(dataset))]


def _claim(here: Here, request: dict[str, Any]) -> Any:
    instance = _instance(request)
    with locked(instance):
        here.store.claim(instance, _files(request))


def _check_space(here: Here, request: dict[str, Any]) -> Any:
    asked = request.get("bytes")
    if not isinstance(asked, int) or asked < 0:
        raise BadInput("request: bytes must be a size")
    if here.has_root():
        _refuse_change(here, _instance(request))
        here.store.check_space(_instance(request), asked)


def _refuse_change(here: Here, instance: str) -> None:
    """No move is in the way of a change of the instance's disks; one of its primary, which the mover asks for, does not come here."""
    from zfsganeti.moving import refuse_change

    refuse_change(here, instance)


def _home(here: Here, request: dict[str, Any]) -> Any:
    instance = _instance(request)
    with locked(instance):
        dataset = here.store.find(instance)
        seen = request.get("intent")
        if dataset is not None and seen is not None and dataset.marks.get(INTENT, "") != seen:
            raise Busy(f"dataset {dataset.name}", "an operation has begun on it since it was looked at", "run the check again")
        here.store.bring_home(instance, dataset, _limit(request))


def _limit(request: dict[str, Any]) -> int | None:
    """Return how many bytes of plain files may be moved into a dataset while somebody waits."""
    return None if request.get("unlimited") is True else ABSORB_LIMIT


def _discard(here: Here, request: dict[str, Any]) -> Any:
    instance = _instance(request)
    with locked(instance):
        return here.trash.discard(instance, _record(request))


def _sweep(here: Here, request: dict[str, Any]) -> Any:
    instance = _instance(request)
    with locked(instance):
        here.store.sweep(instance)


def _finish_rename(here: Here, request: dict[str, Any]) -> Any:
    old, new = _instance(request, "old"), _instance(request, "new")
    if old == new:
        raise BadInput(f"instance {old}: is renamed to what it is called already")
    with locked(old), locked(new):
        here.store.finish_rename(old, new)


def _absorb(here: Here, request: dict[str, Any]) -> Any:
    instance = _instance(request)
    if not here.has_root():
        return
    with locked(instance):
        here.store.absorb(instance, _limit(request))


def _keep_disks(here: Here, request: dict[str, Any]) -> Any:
    instance = _instance(request)
    if not here.has_root():
        return None
    _refuse_change(here, instance)
    with contextlib.suppress(Foreign):  # made by hand before we came: it works as it did
        if here.store.find(instance) is not None:
            with locked(instance):
                return here.store.keep_disks(instance)
    return None


def _place_of_entry(here: Here, request: dict[str, Any]) -> Here:
    return here.place_of(f"{TRASH}/{_entry(request)}")


def _trash_reserve(here: Here, request: dict[str, Any]) -> Any:
    if "token" in request:
        _place_of_entry(here, request).trash.reserve(_entry(request), _text(request, "token"))
    else:
        _place_of_entry(here, request).trash.mark_restoring(_entry(request), _instance(request))


def _trash_release(here: Here, request: dict[str, Any]) -> Any:
    try:
        _place_of_entry(here, request).trash.unmark(_entry(request))
    except Missing:
        pass


def _trash_swap(here: Here, request: dict[str, Any]) -> Any:
    renames = request.get("renames")
    if not isinstance(renames, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) and name and "/" not in name for name in pair)
        for pair in renames
    ):
        raise BadInput("request: renames must be pairs of file names")
    instance = _instance(request)
    with locked(instance):
        here.trash.swap_in(_entry(request), instance, [tuple(pair) for pair in renames])


def _trash_record(here: Here, request: dict[str, Any]) -> Any:
    return _place_of_entry(here, request).trash.find(_entry(request)).record


def _trash_destroy(here: Here, request: dict[str, Any]) -> Any:
    return _place_of_entry(here, request).trash.destroy(_entry(request), strangers=request.get("strangers") is True)


def _trash_doomed(here: Here, _request: dict[str, Any]) -> Any:
    doomed = [entry for place in here.places() for entry in place.trash.doomed()] if here.has_root() else []
    return [{"entry": entry.entry, "used": entry.used} for entry in doomed]


def _trash_give_up(here: Here, request: dict[str, Any]) -> Any:
    only = request.get("entries")
    if only is not None and (not isinstance(only, list) or not all(isinstance(entry, str) for entry in only)):
        raise BadInput("request: entries must be a list of names")
    given_up = [place.trash.give_up(only) for place in here.places()]
    return {"gone": [entry for gone, _kept in given_up for entry in gone], "kept": [line for _gone, kept in given_up for line in kept]}


def _images(here: Here, _request: dict[str, Any]) -> Any:
    if not here.has_root():
        return []
    return [
        {
            **image.as_json(),
            "goes": place.images.goes_at(image) if image.deleted else 0,
            "stuck": place.images.stuck(image),
            "datastore": place.datastore,
        }
        for place in here.places()
        for image in place.images.all()
    ]


def _image_arrivals(here: Here, _request: dict[str, Any]) -> Any:
    """Return the images that are in no catalogue now: those that arrive, and those that an instance has for itself."""
    if not here.has_root():
        return []
    found = []
    for place in here.places():
        lent = [{"name": name, "owner": owner, "source": "", "used": 0} for name, owner in place.images.lent().items()]
        found += [{**each, "datastore": place.datastore} for each in (*place.images.arriving(), *lent)]
    return found


def _image_save(here: Here, request: dict[str, Any]) -> Any:
    from zfsganeti.disks import Disk

    return Disk(here, request).save(_text(request, "image"))


def _image_push(here: Here, request: dict[str, Any]) -> Any:
    """A peer has the image that it asked for."""
    from zfsganeti import transfer
    from zfsganeti.image import GOLDEN

    peer, place = _text(request, "node"), here.at(str(request.get("datastore", "")))
    image = place.images.resolve(_text(request, "image"), pull=False)  # a peer wants it, and this node need not get it
    if peer not in here.ssconf.nodes:
        raise BadInput(f"node {peer}: is no node of this cluster")
    into = str(request.get("into", place.datastore))
    result = transfer.push(place, [peer], image.dataset, GOLDEN, "image", image.name, marks=image.provenance, datastore=into)[peer]
    if isinstance(result, ZfsGanetiError):
        raise result


def _disk_swap(here: Here, request: dict[str, Any]) -> Any:
    from zfsganeti.disks import Disk

    Disk(here, request).make_swap()


def _disk_fill(here: Here, request: dict[str, Any]) -> Any:
    from zfsganeti.disks import Disk

    Disk(here, request).fill(_text(request, "directory"))


def _detach(here: Here, request: dict[str, Any]) -> Any:
    """The datasets that are clones are to become independent, and that goes on in the background; return which they are."""
    from zfsganeti.process import background
    from zfsganeti.volumes import check_volume

    datasets = request.get("datasets")
    if not isinstance(datasets, list) or not all(isinstance(name, str) for name in datasets):
        raise BadInput("request: datasets must be a list of names")
    wanted = [check_volume(name) for name in datasets if here.place_of(check_volume(name)).independent.want(name)]
    if wanted and request.get("wait") is not True:
        background("node", "detach-work")
    return wanted


def _detach_work(here: Here, request: dict[str, Any]) -> Any:
    """Without patience, in the background, one copies at a time on a node, and also what is wanted meanwhile."""
    patience = request.get("patience", 0)
    if not isinstance(patience, int) or patience < 0:
        raise BadInput("request: patience must be a number of seconds")
    if patience:
        return _work(here, patience)
    for place in here.places():
        place.independent.finish_all()  # which takes a moment, and is not to wait for anybody's copying
    done: dict[str, str] = {}
    with contextlib.ExitStack() as alone:
        try:
            alone.enter_context(locked(".copies", seconds=0))
        except Unavailable:
            return {}
        done = _work(here, 0)
        while any(dataset.short not in done for place in here.places() for dataset in place.independent.wanted()):
            done |= _work(here, 0)
    return done


def _work(here: Here, patience: int) -> dict[str, str]:
    return {name: left for place in here.places() for name, left in place.independent.work(patience).items()}


def _detach_finish(here: Here, _request: dict[str, Any]) -> Any:
    """Exchanges that were cut are done; what is still to be copied is, in the background."""
    from zfsganeti.process import background

    problems = [problem for place in here.places() for problem in place.independent.finish_all()]
    if any(place.independent.wanted() for place in here.places()):
        background("node", "detach-work")
    if problems:
        raise Unavailable("exchange", "; ".join(problems), "run the check again")


def _running(here: Here, _request: dict[str, Any]) -> Any:
    return sorted(busy_instances(here))


def _asked(here: Here, request: dict[str, Any]) -> Any:
    opcode = here.master.running(_text(request, "operation"), _instance(request)) or {}
    return {key: bool(opcode.get(key)) for key in ("dry_run", "no_install")}


def _write_variants(_here: Here, request: dict[str, Any]) -> Any:
    from zfsganeti.names import check_image
    from zfsganeti.variants import write

    names = request.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInput("request: names must be a list of images")
    return write([check_image(name) for name in names])


def busy_instances(here: Here) -> set[str]:
    """Return the instances that a running job works on, named as the administrator did: perhaps without a domain."""
    return {str(opcode["instance_name"]) for opcode in here.master.jobs() if opcode.get("instance_name")}


def _setup_facts(here: Here, request: dict[str, Any]) -> Any:
    from zfsganeti import setup

    return setup.node_facts(here, _text(request, "root"), _text(request, "directory"))


def _setup_apply(here: Here, request: dict[str, Any]) -> Any:
    from zfsganeti import setup

    setup.apply_step(here, _text(request, "action"), {key: str(value) for key, value in request.items() if key != "action"})


def _enter(room: str) -> Any:
    """Return a room, with all that it needs; most verbs have none of their own and need no importlib."""
    from importlib import import_module

    return import_module(f"zfsganeti.{room}")


def _listed(room: str, name: str) -> Verb:
    """Return a verb of a room that has a table of its own, which is imported when it is asked for."""

    def verb(here: Here, request: dict[str, Any]) -> Any:
        return _enter(room).VERBS[name](here, request)

    return verb


class _Of:
    """A verb that is a function of a room of its own, which is imported when it is asked for."""

    def __init__(self, room: str, name: str) -> None:
        self.room, self.name = room, name

    def __call__(self, here: Here, request: dict[str, Any]) -> Any:
        return getattr(_enter(self.room), self.name)(here, request)


def _make_ready(verb: str) -> None:
    """What a verb needs is read: it may be that its request comes later."""
    does = VERBS[verb]
    for room in ROOMS.get(verb, [does.room] if isinstance(does, _Of) else []):
        _enter(room)


def _move_send(here: Here, request: dict[str, Any]) -> Any:
    """What is told goes out line by line; when the end of who has asked is seen, or nothing of it for a minute, so is ours."""
    import json
    import select
    import threading

    from zfsganeti import departure
    from zfsganeti.here import LISTEN_SECONDS
    from zfsganeti.process import BEAT_SECONDS

    over = threading.Event()

    def tell(told: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"told": told}) + "\n")  # at once, or what two threads tell would mix
        sys.stdout.flush()

    def heed() -> None:
        with contextlib.suppress(OSError, ValueError):  # where there is nobody to be heard at all
            while select.select([0], [], [], LISTEN_SECONDS)[0] and os.read(0, 4096):
                pass
        os._exit(130)  # streams break off, and can be resumed

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            try:
                tell({})
            except OSError:
                os._exit(130)

    threading.Thread(target=heed, daemon=True).start()
    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        return departure.send(here, request, tell)
    finally:
        over.set()
        beating.join()


ADOPT = ("facts", "state", "copy", "changed", "finish", "halves", "unused", "verify", "drop", "loosen", "settle", "keep", "leftovers")
ROOMS = {"move-send": ["departure"], "receive": ["transfer", "arrival"]}  # of verbs that are not a function of one room
STREAMED = ("receive", "move-send")  # what follows the request's line is read by the verb itself
VERBS: dict[str, Verb] = {
    "report": _report,
    "aside": _aside,
    "home": _home,
    "claim": _claim,
    "keep-record": _keep_record,
    "keep-records": _keep_records,
    "claim-volumes": _of_each_volume(lambda volumes, name: volumes.claim(name)),
    "settle-volumes": _settle_volumes,
    "remove-volumes": _of_each_volume(lambda volumes, name: volumes.remove(name)),
    "keep-volumes": _of_each_volume(lambda volumes, name: volumes.keep(name)),
    "lacking-volumes": _lacking_volumes,
    "detach-volumes": _of_each_volume(lambda volumes, name: volumes.detach(name)),
    "check-space": _check_space,
    "discard": _discard,
    "sweep": _sweep,
    "finish-rename": _finish_rename,
    "absorb": _absorb,
    "keep-disks": _keep_disks,
    "trash-reserve": _trash_reserve,
    "trash-release": _trash_release,
    "trash-swap": _trash_swap,
    "trash-record": _trash_record,
    "trash-destroy": _trash_destroy,
    "trash-doomed": _trash_doomed,
    "trash-give-up": _trash_give_up,
    "images": _images,
    "image-arrivals": _image_arrivals,
    "image-change": _Of("holders", "change"),
    "image-save": _image_save,
    "image-push": _image_push,
    "disk-swap": _disk_swap,
    "disk-fill": _disk_fill,
    "detach": _detach,
    "detach-work": _detach_work,
    "detach-finish": _detach_finish,
    "running": _running,
    "asked": _asked,
    "write-variants": _write_variants,
    "setup-facts": _setup_facts,
    "setup-apply": _setup_apply,
    "follow-cluster": _Of("upkeep", "follow"),
    **{f"snapshot-{name}": _Of("snapshots", name) for name in ("create", "histories", "delete", "clone")},
    "snapshot-drop-clone": lambda here, request: _place_of_entry(here, request).trash.drop_clone(_entry(request)),
    "rollback-plan": _Of("rollback", "ask"),
    "rollback": _Of("rollback", "execute"),
    "rollback-finish": _Of("rollback", "finish"),
    **{name: _listed("transfer", name) for name in ("receive", "receive-state", "receive-done", "receive-abort")},
    "move-send": _move_send,
    **{f"move-{name}": _Of("departure", name) for name in ("begin", "abort", "leave")},
    **{f"move-{name}": _Of("fence", name) for name in ("fence", "check")},
    **{f"move-{name}": _Of("arrival", name) for name in ("fit", "ready", "unready", "land", "drop")},
    "move-lift": _Of("fence", "unfence"),
    "move-source": _Of("departure", "facts"),
    "move-target": _Of("arrival", "facts"),
    **{f"adopt-{name}": _listed("intake", f"adopt-{name}") for name in ADOPT},
}


def answer(here: Here, verb: str, read: Callable[[], str]) -> dict[str, Any]:
    """Return the answer to a peer's request, or the error it ended with, as JSON can carry it."""
    from zfsganeti.node import read_request

    try:
        if verb not in VERBS:
            raise BadInput(f"verb {verb!r}: there are {', '.join(VERBS)}")
        _make_ready(verb)
        return {"answer": VERBS[verb](here, read_request(read()))}
    except ZfsGanetiError as error:
        return {"error": one_line(error), "code": error.exit_code}
    except OSError as error:
        known = of_system(error)
        return {"error": one_line(known), "code": known.exit_code}
    except Exception as error:  # a request of another shape, or a defect
        return {"error": defect(error), "code": 1}
