"""An image that one instance has for itself: lent, told of to others, and taken back as the instance has left it.

Mixed into `zfsganeti.images.Images`.
"""

from __future__ import annotations

from zfsganeti.datasets import IMAGE, INSTANCE, INTENT, OPENED, RECORD, RESERVED, SIZE, VOLUME
from zfsganeti.errors import Busy, Refused
from zfsganeti.image import CHECKSUM, CONTENT, DELETED, GOLDEN, IMAGE_MARKS, LENDABLE, SOURCE
from zfsganeti.names import means

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from zfsganeti.datasets import Store
    from zfsganeti.image import Image
    from zfsganeti.zfs import Dataset

FORMER_GOLDEN = "golden-"  # after our prefix: a snapshot that an image was before it was lent, and that something is a clone of


class Lending:
    """The part of the catalogue that knows of images which are in it no longer, or again."""

    if TYPE_CHECKING:
        store: Store
        zfs: Any

        def dataset(self, name: str) -> str: ...
        def must(self, name: str) -> Image: ...
        def _is_ours(self, dataset: Dataset) -> bool: ...
        def _changed(self, name: str) -> AbstractContextManager[None]: ...
        def _used(self, name: str) -> AbstractContextManager[None]: ...
        def _crown(self, dataset: str) -> None: ...
        def _unmount(self, image: Image) -> None: ...

    def lent(self) -> dict[str, str]:
        """Return the instances, or else the volumes, that have an image for themselves, by its name."""
        found = self.zfs.datasets(self.store.root.name, depth=1, marks=IMAGE_MARKS)
        ours = [each for each in found if self._is_ours(each) and each.marks.get(VOLUME) == each.short]
        return {each.marks[IMAGE]: each.marks.get(INSTANCE) or each.short for each in ours}

    def check_not_lent(self, name: str) -> None:
        """The name is not that of an image which comes back when an instance is removed."""
        owner = self.lent().get(name)
        if owner:
            raise Busy(f"image {name}", f"is used by {owner} alone", f"it is back when the disk of {owner} is removed")

    def check_none_lent(self, wanted: str) -> None:
        """No image that the name means, of whatever version, is one which comes back when an instance is removed."""
        for name in self.lent():
            if means(wanted, name):
                self.check_not_lent(name)

    def check_lendable(self, image: Image) -> None:
        """The image may be lent to one instance: the administrator says so, nothing is a clone of it, and it is not about to go.

        Whoever may add instances could otherwise write into what others make their disks of.
        """
        if image.retired:
            raise Refused(f"image {image.name}", "is retired", f"gnt-zfs image restore {image.name} lets disks be made of it")
        if not image.lendable:
            raise Refused(f"image {image.name}", "is not meant to be used persistently", f"gnt-zfs image lend {image.name} allows it")
        if image.clones:
            count = f"{len(image.clones)} disks are clones" if len(image.clones) > 1 else "a disk is a clone"
            why = f"{count} of it, such as {image.clones[0].rsplit('/', 1)[1]}"
            raise Busy(f"image {image.name}", why, "gnt-zfs image save makes another image to be used persistently")

    def lend(self, image: Image, dataset: str, marks: Mapping[str, str]) -> None:
        """The image itself is the dataset, marked with its name so that `take_back` knows it; the catalogue has it no longer.

        It is as read-only there as it was before: who is killed between the two leaves an image that nobody can write to.
        """
        with self._changed(image.name):
            self.check_lendable(self.must(image.name))
            self._unmount(image)
            self.zfs.set(image.dataset, {**marks, IMAGE: image.name})
            self.zfs.rename(image.dataset, dataset)

    def open_up(self, dataset: str, properties: Mapping[str, object]) -> None:
        """What was lent can be written to, and a boot mounts it."""
        native = {name: str(value) for name, value in properties.items()}
        self.zfs.set(dataset, {"readonly": "off", "canmount": "on", **native})

    def take_back(self, dataset: Dataset, size: int) -> None:
        """What was lent, unmounted by now, is the image again, with a golden snapshot of what it holds."""
        name = dataset.marks[IMAGE]
        with self._changed(name):
            self._check_free(name, dataset)
            self._uncrown(dataset.name)
            source = f"left by {dataset.marks[INSTANCE]}" if INSTANCE in dataset.marks else ""
            self.zfs.set(dataset.name, {SIZE: str(size), RESERVED: "0", **({SOURCE: source} if source else {})})
            # the mark of the volume that it was stays, or this could not be repeated
            stale = [mark for mark in (INSTANCE, INTENT, OPENED, RECORD) if mark in dataset.marks]
            # nobody has asked for what an instance has left since to go
            doomed = [DELETED] if DELETED in self.zfs.local(dataset.name) else []
            self.zfs.clear(dataset.name, [*stale, *doomed, CONTENT, CHECKSUM])
            self._crown(dataset.name)
            self.zfs.rename(dataset.name, self.dataset(name))

    def return_unused(self, dataset: Dataset, former: Mapping[str, str]) -> None:
        """What was lent, unmounted by now and never written to, is the image again, its properties as `former` has them, '' for none."""
        name = dataset.marks[IMAGE]
        with self._changed(name):
            self._check_free(name, dataset)
            # that nothing is reserved cannot be inherited, only set
            kept = {key: value or "0" for key, value in former.items() if value or key == RESERVED}
            self.zfs.set(dataset.name, {"readonly": "on", "canmount": "noauto", **kept})
            self.zfs.clear(dataset.name, [key for key in former if key not in kept])
            self.zfs.rename(dataset.name, self.dataset(name))

    def _check_free(self, name: str, dataset: Dataset) -> None:
        if self.zfs.get(self.dataset(name)) is not None:
            raise Refused(f"image {name}", f"exists again, and {dataset.name} was to become it", f"gnt-zfs image rename {name} NEW first")

    def _uncrown(self, dataset: str) -> None:
        """There is no golden snapshot any more: one that something was made of meanwhile has another name, and goes with the image."""
        for name, known in self.zfs.snapshot_facts(dataset, ("clones",), depth=1).items():
            if name == f"{dataset}@{GOLDEN}" and known["clones"] in ("", "-"):
                self.zfs.destroy_snapshots([name])
            elif name == f"{dataset}@{GOLDEN}":
                self.zfs.rename_snapshot(name, self.store.snapshot_name(dataset, FORMER_GOLDEN))

    def set_lendable(self, name: str, lendable: bool) -> None:
        """One instance at a time may use the image itself, or none any more."""
        with self._used(name):
            image = self.must(name)
            if lendable:
                self.zfs.set(image.dataset, {LENDABLE: "yes"})
            else:
                self.zfs.clear(image.dataset, [LENDABLE])
