"""Which of a node's datastores have an image of a name: the one that is meant, and what is done with it in all of them."""

from __future__ import annotations

from zfsganeti.errors import BadInput, Foreign, Missing, Refused, ZfsGanetiError, one_line
from zfsganeti.image import newest
from zfsganeti.names import check_image, means, meant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zfsganeti.here import Here
    from zfsganeti.image import Image


def places(here: Here, datastore: str | None) -> list[Here]:
    """Return this node with each of its roots, or with the one that is named: '' is the first."""
    return here.places() if datastore is None else [here.at(datastore)]


def holders(here: Here, name: str, datastore: str | None = None) -> list[Here]:
    """Return this node with each datastore that has the image of exactly this name; Missing says what there is instead."""
    looked, found, others = places(here, datastore), [], []
    for place in looked:
        try:
            if place.images.find(name) is not None:
                found.append(place)
        except Foreign as error:  # which is nobody's image, and keeps none elsewhere from being used
            others.append(error)
    if not found and others:
        raise others[0]
    if not found:
        raise _missing(here, name, looked, datastore)
    return found


def named(here: Here, name: str, datastore: str | None = None) -> str:
    """Return which image is meant by somebody who looks at one: that of exactly this name, else the newest version, retired ones last."""
    check_image(name)
    known = [image for place in places(here, datastore) for image in place.images.all()]
    if any(image.name == name for image in known):
        return name
    versions = [image for image in known if means(name, image.name)]
    return max(versions, key=lambda image: (not image.retired, image.imported, image.name)).name if versions else name


def _missing(here: Here, name: str, looked: list[Here], datastore: str | None) -> Missing:
    """Return what is said of a name that no image has; Busy when it is, or means, one that an instance has for itself."""
    known = [image.name for place in looked for image in place.images.all()]
    alike = [other for other in known if means(name, other)]
    for place in looked:
        place.images.check_not_lent(name) if alike else place.images.check_none_lent(name)
    shows = "gnt-zfs image list --all-nodes shows who has which" if datastore is None else "gnt-zfs image list shows what is where"
    near = f"there is {', '.join(dict.fromkeys(alike))}" if alike else meant(name, known, shows)
    return Missing(f"image {name} {where(here, datastore)}", near)


def where(here: Here, datastore: str | None) -> str:
    """Return what is said of the place that was looked into."""
    return "on this node" if datastore is None else f"in {here.at(datastore).root.name}"


def to_use(here: Here, name: str, datastore: str | None = None) -> tuple[Here, Image]:
    """Return the image that a name means to somebody who wants disks of it, the newest of all datastores, and this node with that one."""
    check_image(name)
    looked = places(here, datastore)
    known = {place.datastore: place.images.all() for place in looked}
    image = newest([image for images in known.values() for image in images], name)
    if image is None:
        for place in looked:
            place.images.check_none_lent(name)
        unused = [image.name for images in known.values() for image in images if means(name, image.name)]
        if unused:
            raise Refused(f"image {unused[-1]}", "is retired", f"gnt-zfs image restore {unused[-1]} first")
        raise _missing(here, name, looked, datastore)
    return next(place for place in looked if image in known[place.datastore]), image


# changing


def change(here: Here, request: dict[str, Any]) -> list[dict[str, Any]]:
    """An image is retired, deleted, taken back or renamed in each datastore that has it; return what it is there now, or the error.

    One that is gone is but `gone`. Where one datastore fails the others are done, and when there is but one that is the answer.
    """
    name, datastore = _text(request, "image"), request.get("datastore")
    if datastore is not None and not isinstance(datastore, str):
        raise BadInput("request: datastore must be a text")
    if request.get("change") == "drop":
        return _drop(here, name, datastore)
    found = holders(here, name, datastore)
    if request.get("change") == "rename":
        _check_free(here, _text(request, "new"), found)
    answers = []
    for place in found:
        try:
            answers.append({**_change(place, name, request), "datastore": place.datastore})
        except ZfsGanetiError as error:
            if len(found) == 1:
                raise
            answers.append({"error": one_line(error), "code": error.exit_code, "datastore": place.datastore})
    return answers


def _drop(here: Here, name: str, datastore: str | None) -> list[dict[str, Any]]:
    """What has come of an image that is not whole is gone from each datastore."""
    found = [place for place in places(here, datastore) if any(each["name"] == name for each in place.images.arriving())]
    for place in found:
        place.images.drop_half_made(name)
    return [{"gone": True, "datastore": place.datastore} for place in found]


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value.isprintable():
        raise BadInput(f"request: {key} must be a text")
    return check_image(value) if key in ("image", "new") else value


def _check_free(here: Here, new: str, found: list[Here]) -> None:
    """No datastore in which the image is to be renamed has one of the new name, so that all of them can be."""
    taken = [place.root.name for place in found if place.images.find(new) is not None]
    if taken:
        raise Refused(f"image {new}", f"exists already{f' in {taken[0]}' if len(here.places()) > 1 else ''}", "choose another name")


def _change(place: Here, name: str, request: dict[str, Any]) -> dict[str, Any]:
    """It is done in one datastore; return what the image is there now."""
    images, wanted = place.images, _text(request, "change")
    if wanted == "delete":
        if images.delete(name, now=request.get("now") is True, with_snapshots=request.get("with_snapshots") is True):
            return {"gone": True}
    elif wanted == "rename":
        images.rename(name, _text(request, "new"))
        name = _text(request, "new")
    elif wanted == "retire":
        images.retire(name)
    elif wanted == "restore":
        images.restore(name)
    else:
        raise BadInput(f"request: {wanted!r} cannot be done with an image")
    image = images.must(name)
    return {**image.as_json(), "gone": False, "goes": images.goes_at(image) if image.deleted else 0}
