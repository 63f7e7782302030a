"""One golden image as its node knows it: the marks that say what it is, and which of several a name means."""

from __future__ import annotations

from zfsganeti.datasets import CLUSTER, IMAGE, INSTANCE, SIZE, VOLUME
from zfsganeti.names import PREFIX, means

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from zfsganeti.zfs import Dataset

SOURCE, CHECKSUM, CONTENT, FORMAT, IMPORTED, RETIRED, DELETED, LENDABLE = (
    PREFIX + word for word in ("source", "sha256", "content", "format", "imported", "retired", "deleted", "lendable")
)
PROVENANCE = (IMAGE, SIZE, SOURCE, CHECKSUM, CONTENT, FORMAT, IMPORTED)  # what goes along when an image is sent to a peer
IMAGE_MARKS = (*PROVENANCE, CLUSTER, RETIRED, DELETED, LENDABLE, VOLUME, INSTANCE)
GOLDEN = "golden"
AT_ONCE = "now"  # after the time at which an image was deleted: it is not kept for the days of the trash
WITH_SNAPSHOTS = "with-snapshots"  # there as well: those that are not ours go with it


class Image:
    """An image as it was when listed; sizes are bytes, times seconds since 1970."""

    def __init__(self, dataset: Dataset, golden: Mapping[str, str]) -> None:
        marks = dataset.marks
        self.name, self.dataset = dataset.short, dataset.name  # the mark follows a rename a moment later
        self.marks = {mark: marks[mark] for mark in (IMAGE, CLUSTER)}
        self.provenance = {mark: marks[mark] for mark in PROVENANCE if mark in marks}
        self.guid = golden["guid"]
        self.clones = [clone for clone in golden["clones"].split(",") if clone not in ("", "-")]
        self.size = int(marks.get(SIZE) or 0)
        self.used, self.referenced, self.written = dataset.used, dataset.referenced, dataset.written
        self.source, self.format = marks.get(SOURCE, ""), marks.get(FORMAT, "")
        self.checksum, self.content = marks.get(CHECKSUM, ""), marks.get(CONTENT, "")
        self.imported = int(marks.get(IMPORTED) or 0)
        deleted, *how = marks.get(DELETED, "").split(" ")
        self.deleted, self.at_once, self.with_snapshots = int(deleted or 0), AT_ONCE in how, WITH_SNAPSHOTS in how
        self.retired = RETIRED in marks or bool(self.deleted)
        self.lendable = LENDABLE in marks

    @property
    def deletion(self) -> str:
        """What the mark of a deleted image says: since when, and how it goes."""
        return " ".join([str(self.deleted), *([AT_ONCE] if self.at_once else []), *([WITH_SNAPSHOTS] if self.with_snapshots else [])])

    @property
    def snapshot(self) -> str:
        return f"{self.dataset}@{GOLDEN}"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "guid": self.guid,
            "size": self.size,
            "used": self.used,
            "referenced": self.referenced,
            "clones": [clone.rsplit("/", 1)[1] for clone in self.clones],
            "source": self.source,
            "sha256": self.checksum,
            "format": self.format,
            "imported": self.imported,
            "retired": self.retired,
            "lendable": self.lendable,
            "deleted": self.deleted,
        }


def newest(images: list[Image], wanted: str) -> Image | None:
    """Return the image that a name means to somebody who wants a disk of it: without a version the newest, retired ones never."""
    usable = [image for image in images if not image.retired]
    matching = [image for image in usable if means(wanted, image.name)]
    return max(matching, key=lambda image: (image.imported, image.name)) if matching else None
