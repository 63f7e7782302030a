"""What a golden image is: a dataset below `.images` with a read-only disk, its snapshot `@golden`, and where it came from.

An image is made under `.images/.partial` and renamed when it is whole, so that none is ever seen half-done. Volumes and
instances are clones of its snapshot, which therefore cannot go before they do: an image that is deleted is retired first,
makes no more clones, and goes when the last of them has gone.
"""

from __future__ import annotations

import contextlib
import os
import time

from zfsganeti import clock
from zfsganeti.datasets import (
    CLUSTER,
    DISK,
    IMAGE,
    IMAGES,
    PARTIAL,
    SIZE,
    locked,
)
from zfsganeti.errors import (
    BadInput,
    Busy,
    CommandFailed,
    Foreign,
    Full,
    Missing,
    NoSpace,
    Refused,
    Unavailable,
    ZfsGanetiError,
    human,
    of_system,
)
from zfsganeti.files import checksum_asked, content_digest, copy_sparse
from zfsganeti.image import (
    CHECKSUM,
    CONTENT,
    DELETED,
    FORMAT,
    GOLDEN,
    IMAGE_MARKS,
    IMPORTED,
    RETIRED,
    SOURCE,
    Image,
    newest,
)
from zfsganeti.lending import Lending
from zfsganeti.names import check_dataset, check_image, check_image_fits, family, means, meant
from zfsganeti.roots import make_parent
from zfsganeti.zfs import Dataset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from zfsganeti.datasets import Store
    from zfsganeti.streams import Streams

    Progress = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all or 0

DAY = 86400
PARTIAL_SECONDS = DAY  # how long after the last that was done for it a half-made image can be gone on with
MARK_SECONDS = 3600  # who is at work on one says so this often
DOWNLOAD = "download"
LOOK = "..look"  # after an image's name, where none can end so: a clone of a snapshot that is being copied
PROBE_BYTES = 64 << 20  # what is written before one looks again whether there is room
LOOK_SECONDS = 1  # who looks whether anybody is at work on an image holds its lock for a moment
LOCK_SECONDS = 30  # what others do with an image by name takes a moment; what makes one is not waited for


def quiet(_what: str, _done: int, _all: int) -> None:
    """Nobody watches."""


def lock_name(name: str) -> str:
    """Return the lock that whoever makes, changes, sends or receives an image holds."""
    return f".image.{check_image(name)}"


def _kept_until(partial: Dataset) -> int:
    """Return until when a half-made image can be gone on with, in seconds since 1970."""
    return max(partial.creation, int(partial.marks.get(IMPORTED) or 0)) + PARTIAL_SECONDS


class Images(Lending):
    """The catalogue of one node's root."""

    def __init__(self, store: Store, streams: Streams | None = None) -> None:
        self.store, self.zfs, self.streams = store, store.zfs, streams
        self.root = f"{store.root.name}/{IMAGES}"

    # looking

    def dataset(self, name: str) -> str:
        return check_dataset(f"{self.root}/{check_image(name)}")

    def all(self) -> list[Image]:
        """Return the images of this cluster on this node, by name; what is half-made or not ours is none."""
        try:
            return self._found(self.root, 1)
        except Missing:  # nothing was ever imported here
            return []

    def _found(self, name: str, depth: int) -> list[Image]:
        found = self.zfs.with_snapshot(name, GOLDEN, ("guid", "clones"), depth=depth, marks=IMAGE_MARKS)
        return [Image(dataset, golden) for dataset, golden in found if self._is_ours(dataset)]

    def _is_ours(self, dataset: Dataset) -> bool:
        return dataset.marks.get(CLUSTER) == self.store.cluster and IMAGE in dataset.marks

    def find(self, name: str) -> Image | None:
        """Return the image of exactly this name; Foreign when the name is taken by something that is no image of ours."""
        dataset = self.zfs.get(self.dataset(name), marks=IMAGE_MARKS)
        if dataset is None:
            return None
        found = self._found(dataset.name, 0)
        if not found:
            raise Foreign(f"dataset {dataset.name}", "is no image of this cluster", "rename it or choose another name")
        return found[0]

    def must(self, name: str) -> Image:
        image = self.find(name)
        if image is None:
            alike = [other.name for other in self.all() if means(name, other.name)]
            self.check_not_lent(name) if alike else self.check_none_lent(name)
            near = meant(name, [other.name for other in self.all()], "gnt-zfs image list shows what is here")
            raise Missing(f"image {name} on this node", f"there is {', '.join(alike)}" if alike else near)
        return image

    def resolve(self, name: str, *, pull: bool = True) -> Image:
        """Return the image that a disk is to be made of; Missing says how it comes here."""
        image = self._exactly(check_image(name))
        if image is not None:
            return image
        known = self.all()
        image = newest(known, name)
        if image is None:
            self.check_none_lent(name)
            unused = [other.name for other in known if means(name, other.name)]
            if unused:
                raise Refused(f"image {unused[-1]}", "is retired", f"gnt-zfs image restore {unused[-1]} lets disks be made of it")
            other = "; from another datastore gnt-zfs image copy does" if self.store.config.datastores else ""
            way_out = f"gnt-zfs image push {name} on a node that has it brings it here{other}"
            near = f"{meant(name, [each.name for each in known])} {way_out}".strip()
            raise Missing(f"image {name} on this node", self._on_its_way(name) or (self._pulled(name) if pull else "") or near)
        return image

    def _exactly(self, name: str) -> Image | None:
        """Return the image of a name with a version, which means no other: the rest, which may be many, need not be read."""
        if family(name) == name:
            return None
        try:
            return newest(self._found(self.dataset(name), 0), name)
        except Missing:
            return None

    def _pulled(self, name: str) -> str:
        """The image is on its way here if the administrator wants that; return what to tell then."""
        if not self.store.config.image_pull:
            return ""
        from zfsganeti.process import background

        known = self.store.config.datastores.items()
        mine = next((each for each, root in known if root == self.store.root.name), "")  # none is the root, which is to be named as well
        background("image", "pull", name, "--datastore", mine)
        pull = f"gnt-zfs image pull {name}{f' --datastore {mine}' if mine else ''}"
        way_out = f"gnt-zfs image list on this node shows how far it is, {pull} what is in the way"
        return f"it is being brought here now if another node has it: {way_out}"

    def _on_its_way(self, name: str) -> str:
        """Return what to tell of an image that is being made or received here at this moment, '' when none is."""
        come = [found["used"] for found in self.arriving() if found["moving"] and means(name, found["name"])]
        return f"it is arriving, {human(come[0])} of it are here: gnt-zfs image list on this node shows when it is ready" if come else ""

    def arriving(self) -> list[dict[str, Any]]:
        """Return what is known of each image that is not whole: `used` is what has come of it, `moving` tells whether more is coming."""
        parent = f"{self.root}/{PARTIAL}"
        try:
            found = self.zfs.datasets(parent, depth=1, marks=IMAGE_MARKS)
        except Missing:
            return []
        ours = [dataset for dataset in found if dataset.marks.get(CLUSTER) == self.store.cluster and not dataset.short.endswith(LOOK)]
        return [
            {
                "name": dataset.short,
                "used": dataset.used,
                "source": dataset.marks.get(SOURCE, ""),  # none yet for what is received
                "owner": "",
                "moving": self._is_worked_on(dataset.short),
                "until": _kept_until(dataset),
            }
            for dataset in ours
            if dataset.name != parent
        ]

    def _is_worked_on(self, name: str) -> bool:
        try:
            with self._alone(name, 0):
                return False
        except Unavailable:
            return True

    # making

    def make(self, name: str, source: str, fill: Callable[[str], Mapping[str, str]]) -> Image:
        """The image exists with what `fill` put into the disk of the directory that it is given, or nothing is seen of it.

        `fill` returns what is known of the image. When the source cannot be reached, or there is no room for what was downloaded,
        the half-made one is kept for a day, so that the same import goes on from there.
        """
        with self._alone(check_image_fits(name, self.store.root.name)):
            self.check_not_lent(name)
            if self.find(name) is not None:
                raise Refused(f"image {name}", "exists already", f"choose another version, such as {family(name)}:{self._today()}")
            partial = self._begin(name, source)
            try:
                known = fill(self._partial_home(name))
                return self._finish(name, partial, known)
            except (Unavailable, KeyboardInterrupt):
                self._keep(name)
                raise
            except OSError as error:
                why = of_system(error, f"image {name}")
                self._keep(name) if self._is_worth_room(name, why) else self._drop(name)
                raise why from error
            except Exception as error:
                self._keep(name) if self._is_worth_room(name, error) else self._drop(name)
                raise

    def _is_worth_room(self, name: str, error: Exception) -> bool:
        """Tell whether a download has to be kept that only room is lacking for: of what is read from a file here nothing is lost."""
        return isinstance(error, Full | NoSpace) and os.path.exists(f"{self._partial_home(name)}/{DOWNLOAD}.json")

    def _worked(self) -> dict[str, str]:
        """Return what says of a half-made image that somebody is at work on it at this moment."""
        return {IMPORTED: f"{self.store.now():.0f}"}

    def _keep(self, name: str) -> None:
        """The half-made image can be gone on with for a day from now."""
        with contextlib.suppress(ZfsGanetiError):  # what went wrong before says more
            self.zfs.set(self._partial(name), self._worked())
        self._leave(name)

    def _today(self) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(self.store.now()))

    def _alone(self, name: str, seconds: float = LOOK_SECONDS) -> contextlib.AbstractContextManager[None]:
        return locked(lock_name(name), seconds=seconds, what=f"image {name}")

    def _changed(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self._alone(name, LOCK_SECONDS)

    def _used(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Others may read the image or make clones of it at the same time, but nobody changes it."""
        return locked(lock_name(name), seconds=LOCK_SECONDS, what=f"image {name}", shared=True)

    def _partial(self, name: str) -> str:
        check_image(name.removesuffix(LOOK))
        return check_dataset(f"{self.root}/{PARTIAL}/{name}")

    def _partial_home(self, name: str) -> str:
        return f"{self.store.root.path}/{IMAGES}/{PARTIAL}/{name}"

    def _begin(self, name: str, source: str) -> str:
        """An empty dataset for the image is mounted, or that of an interrupted import of the same source."""
        self.store.check_pool()
        self.store.check_spare(f"image {name}", PROBE_BYTES)
        for parent in (self.root, f"{self.root}/{PARTIAL}"):
            make_parent(self.zfs, parent)
        partial, marks, worked = self._partial(name), {IMAGE: name, CLUSTER: self.store.cluster, SOURCE: source}, self._worked()
        existing = self.zfs.get(partial, marks=IMAGE_MARKS)
        if existing is not None and {mark: existing.marks.get(mark) for mark in marks} != marks:
            self._drop(name)
            existing = None
        if existing is None:
            self.zfs.create(partial, {"canmount": "noauto"}, {**marks, **worked})
        else:
            self.zfs.destroy_snapshots([f"{partial}@{GOLDEN}"])
            self.zfs.set(partial, {"readonly": "off", **worked})
        self.zfs.mount(partial, self._partial_home(name))
        os.chmod(self._partial_home(name), 0o700)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._partial_home(name)}/{DISK}")  # of one that was killed when it was nearly made
        return partial

    def _finish(self, name: str, partial: str, known: Mapping[str, str]) -> Image:
        home = self._partial_home(name)
        for file in os.listdir(home):
            if file != DISK:
                os.unlink(f"{home}/{file}")
        size = os.stat(f"{home}/{DISK}").st_size
        self._leave(name)
        self.zfs.set(partial, {**known, SIZE: str(size), IMPORTED: f"{self.store.now():.0f}"})
        self._crown(partial)
        self.zfs.rename(partial, self.dataset(name))
        return self.must(name)

    def _crown(self, dataset: str) -> None:
        """The dataset is read-only and what it holds now is its golden snapshot."""
        self.zfs.set(dataset, {"readonly": "on", "canmount": "noauto"})
        self.zfs.snapshot([f"{dataset}@{GOLDEN}"])

    def _leave(self, name: str) -> None:
        home = self._partial_home(name)
        self.zfs.unmount(home, seconds=self.store.config.busy_seconds)
        with contextlib.suppress(OSError):
            os.rmdir(home)

    def _drop(self, name: str) -> None:
        """Nothing is left of a half-made image, nor of what others took of it: no disk was ever made of it."""
        partial = self._partial(name)
        dataset = self.zfs.get(partial, marks=IMAGE_MARKS)
        if dataset is not None:
            half_sent = self.streams is not None and self.streams.token(partial)
            if dataset.marks.get(CLUSTER) != self.store.cluster and not half_sent:
                raise Foreign(f"dataset {partial}", "is no half-made image", "rename it")
            self._leave(name)
            if half_sent and self.streams is not None:
                self.streams.abort(partial)  # all that there was
                return
            marks = {mark: dataset.marks[mark] for mark in (CLUSTER, IMAGE) if mark in dataset.marks}
            known = marks.get(IMAGE, name) == name  # made here for this; what is received says so when it is put in its place
            self.zfs.destroy(partial, marks, also=GOLDEN, strangers=known, seconds=self.store.config.busy_seconds)
        with contextlib.suppress(OSError):
            os.rmdir(self._partial_home(name))

    def drop_half_made(self, name: str) -> None:
        """Nothing is left of an image that was to be made or received here; Busy while somebody is at work on that."""
        if self._is_worked_on(name):
            raise Busy(f"image {name}", "is being made or received at this moment", "gnt-zfs image list shows how far it is")
        with self._alone(name):
            self._drop(name)

    def watch(self, name: str) -> Callable[[int], None]:
        """Return what is told how many bytes were written; it stops that before the root is full, and marks that it goes on."""
        seen, marked = 0, self.store.now()

        def wrote(done: int) -> None:
            nonlocal seen, marked
            if abs(done - seen) >= PROBE_BYTES:
                seen = done
                self.store.check_spare(f"image {name}", PROBE_BYTES)
            if self.store.now() - marked >= MARK_SECONDS:  # it may be killed before it can say when
                marked = self.store.now()
                self.zfs.set(self._partial(name), self._worked())

        return wrote

    def watched(self, name: str, progress: Progress) -> Progress:
        """Return a progress of what writes as much as it reads, which also stops before the root is full."""
        wrote = self.watch(name)

        def report(what: str, done: int, all_of_it: int) -> None:
            wrote(done)
            progress(what, done, all_of_it)

        return report

    def import_from(self, name: str, source: str, *, sha256: str = "", kind: str = "", progress: Progress = quiet) -> Image:
        """The image holds what a URL or a file holds, as a raw, sparse disk."""
        from zfsganeti import formats, sources

        checksum_asked(sha256)  # a slip of the finger is no reason to drop what has come so far
        watch, title = self.watched(name, progress), sources.recorded(source)
        here = sources.local(source) is not None  # a file is read once, a download checked while it streams

        def fill(home: str) -> dict[str, str]:
            fetched = sources.fetch(source, f"{home}/{DOWNLOAD}", sha256="" if here else sha256, progress=watch)
            limit = self.store.config.image_max << 30
            asked = sha256 if here else ""
            disk, wrote = f"{home}/{DISK}", self.watch(name)
            raw = formats.to_raw(fetched.path, disk, name=title, format=kind, sha256=asked, limit=limit, progress=watch, wrote=wrote)
            return {CHECKSUM: raw.sha256, FORMAT: raw.format, CONTENT: raw.content}

        return self.make(name, title, fill)

    def save(self, name: str, snapshot: str, file: str, source: str, progress: Progress = quiet) -> Image:
        """The image holds what a disk's file held in a snapshot; nothing of it depends on the instance any more."""
        watch = self.watched(name, progress)

        def fill(home: str) -> dict[str, str]:
            with self._looking_into_snapshot(name, snapshot) as path:
                copy_sparse(f"{path}/{file}", f"{home}/{DISK}", lambda done, size: watch("copy", done, size))
            os.chmod(f"{home}/{DISK}", 0o600)
            return {FORMAT: "raw", CONTENT: content_digest(f"{home}/{DISK}", watch)}

        return self.make(name, source, fill)

    @contextlib.contextmanager
    def _looking_into_snapshot(self, name: str, snapshot: str) -> Iterator[str]:
        """Yield a directory with what a snapshot holds: a clone of it for the while."""
        clone = f"{self.root}/{PARTIAL}/{name}{LOOK}"
        marks = {IMAGE: f"{name}{LOOK}", CLUSTER: self.store.cluster}
        self._drop(f"{name}{LOOK}")
        self.zfs.clone(snapshot, clone, marks, {"canmount": "noauto"})
        try:
            home = self._partial_home(f"{name}{LOOK}")
            self.zfs.mount(clone, home)
            yield home
        finally:
            self._drop(f"{name}{LOOK}")

    # using

    def check_fits(self, image: Image, size: int) -> None:
        if size < image.size:
            mib = -(-image.size >> 20)
            raise Refused(
                f"image {image.name}", f"has {human(image.size)} and does not fit on a disk of {human(size)}", f"size={mib}M or more"
            )

    def clone(self, image: Image, dataset: str, marks: Mapping[str, str], properties: Mapping[str, object] | None = None) -> None:
        """The dataset is a clone of the image, unmounted."""
        with self._used(image.name):  # not while it is being lent or renamed
            self.zfs.clone(image.snapshot, dataset, marks, properties)

    # changing

    def rename(self, name: str, new: str) -> None:
        """The image bears the new name; its clones go on as they are."""
        if name == new:
            raise BadInput(f"image {name}: is called so already")
        with self._changed(name), self._alone(check_image_fits(new, self.store.root.name)):
            self.check_not_lent(new)
            image = self.must(name)
            if self.find(new) is not None:
                raise Refused(f"image {new}", "exists already", "gnt-zfs image list shows what is here")
            self._unmount(image)
            self.zfs.rename(image.dataset, self.dataset(new))
            self.zfs.set(self.dataset(new), {IMAGE: new})

    def retire(self, name: str) -> None:
        """No disk is made of the image any more; it stays."""
        with self._used(name):
            self.zfs.set(self.must(name).dataset, {RETIRED: f"{self.store.now():.0f}"})

    def restore(self, name: str) -> None:
        """An image that was retired or deleted is as before."""
        with self._changed(name):
            self.zfs.clear(self.must(name).dataset, [RETIRED, DELETED])

    def delete(self, name: str, *, now: bool = False, with_snapshots: bool = False) -> bool:
        """The image goes when its last clone has gone and, unless `now`, the days of the trash are over; True when it is gone already.

        Refused, and it is as before, when it has snapshots of others, unless they are to go `with_snapshots`.
        """
        with self._changed(name):
            image = self.must(name)
            image.at_once, image.with_snapshots = now or image.at_once, with_snapshots or image.with_snapshots
            self._check_snapshots(image)
            goes = not image.clones and (image.at_once or self.store.config.trash_days == 0)
            if goes:
                self._unmount(image)
                self._destroy(image, only_check=True)
            clock.heed(self.store)
            image.deleted = image.deleted or int(self.store.now())
            self.zfs.set(image.dataset, {DELETED: image.deletion})
            if goes:
                self._destroy(image)
            return goes

    def _check_snapshots(self, image: Image) -> None:
        """The image has no snapshots of others, such as somebody took while an instance had it for itself, or they may go."""
        names = [name.partition("@")[2] for name, _created, _used in self.zfs.snapshots(image.dataset, depth=1)]
        others = [name for name in names if name != GOLDEN and not name.startswith(self.zfs.ours)]
        if others and not image.with_snapshots:
            count = "1 snapshot" if len(others) == 1 else f"{len(others)} snapshots"
            way_out = f"gnt-zfs image delete {image.name} --with-snapshots lets {'it' if len(others) == 1 else 'them'} go with it"
            raise Busy(f"image {image.name}", f"has {count} that somebody took, such as {others[-1]}", way_out)

    def stuck(self, image: Image) -> str:
        """Return why a deleted image that should have gone by now has not, '' for any other."""
        if not self._is_over(image):
            return ""
        try:
            self._check_snapshots(image)
            self._destroy(image, only_check=True)
        except ZfsGanetiError as error:
            return error.why if isinstance(error, Refused) else str(error)
        return ""

    def _destroy(self, image: Image, *, only_check: bool = False) -> None:
        """The image is gone, or only could be."""
        if not only_check:
            self._unmount(image)
        strangers, seconds = image.with_snapshots, self.store.config.busy_seconds
        self.zfs.destroy(image.dataset, image.marks, also=GOLDEN, strangers=strangers, seconds=seconds, only_check=only_check)

    def _unmount(self, image: Image) -> None:
        self.store.unmount_elsewhere(image.dataset)

    def goes_at(self, image: Image) -> int:
        """Return when a deleted image goes, in seconds since 1970, if it has no clones then."""
        if image.at_once:
            return image.deleted
        return max(image.deleted + self.store.config.trash_days * DAY, int(clock.until(self.zfs, self.store.root.name)))

    def sweep(self) -> list[str]:
        """Deleted images whose time is over and half-made ones that nobody goes on with are gone; return what went."""
        gone = []
        for name in [image.name for image in self.all() if self._is_over(image)]:
            with contextlib.suppress(Refused, Missing, Unavailable, CommandFailed), self._alone(name):
                if self._is_over(image := self.must(name)):  # it may have been taken back, or deleted anew, a moment ago
                    self._destroy(image)
                    gone.append(name)
        for name in self._abandoned():
            with contextlib.suppress(Refused, Missing, Unavailable, CommandFailed), self._alone(name.removesuffix(LOOK)):
                partial = self.zfs.get(self._partial(name), marks=IMAGE_MARKS)
                if partial is not None and self._is_given_up(partial):  # somebody may have gone on with it a moment ago
                    self._drop(name)
                    gone.append(f"{PARTIAL}/{name}")
        return gone

    def _is_over(self, image: Image) -> bool:
        """Tell whether the image was deleted, and nothing lets it stay any longer."""
        return bool(image.deleted) and not image.clones and self.goes_at(image) <= self.store.now()

    def _is_given_up(self, partial: Dataset) -> bool:
        return _kept_until(partial) <= self.store.now()

    def _abandoned(self) -> list[str]:
        parent = f"{self.root}/{PARTIAL}"
        if self.zfs.get(self.root) is None or self.zfs.get(parent) is None:
            return []
        found = [dataset for dataset in self.zfs.datasets(parent, depth=1, marks=IMAGE_MARKS) if dataset.name != parent]
        return [dataset.short for dataset in found if self._is_given_up(dataset)]

    @contextlib.contextmanager
    def open(self, image: Image) -> Iterator[int]:
        """Yield the image's disk, opened to be read, by as many at once as like; it is mounted no longer than that takes."""
        home = f"{self.store.root.path}/{IMAGES}/{image.name}"
        with self._used(image.name):
            with locked(f".mount{lock_name(image.name)}", what=f"image {image.name}"):
                self.zfs.mount(image.dataset, home)
                try:
                    descriptor = os.open(f"{home}/{DISK}", os.O_RDONLY | os.O_CLOEXEC)
                finally:
                    self.zfs.unmount(home, lazy=True)
                    with contextlib.suppress(OSError):
                        os.rmdir(home)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
