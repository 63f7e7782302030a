"""Which Ganeti event makes us do what.

Every hook of the cluster comes here, most of them for instances that are not ours: those leave before anything but os and
two leaf rooms is imported. Ganeti shows people a node's UUID and flattens newlines, so a hook says one line that begins
with its node's name; it hides what a succeeding hook prints.
"""

from __future__ import annotations

import os

from zfsganeti import ganeti
from zfsganeti.errors import Unavailable, ZfsGanetiError, defect, of_system, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from zfsganeti.here import Here, Verb

    Handler = Callable[[Here, ganeti.Event], None]

FILE = "file"
SHADOW = "adopt-"  # how the names of instances begin that adoption.py makes
VOLUME_HOOKS = (
    "instance-remove-pre",
    "instance-remove-post",
    "instance-export-pre",
    "instance-export-post",
    "instance-recreate-disks-pre",
    "instance-failover-pre",
    "instance-migrate-pre",
    "instance-start-pre",
    "instance-reinstall-pre",
)
NODE_HOOKS = ("cluster-verify-post", "cluster-rename-post", "watcher")


def concerns_us(environ: Mapping[str, str]) -> bool:
    """Tell from the environment alone whether a hook can be for one of our instances; this must import nothing."""
    if FILE in ganeti.storage_kinds(environ):
        return True
    name = ganeti.hook_name(environ)
    return name in NODE_HOOKS or (name in VOLUME_HOOKS and ganeti.has_volumes(environ))


def main() -> int:
    """Return the exit status for the hook that Ganeti calls with this environment."""
    try:
        if not concerns_us(os.environ):
            return 0
        said = handle(dict(os.environ))
    except ZfsGanetiError as error:
        said = one_line(error)
    except OSError as error:
        said = one_line(of_system(error))
    except Exception as error:  # a defect of ours: the operation must not go on blindly, and one line must do
        said = defect(error)
    if said:
        print(f"{os.uname().nodename.split('.')[0]}: {said}")
    return 1 if said else 0


def _verbs() -> dict[str, Verb]:
    from zfsganeti.answer import VERBS

    return VERBS


def handle(environ: dict[str, str]) -> str:
    """Do what the event asks for on this node; return '' or the line that says what is wrong."""
    from zfsganeti.here import Here

    here = Here(_verbs)
    name = ganeti.hook_name(environ)
    if name in NODE_HOOKS:
        from zfsganeti import upkeep

        does = {"watcher": upkeep.watch, "cluster-verify-post": upkeep.verify}
        return does[name](here) if name in does else upkeep.follow_cluster(here, environ)
    event = ganeti.Event(environ)
    handlers = VOLUME_HANDLERS if event.volumes and FILE not in (event.template, event.new_template) else HANDLERS
    for handler in handlers.get(name, ()):
        handler(here, event)
    return ""


# who and where


def _elsewhere(here: Here, event: ganeti.Event) -> bool:
    """Tell whether the instance's disks are not ours: on a node without root, or below another directory of its own."""
    return _elsewhere_by_paths(here, event) or not here.has_root()


def _elsewhere_by_paths(here: Here, event: ganeti.Event) -> bool:
    home = f"{here.ssconf.storage_directory}/{event.instance}"
    paths = event.disk_paths
    return bool(paths) and not any(os.path.dirname(path) == home for path in paths)


def _left_out(here: Here, event: ganeti.Event) -> bool:
    """Tell whether what Ganeti is about to unlink or rename is not ours; Refused when it is, and the cluster has another directory now."""
    if not _elsewhere_by_paths(here, event):
        return False
    directory = os.path.dirname(os.path.dirname(event.disk_paths[0]))
    if directory != here.ssconf.storage_directory and _is_root_of_ours(here, directory, event.instance):
        from zfsganeti.errors import Refused

        why = f"its disks are in {directory}, and the cluster's file storage directory is {here.ssconf.storage_directory or 'none'}"
        raise Refused(event.instance, why, f"gnt-cluster modify --file-storage-dir={directory}")
    return True


def _is_root_of_ours(here: Here, directory: str, instance: str) -> bool:
    """Tell whether a directory is a root, by the configuration or by the mark that it, or the instance's dataset in it, bears."""
    from zfsganeti.datasets import CLUSTER

    root = here.zfs.mounted_at(directory)
    if not root or root == here.config.root:
        return bool(root)
    known = [here.zfs.get(name, marks=(CLUSTER,)) for name in (root, f"{root}/{instance}")]
    return any(dataset is not None and dataset.marks.get(CLUSTER) == here.ssconf.cluster for dataset in known)


def _acts(here: Here, event: ganeti.Event, node: str) -> bool:
    return here.node == node and not _elsewhere(here, event)


def _opcode(here: Here, event: ganeti.Event) -> dict[str, Any]:
    """Return the running operation as it was asked for; {} on a node that holds no job queue."""
    return here.master.running(event.operation, event.instance) or {}


def _is_dry_run(here: Here, event: ganeti.Event) -> bool:
    return bool(_opcode(here, event).get("dry_run"))


def _leaves_file(event: ganeti.Event) -> bool:
    return event.template == FILE and event.new_template not in ("", FILE)


def _becomes_file(event: ganeti.Event) -> bool:
    return event.template != FILE and event.new_template == FILE


# add


def _refuse_other_directory(here: Here, event: ganeti.Event) -> None:
    """On the master: --file-storage-dir would put the disks outside the instance's dataset, and no other node can see the option."""
    from zfsganeti.errors import BadInput

    if here.node == event.master and _opcode(here, event).get("file_storage_dir") and here.has_root():
        raise BadInput(f"{event.instance}: --file-storage-dir puts its disks outside its dataset: leave the option out")


def _add_pre(here: Here, event: ganeti.Event) -> None:
    _refuse_other_directory(here, event)
    if not _acts(here, event, event.primary):
        return
    from zfsganeti.datasets import locked

    with locked(event.instance):
        asked = _asked_of_add(here, event)
        origin = "" if asked.get("no_install") else _origin(here, event, dry_run=bool(asked.get("dry_run")))
        here.store.admit(event.instance, event.sizes, create=not asked.get("dry_run"), fresh=True, origin=origin)


def _asked_of_add(here: Here, event: ganeti.Event) -> dict[str, Any]:
    """Return what of an add the environment does not tell; the master is asked when an image is at stake and this node does not know."""
    known = _opcode(here, event)
    if known or not event.image:
        return known
    try:
        return dict(here.call(event.master, "asked", operation=event.operation, instance=event.instance))
    except ZfsGanetiError:
        return {}  # a clone that is made for nothing counts as an empty dataset


def _origin(here: Here, event: ganeti.Event, *, dry_run: bool) -> str:
    """Return the snapshot that a new instance's dataset is to be a clone of, '' without an image; one that cannot be had vetoes."""
    if not event.image or here.store.is_being_restored(event.instance):
        return ""
    image = here.images.resolve(event.image, pull=not dry_run)
    if event.sizes:
        here.images.check_fits(image, event.sizes[0])
    return image.snapshot if event.sizes else ""


def _add_post(here: Here, event: ganeti.Event) -> None:
    """What the pre hook made is what Ganeti used; a pre hook that was not heard leaves a plain directory."""
    if _acts(here, event, event.primary):
        from zfsganeti.datasets import locked

        with locked(event.instance):
            here.store.absorb(event.instance)
            if event.image:
                from zfsganeti.install import Installer

                Installer(here.store).drop_unused(event.instance)


# remove


def _aside_by_master(here: Here, event: ganeti.Event, intent: str, *, used: bool = False) -> None:
    """The instance's dataset is aside on its primary, with what is needed to make the instance again; an offline node is left alone.

    Where Ganeti is to use what it holds before it goes, it is vetoed as a start is where there are newer disks elsewhere.
    """
    if here.node != event.master or event.primary in here.ssconf.offline_nodes or _is_dry_run(here, event):
        return
    if not event.disk_paths or _left_out(here, event):
        return
    instance = here.master.instances().get(event.instance)
    record = instance.record() if instance else None
    asked = {"instance": event.instance, "intent": intent, "files": _files(event), "record": record, **({"used": True} if used else {})}
    if not _call_primary(here, event, "aside", **asked):
        # the configuration points at a node without it, as while a move has not ended: wherever it is, it goes into the trash
        here.call_all("keep-record", instance=event.instance, record=record)


def _call_primary(here: Here, event: ganeti.Event, verb: str, **request: Any) -> Any:
    """The primary has done it, its answer is returned; when it cannot be asked, the way out for a node that is lost is said."""
    try:
        return here.call(event.primary, verb, **request)
    except Unavailable as error:
        lost = f"if {event.primary} is lost, gnt-node modify --offline=yes {event.primary} lets this go on without it"
        raise Unavailable(error.what, error.why, f"{error.way_out}; {lost}" if error.way_out else lost) from error


def _files(event: ganeti.Event) -> list[str]:
    """Return the names of the instance's disk files."""
    return [os.path.basename(path) for path in event.disk_paths]


def _remove_pre(here: Here, event: ganeti.Event) -> None:
    _aside_by_master(here, event, "remove")


def _discard(here: Here, event: ganeti.Event) -> None:
    from zfsganeti.datasets import locked

    with locked(event.instance):
        here.trash.discard(event.instance)


def _remove_post(here: Here, event: ganeti.Event) -> None:
    if _acts(here, event, event.primary):
        _discard(here, event)


def _export_pre(here: Here, event: ganeti.Event) -> None:
    if event.export_removes:
        _aside_by_master(here, event, "remove", used=True)
    else:
        _make_ready(here, event)


def _export_post(here: Here, event: ganeti.Event) -> None:
    if event.export_removes and _acts(here, event, event.primary):
        _discard(here, event)


# rename


def _rename_pre(here: Here, event: ganeti.Event) -> None:
    if here.node != event.primary or _left_out(here, event) or not here.has_root():
        return
    from zfsganeti.datasets import locked
    from zfsganeti.moving import refuse_change

    with locked(event.instance):
        refuse_change(here, event.instance)  # what a move has yet to bring, or to give up, would be nobody's under the new name
        here.store.refuse_taken(event.new_name)
        if not _is_dry_run(here, event):
            here.independent.finish_cut(event.instance)
            here.store.put_aside(event.instance, f"rename {event.new_name}", _files(event))


def _rename_post(here: Here, event: ganeti.Event) -> None:
    if event.new_name == event.instance:
        return  # which Ganeti allows, and who took one lock twice would wait for himself
    if here.node == event.primary and here.has_root():
        from zfsganeti.datasets import locked

        with locked(event.instance), locked(event.new_name):
            here.store.finish_rename(event.instance, event.new_name)


# move


def _move_pre(here: Here, event: ganeti.Event) -> None:
    from zfsganeti.datasets import locked
    from zfsganeti.moving import make_fit

    if here.node == event.target and here.has_root():
        with locked(event.instance):
            here.store.admit(event.instance, event.sizes, create=not _is_dry_run(here, event), fresh=True)
    elif _acts(here, event, event.primary) and not _is_dry_run(here, event):
        with locked(event.instance):
            here.independent.finish_cut(event.instance)
            make_fit(here, event.instance)
            here.store.put_aside(event.instance, f"move {event.target}", _files(event))


def _leave_old_primary(here: Here, event: ganeti.Event) -> None:
    """The instance lives on another node now: the dataset it left here goes to the trash."""
    if event.post_primary != event.primary and _acts(here, event, event.primary):
        _discard(here, event)


# disks


def _make_ready(here: Here, event: ganeti.Event) -> None:
    """The instance's dataset is at home before anything uses its files; one that is not ours, or a plain directory, is left alone."""
    if _acts(here, event, event.primary):
        from zfsganeti.datasets import MOVE, ROLLBACK, locked
        from zfsganeti.errors import Foreign

        with locked(event.instance):
            try:
                here.independent.finish_cut(event.instance)
                dataset = here.store.find(event.instance)
                if dataset is None or ROLLBACK in dataset.marks:
                    _refuse_half(here, event.instance)
            except Foreign:
                return  # made by hand before we came: it works as it did
            if dataset is None or MOVE in dataset.marks:
                if event.hook == "instance-modify-pre":
                    return  # as the mover does, which knows what it does
                from zfsganeti.fence import end

                end(here, event.instance, [event.instance])
                dataset = here.store.find(event.instance)
            if dataset is not None:
                here.store.bring_home(event.instance, dataset)


def _refuse_copy(here: Here, event: ganeti.Event) -> None:
    """On the primary: no guest writes to the copy that an adoption is making."""
    if here.node == event.primary and event.instance.startswith(SHADOW) and here.has_root():
        from zfsganeti.adoption import refuse_start

        refuse_start(here, event.instance, event.volumes or [event.instance])


def _refuse_half(here: Here, instance: str) -> None:
    """No rollback of the instance was interrupted, or it is said how it is finished."""
    from zfsganeti.rollback_plan import refuse, state_of

    state = state_of(here, instance, [instance])
    if state is not None:
        refuse(state)


def _refuse_elsewhere_too(here: Here, event: ganeti.Event) -> None:
    """On the master: disks that another node has are not made anew, empty, which would make those look like what is left over."""
    if here.node != event.master or _left_out(here, event):
        return
    from zfsganeti.errors import Refused, Unavailable

    for node, said in here.answers("move-target", datasets={event.instance: ""}).items():
        placed = said["placed"].get(event.instance)
        if node != event.primary and said["problem"] and not said.get("rootless"):
            raise Unavailable(node, said["problem"])
        if node != event.primary and placed is not None and placed["ours"]:
            way_out = f"gnt-instance modify --new-primary={node} {event.instance} if it is the one"
            raise Refused(f"dataset {placed['dataset']}", f"exists on {node}", way_out)


def _recreate_pre(here: Here, event: ganeti.Event) -> None:
    _refuse_elsewhere_too(here, event)
    if _acts(here, event, event.primary) and not _is_dry_run(here, event):
        from zfsganeti.datasets import locked
        from zfsganeti.files import plain_files

        with locked(event.instance):
            if here.store.find(event.instance) is not None or not plain_files(here.store.home(event.instance)):
                here.store.admit(event.instance, [])


def _recreate_post(here: Here, event: ganeti.Event) -> None:
    """No hook runs on a new primary: the master has it turn the plain directory that Ganeti made there into a dataset."""
    _leave_old_primary(here, event)
    if here.node == event.master and event.post_primary != event.primary:
        here.call(event.post_primary, "absorb", instance=event.instance)


def _modify_pre(here: Here, event: ganeti.Event) -> None:
    from zfsganeti.datasets import locked

    if _becomes_file(event):
        _refuse_other_directory(here, event)
        if here.node == event.primary and here.has_root():
            with locked(event.instance):
                here.store.admit(event.instance, event.sizes, create=not _is_dry_run(here, event))
        return
    if _leaves_file(event):
        _aside_by_master(here, event, f"convert {event.new_template}", used=True)
        return
    _make_ready(here, event)
    if here.node == event.master and not _left_out(here, event):
        _change_disks(here, event, _opcode(here, event))


def _change_disks(here: Here, event: ganeti.Event, opcode: dict[str, Any]) -> None:
    """On the master, which alone is sure to know what was asked for: there is room, and what Ganeti will unlink is kept."""
    added, removed = _added_bytes(opcode), _removed_disks(opcode)
    if added:
        here.call(event.primary, "check-space", instance=event.instance, bytes=added)
    if removed and not opcode.get("dry_run"):
        # first, since the primary's own pre hook, which runs at the same time, may bring home what is put aside here
        here.call(event.primary, "keep-disks", instance=event.instance)
        if removed >= len(event.sizes) and not _brings_disks(opcode):
            _aside_by_master(here, event, "empty")


def _keep_files(here: Here, event: ganeti.Event) -> None:
    """On the master: what the files hold is in a snapshot before an operating system is installed over it."""
    if here.node == event.master and not _left_out(here, event) and not _is_dry_run(here, event):
        here.call(event.primary, "keep-disks", instance=event.instance)


def _brings_disks(opcode: Mapping[str, Any]) -> bool:
    """Tell whether an instance-modify adds or attaches a disk, so that the dataset is needed at home."""
    changes = opcode.get("disks") or []
    return any(isinstance(change, list) and change and change[0] in ("add", "attach") for change in changes)


def _removed_disks(opcode: Mapping[str, Any]) -> int:
    """Return how many disks an instance-modify is about to remove."""
    changes = opcode.get("disks") or []
    return sum(1 for change in changes if isinstance(change, list) and change and change[0] == "remove")


def _added_bytes(opcode: Mapping[str, Any]) -> int:
    """Return the size of the disks an instance-modify is about to add, as far as this node knows."""
    changes = opcode.get("disks") or []
    added = [change[-1] for change in changes if isinstance(change, list) and change and change[0] == "add"]
    return sum(size << 20 for size in (disk.get("size") for disk in added if isinstance(disk, dict)) if isinstance(size, int))


def _modify_post(here: Here, event: ganeti.Event) -> None:
    gone = _leaves_file(event) or (event.template == FILE and event.post_disk_count == 0 and event.sizes)
    if _becomes_file(event) and here.node == event.primary and here.has_root():
        from zfsganeti.datasets import locked

        with locked(event.instance):
            here.store.absorb(event.instance)
    elif gone and _acts(here, event, event.primary):
        _discard(here, event)


def _grow_pre(here: Here, event: ganeti.Event) -> None:
    _make_ready(here, event)
    if _acts(here, event, event.primary):
        here.store.check_space(event.instance, event.growth)


HANDLERS: dict[str, tuple[Handler, ...]] = {
    "instance-add-pre": (_add_pre,),
    "instance-add-post": (_add_post,),
    "instance-remove-pre": (_remove_pre,),
    "instance-remove-post": (_remove_post,),
    "instance-export-pre": (_export_pre,),
    "instance-export-post": (_export_post,),
    "instance-rename-pre": (_rename_pre,),
    "instance-rename-post": (_rename_post,),
    "instance-move-pre": (_move_pre,),
    "instance-move-post": (_leave_old_primary,),
    "instance-recreate-disks-pre": (_recreate_pre,),
    "instance-recreate-disks-post": (_recreate_post,),
    "instance-modify-pre": (_modify_pre,),
    "instance-modify-post": (_modify_post,),
    "disk-grow-pre": (_grow_pre,),
    "instance-start-pre": (_refuse_copy, _make_ready),
    "instance-reboot-pre": (_refuse_copy, _make_ready),
    "instance-reinstall-pre": (_make_ready, _keep_files),
}


# instances with volumes: ExtStorage's own verbs do the work, but know neither instances nor other nodes


def _keep_records(here: Here, event: ganeti.Event) -> None:
    """Each volume says how its instance was made, before Ganeti has it put into the trash; an offline node is left alone."""
    if here.node != event.master or event.primary in here.ssconf.offline_nodes or _is_dry_run(here, event):
        return
    instance = here.master.instances().get(event.instance)
    if instance is not None:
        disks = [index for index, disk in enumerate(instance.disks) if disk.volume]  # others may be of another provider
        request: dict[str, Any] = {
            "volumes": [instance.disks[index].volume for index in disks],
            "disks": disks,
            "record": instance.record(),
        }
        if _call_primary(here, event, "keep-records", **request):
            # the configuration points at a node without them: wherever they are, a repair puts them into the trash
            here.call_all("keep-records", **request)


def _export_volumes_pre(here: Here, event: ganeti.Event) -> None:
    if event.export_removes:
        _keep_records(here, event)


def _export_volumes_post(here: Here, event: ganeti.Event) -> None:
    if event.export_removes:
        _discard_volumes(here, event)


def _refuse_recreated(here: Here, event: ganeti.Event) -> None:
    """On the master: a volume that exists on any node is not made a second time, empty, under the same name."""
    if here.node != event.master:
        return
    from zfsganeti.errors import Refused

    chosen = [change[0] if isinstance(change, list) else change for change in _opcode(here, event).get("disks") or []]
    instance = here.master.instances().get(event.instance)
    disks = instance.disks if instance else []
    wanted = [disk.volume for index, disk in enumerate(disks) if disk.volume and (not chosen or index in chosen)]
    for node, lacking in here.answers("lacking-volumes", volumes=wanted).items():
        there = [volume for volume in wanted if volume not in lacking]
        if there:
            elsewhere = f"gnt-instance modify --new-primary={node} {event.instance}"
            way_out = f"{elsewhere} if it is the one" if node != event.primary else "remove the disk or the instance instead"
            raise Refused(f"volume {there[0]}", f"exists already on {node}", way_out)


def _discard_volumes(here: Here, event: ganeti.Event) -> None:
    """Ganeti takes a volume whose attach fails for one that is gone, and never has it removed."""
    if here.node == event.primary and here.has_root():
        here.call(here.node, "remove-volumes", volumes=event.volumes)


def _refuse_elsewhere(here: Here, event: ganeti.Event) -> None:
    """Ganeti believes that every node can use the volumes: only one that holds all of them may become primary."""
    if event.cleans_up or here.node not in (event.master, event.new_primary):
        return
    from zfsganeti.errors import Refused

    way_out = f"gnt-zfs move {event.instance} {event.new_primary} moves it"
    try:
        lacking = here.call(event.new_primary, "lacking-volumes", volumes=event.volumes, used=True)
    except ZfsGanetiError as error:
        raise Refused(event.instance, f"whether {event.new_primary} has its disks is not known ({one_line(error)})", way_out) from error
    if lacking:
        raise Refused(event.instance, f"its disks are on {event.primary} and not on {event.new_primary}", way_out)
    if event.primary not in here.ssconf.offline_nodes:
        _refuse_twins(here, event)


def _refuse_twins(here: Here, event: ganeti.Event) -> None:
    """The primary has no disks of the instance that could be used as those of the new one: which are newer nobody knows then."""
    from zfsganeti.errors import Refused

    lacking = _call_primary(here, event, "lacking-volumes", volumes=event.volumes, used=True)
    if set(event.volumes) - set(lacking):
        why = f"its disks are on {event.primary} as well as on {event.new_primary}"
        raise Refused(event.instance, why, "compare them, gnt-zfs check says how those go that are not wanted")


def _keep_volumes(here: Here, event: ganeti.Event) -> None:
    """On the master: what the volumes hold is in a snapshot before an operating system is installed over it."""
    if here.node == event.master and not _is_dry_run(here, event):
        here.call(event.primary, "keep-volumes", volumes=event.volumes)


def _volumes_ready(here: Here, event: ganeti.Event) -> None:
    if here.node == event.primary and here.has_root():
        from zfsganeti.fence import alone, end

        with alone(event.volumes):
            end(here, event.instance, event.volumes)


VOLUME_HANDLERS: dict[str, tuple[Handler, ...]] = {
    "instance-remove-pre": (_keep_records,),
    "instance-remove-post": (_discard_volumes,),
    "instance-export-pre": (_export_volumes_pre,),
    "instance-export-post": (_export_volumes_post,),
    "instance-recreate-disks-pre": (_refuse_recreated,),
    "instance-failover-pre": (_refuse_elsewhere,),
    "instance-migrate-pre": (_refuse_elsewhere,),
    "instance-start-pre": (_refuse_copy, _volumes_ready),
    "instance-reinstall-pre": (_keep_volumes,),
}
