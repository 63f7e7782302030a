"""What Ganeti tells us, as values: a hook's environment, ssconf, the master's configuration and job queue.

The only room that knows Ganeti's variable names, files and options. Every hook of the cluster enters here first, most of
them for instances that are not ours: at import time it takes nothing but os.
"""

from __future__ import annotations

import os

from zfsganeti.errors import BadEnvironment, BadName, Missing, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DATA_DIR = "/var/lib/ganeti"
STORAGE_PATHS = "/etc/ganeti/file-storage-paths"
EXT, PROVIDER = "ext", "zfs"
PLAIN, DRBD = "plain", "drbd"  # what LVM's disks are called; in the configuration of a disk it is drbd
OS = "zfs-image"  # our OS definition, whose variants are images
HOOKS_DIR = "/etc/ganeti/hooks"
EXTSTORAGE_LOGS = "/var/log/ganeti/extstorage"
RUNNING = ("running", "canceling")  # constants.OP_STATUS_*: what has begun and not ended
PENDING = ("queued", "waiting", *RUNNING)  # what has not ended, whether it has begun or not
MAX_DISKS = 16  # constants.MAX_DISKS
MAX_DISK_MIB = 1 << 34  # 16 PiB: what no node has
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_")


def check_name(name: str) -> str:
    """Return an instance name that can be a dataset's and a directory's; Ganeti itself keeps names in lower case."""
    if not name or len(name) > 200:
        raise BadName("instance", name, "must have 1 to 200 characters")
    if name[0] in ".-_" or not NAME_CHARACTERS.issuperset(name):
        raise BadName("instance", name, "must be lower-case letters, digits, '.', '-' and '_', and begin with a letter or digit")
    if ".." in name:
        raise BadName("instance", name, "must not contain '..'")
    return name


def image_of(system: str) -> str:
    """Return the image that an instance's OS names, such as zfs-image+debian-12; '' when it is another OS."""
    name, plus, image = system.partition("+")
    return image if name == OS and plus else ""


# hooks


def storage_kinds(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the disk template an instance has and the one it is to get, '' where there is none."""
    return environ.get("GANETI_INSTANCE_DISK_TEMPLATE", ""), environ.get("GANETI_NEW_DISK_TEMPLATE", "")


def has_volumes(environ: Mapping[str, str]) -> bool:
    """Tell whether an existing instance has a disk of our ExtStorage provider."""
    return any(
        value == PROVIDER and name.startswith("GANETI_INSTANCE_DISK") for name, value in environ.items() if name.endswith("_PROVIDER")
    )


def hook_name(environ: Mapping[str, str]) -> str:
    """Return which hook is called, such as 'instance-add-pre'; the watcher's carries no name of its own."""
    path, phase = environ.get("GANETI_HOOKS_PATH"), environ.get("GANETI_HOOKS_PHASE")
    if path is None and "GANETI_OP_CODE" not in environ and phase is None:
        return "watcher"
    if path is None:
        raise BadEnvironment("GANETI_HOOKS_PATH", path, "Ganeti always sets it for a hook")
    if phase not in ("pre", "post"):
        raise BadEnvironment("GANETI_HOOKS_PHASE", phase, "Ganeti calls hooks with pre or post")
    return f"{path}-{phase}"


class Event:
    """One call of a hook for one instance, as values; sizes are bytes.

    `post_*` are what holds after the operation and equal the others in the pre phase.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        if environ.get("GANETI_HOOKS_VERSION", "2") != "2":
            raise BadEnvironment("GANETI_HOOKS_VERSION", environ["GANETI_HOOKS_VERSION"], "only version 2 is known")
        self.hook = hook_name(environ)
        self.operation = environ.get("GANETI_OP_CODE", "")
        self.cluster = self._must("GANETI_CLUSTER")
        self.master = self._must("GANETI_MASTER")
        self.instance = self._name("GANETI_INSTANCE_NAME")
        self.primary = self._must("GANETI_INSTANCE_PRIMARY")
        self.post_primary = self._must("GANETI_POST_INSTANCE_PRIMARY") if "GANETI_POST_INSTANCE_PRIMARY" in environ else self.primary
        self.template, self.new_template = storage_kinds(environ)
        self.post_template = environ.get("GANETI_POST_INSTANCE_DISK_TEMPLATE", self.template)
        self.sizes = self._sizes()

    def _must(self, variable: str) -> str:
        value = self._environ.get(variable)
        if not value or len(value) > 255 or not value.isprintable() or " " in value or "/" in value:
            raise BadEnvironment(variable, value, "Ganeti always sets it in this hook")
        return value

    def _name(self, variable: str) -> str:
        try:
            return check_name(self._must(variable))
        except BadName as error:
            raise BadEnvironment(variable, error.name, error.why) from error

    def _number(self, variable: str, largest: int) -> int:
        value = self._environ.get(variable)
        if value is None or not value.isascii() or not value.isdigit() or len(value) > 20 or int(value) > largest:
            raise BadEnvironment(variable, value, f"must be a number up to {largest}")
        return int(value)

    def _sizes(self) -> list[int]:
        count = self._number("GANETI_INSTANCE_DISK_COUNT", MAX_DISKS) if "GANETI_INSTANCE_DISK_COUNT" in self._environ else 0
        return [self._number(f"GANETI_INSTANCE_DISK{index}_SIZE", MAX_DISK_MIB) << 20 for index in range(count)]

    @property
    def disk_paths(self) -> list[str]:
        """The paths of file disks; empty in the add hooks, which do not know them."""
        names = (f"GANETI_INSTANCE_DISK{index}_ID" for index in range(len(self.sizes)))
        return [self._environ[name] for name in names if self._environ.get(name, "").startswith("/")]

    @property
    def image(self) -> str:
        """The image that an instance which is being added is to be installed from; '' for another OS, and for an import."""
        return image_of(self._environ.get("GANETI_INSTANCE_OS_TYPE", "")) if self._environ.get("GANETI_ADD_MODE") == "create" else ""

    @property
    def volumes(self) -> list[str]:
        """The volumes of disks of our ExtStorage provider."""
        ours = [index for index in range(len(self.sizes)) if self._environ.get(f"GANETI_INSTANCE_DISK{index}_PROVIDER") == PROVIDER]
        return [self._must(f"GANETI_INSTANCE_DISK{index}_ID") for index in ours]

    @property
    def new_primary(self) -> str:
        return self._must("GANETI_NEW_PRIMARY")

    @property
    def cleans_up(self) -> bool:
        """Tell whether a migration or failover only ends what an earlier one left."""
        return "True" in (self._environ.get("GANETI_MIGRATE_CLEANUP"), self._environ.get("GANETI_FAILOVER_CLEANUP"))

    @property
    def post_disk_count(self) -> int:
        return self._number("GANETI_POST_INSTANCE_DISK_COUNT", MAX_DISKS)

    @property
    def new_name(self) -> str:
        return self._name("GANETI_INSTANCE_NEW_NAME")

    @property
    def target(self) -> str:
        return self._must("GANETI_TARGET_NODE")

    @property
    def growth(self) -> int:
        """By how many bytes a disk is to grow."""
        amount = self._number("GANETI_AMOUNT", MAX_DISK_MIB) << 20
        if self._environ.get("GANETI_ABSOLUTE") != "True":
            return amount
        index = self._number("GANETI_DISK", MAX_DISKS)
        return max(0, amount - (self.sizes[index] if index < len(self.sizes) else 0))

    @property
    def export_removes(self) -> bool:
        return self._environ.get("GANETI_REMOVE_INSTANCE") == "True"


def renamed_cluster(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the old and the new name in the hooks of a cluster's renaming."""
    names = environ.get("GANETI_OP_TARGET", ""), environ.get("GANETI_NEW_NAME", "")
    for variable, value in zip(("GANETI_OP_TARGET", "GANETI_NEW_NAME"), names, strict=True):
        if not value or len(value) > 255 or not value.isprintable() or " " in value:
            raise BadEnvironment(variable, value or None, "Ganeti always sets it in this hook")
    return names


# what every node knows of the cluster


class Ssconf:
    """The cluster as every node knows it: small files that the master keeps up to date."""

    def __init__(self, directory: str = DATA_DIR) -> None:
        self.directory = directory

    def read(self, name: str) -> str:
        """Return a value of ssconf; Missing when this machine is no node of a cluster."""
        try:
            with open(f"{self.directory}/ssconf_{name}", encoding="utf-8") as file:
                return file.read().strip()
        except FileNotFoundError:
            raise Missing(f"{self.directory}/ssconf_{name}", "is this machine a node of a Ganeti cluster?") from None
        except OSError as error:
            raise Unavailable(f"{self.directory}/ssconf_{name}", os.strerror(error.errno or 0)) from error

    def lines(self, name: str) -> list[str]:
        return self.read(name).split()

    @property
    def cluster(self) -> str:
        return self.read("cluster_name")

    @property
    def master(self) -> str:
        return self.read("master_node")

    @property
    def storage_directory(self) -> str:
        """The cluster's file storage directory, '' while there is none."""
        return os.path.normpath(self.read("file_storage_dir")) if self.read("file_storage_dir") else ""

    @property
    def nodes(self) -> list[str]:
        return self.lines("node_list")

    @property
    def offline_nodes(self) -> list[str]:
        return self.lines("offline_nodes")

    @property
    def instances(self) -> list[str]:
        return self.lines("instance_list")

    @property
    def addresses(self) -> dict[str, str]:
        """The primary address of every node by its name."""
        pairs = (line.split() for line in self.read("node_primary_ips").splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    @property
    def ssh_ports(self) -> dict[str, str]:
        """The port of each node's ssh, by its name; a series that keeps none has them all at 22."""
        try:
            pairs = (line.replace("=", " ").split() for line in self.read("ssh_ports").splitlines())
        except Missing:
            return {}
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1].isdigit()}

    @property
    def release(self) -> tuple[int, int]:
        """Ganeti's series, such as (3, 0)."""
        text = self.read("release_version")
        numbers = text.split(".")
        if len(numbers) < 2 or not (numbers[0].isdigit() and numbers[1].isdigit()):
            raise Unavailable("Ganeti's release", f"{text!r} is no version")
        return int(numbers[0]), int(numbers[1])

    def this_node(self, hostname: str) -> str:
        """Return this machine's name in the cluster: its host name, else the node whose address is ours."""
        addresses = self.addresses
        if hostname in addresses:
            return hostname
        short = [name for name in addresses if name.split(".")[0] == hostname]
        if len(short) == 1:
            return short[0]
        import socket

        for name, address in addresses.items():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((address, 0))
                    return name
                except OSError:
                    continue
        raise Missing(f"a node of this cluster named {hostname} or with an address of this machine")

    def ssh(self, node: str) -> list[str]:
        """Return the command that runs what follows on a peer as root, with the keys Ganeti distributes."""
        if node not in self.nodes:
            raise Missing(f"node {node}", f"the cluster has {', '.join(self.nodes)}")
        return [
            "ssh",
            "-oBatchMode=yes",
            "-oStrictHostKeyChecking=yes",
            "-oEscapeChar=none",
            f"-oGlobalKnownHostsFile={self.directory}/known_hosts",
            "-oUserKnownHostsFile=/dev/null",
            f"-oHostKeyAlias={self.cluster}",
            "-oConnectTimeout=10",
            "-oLogLevel=ERROR",
            f"-p{self.ssh_ports.get(node, '22')}",
            "-T",
            f"root@{node}",
        ]


# what only the master knows for certain


class Disk:
    """A disk of an instance: its size in bytes, for -t file its path, for our -t ext its volume and parameters."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.uuid: str = data["uuid"]
        self.template: str = data["dev_type"]
        self.size: int = data["size"] << 20
        self.mode: str = data.get("mode", "rw")
        self.name: str | None = data.get("name")
        self.forthcoming = bool(data.get("forthcoming"))  # of an instance that is but reserved: Ganeti makes the disk later
        logical: list[str] = list(data.get("logical_id") or [])
        self.driver, self.path = logical if len(logical) == 2 else ("", "")
        self.volume = self.path if self.template == EXT and self.driver == PROVIDER else ""
        self.parameters: dict[str, Any] = _given(data.get("params"))
        # of a drbd disk: its minor on each of its two nodes, by their UUIDs
        both = data.get("logical_id") or [] if self.template == DRBD else []
        self.minors: dict[str, int] = {both[0]: both[3], both[1]: both[4]} if len(both) > 4 else {}
        # of a plain disk, and of the half of a drbd disk that holds its data: volume group and logical volume
        holder = next(iter(data.get("children") or []), {}) if self.template == DRBD else data
        self.lvm: tuple[str, ...] = tuple(holder.get("logical_id") or ()) if holder.get("dev_type") == PLAIN else ()


class Instance:
    """An instance as the configuration has it; parameters are what was set on it, not what it inherits."""

    def __init__(
        self, data: Mapping[str, Any], nodes: Mapping[str, str], disks: Mapping[str, Mapping[str, Any]], networks: Mapping[str, str]
    ) -> None:
        self._data, self._networks = data, networks
        self.name: str = data["name"]
        self.uuid: str = data["uuid"]
        self.primary: str = nodes.get(data["primary_node"] or "", "")
        self.admin_state: str = data.get("admin_state", "")
        self.serial: int = data.get("serial_no") or 0  # one more with each change of it
        self.disks = [Disk(disks[uuid]) for uuid in data.get("disks") or [] if uuid in disks]
        self.minors = [disk.minors.get(data["primary_node"], -1) for disk in self.disks]  # of drbd, on the primary
        self.template: str = self.disks[0].template if self.disks else data.get("disk_template") or "diskless"

    def record(self) -> dict[str, Any]:
        """Return what must be known to make the instance again; passwords (private parameters) are left out."""
        data = self._data
        return {
            "name": self.name,
            "uuid": self.uuid,
            "os": data.get("os") or "",
            "hypervisor": data["hypervisor"],
            "be": _given(data.get("beparams")),
            "hv": _given(data.get("hvparams")),
            "osparams": _given(data.get("osparams")),
            "private": sorted(data.get("osparams_private") or {}),
            "tags": sorted(data.get("tags") or []),
            "state": self.admin_state,
            "template": self.template,
            "driver": self.disks[0].driver if self.disks else "",
            "nics": [self._nic(nic) for nic in data.get("nics") or []],
            "disks": [self._disk(disk) for disk in self.disks],
        }

    @staticmethod
    def _disk(disk: Disk) -> dict[str, Any]:
        common = {"size": disk.size, "mode": disk.mode, "name": disk.name}
        if not disk.volume:
            return {"file": os.path.basename(disk.path), **common}
        own = {key: value for key, value in disk.parameters.items() if key not in ("provider", "access", "trash")}
        return {"volume": disk.volume, "parameters": own, **common}

    def _nic(self, nic: Mapping[str, Any]) -> dict[str, Any]:
        params = {key: value for key, value in _given(nic.get("nicparams")).items() if value != ""}
        network = self._networks.get(nic.get("network") or "")
        if network:
            params = {"network": network}
        kept = {key: nic.get(key) for key in ("mac", "ip", "name") if nic.get(key)}
        return {**params, **kept}


def _given(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the parameters that have a value: None is how Ganeti keeps one that was set back."""
    return {key: value for key, value in (values or {}).items() if value is not None}


class Master:
    """The configuration and job queue as the master (and master candidates) keep them on disk."""

    def __init__(self, directory: str = DATA_DIR) -> None:
        self.directory = directory

    def load(self) -> dict[str, Any]:
        """Return the whole configuration; Unavailable on a node that has none."""
        import json

        try:
            with open(f"{self.directory}/config.data", "rb") as file:
                data = json.load(file)
        except OSError as error:
            raise Unavailable("the cluster's configuration", os.strerror(error.errno or 0), "run this on the master node") from error
        except ValueError as error:
            raise Unavailable("the cluster's configuration", f"{self.directory}/config.data is no JSON: {error}") from error
        if not isinstance(data, dict) or "instances" not in data:
            raise Unavailable("the cluster's configuration", f"{self.directory}/config.data holds no instances")
        return data

    def networks(self) -> set[str]:
        """Return the names of the cluster's networks."""
        return {network["name"] for network in (self.load().get("networks") or {}).values()}

    def macs(self) -> dict[str, str]:
        """Return which instance has each MAC address."""
        instances = self.load()["instances"].values()
        return {nic["mac"]: instance["name"] for instance in instances for nic in instance.get("nics") or [] if nic.get("mac")}

    def instances(self) -> dict[str, Instance]:
        """Return all instances by name."""
        return self._instances(self.load())

    @staticmethod
    def _instances(data: Mapping[str, Any]) -> dict[str, Instance]:
        nodes = {uuid: node["name"] for uuid, node in data["nodes"].items()}
        networks = {uuid: network["name"] for uuid, network in (data.get("networks") or {}).items()}
        found = (Instance(instance, nodes, data.get("disks") or {}, networks) for instance in data["instances"].values())
        return {instance.name: instance for instance in found}

    def disks(self) -> dict[str, Disk]:
        """Return all disks by UUID, those of no instance as well."""
        return {uuid: Disk(disk) for uuid, disk in (self.load().get("disks") or {}).items()}

    def everything(self) -> tuple[dict[str, Instance], set[str]]:
        """Return all instances by name, and at the same moment the volumes of disks that were detached and can be attached again."""
        data = self.load()
        attached = {uuid for instance in data["instances"].values() for uuid in instance.get("disks") or []}
        detached = {Disk(disk).volume for uuid, disk in (data.get("disks") or {}).items() if uuid not in attached} - {""}
        return self._instances(data), detached

    def closed_nodes(self) -> dict[str, str]:
        """Return the nodes that are given no instances, each with why."""
        known = {node["name"]: node for node in self.load()["nodes"].values()}
        drained = {name: "is drained" for name, node in known.items() if node.get("drained")}
        return {name: "is not vm_capable" for name, node in known.items() if not node.get("vm_capable", True)} | drained

    def cluster(self) -> dict[str, Any]:
        """Return the cluster's own settings."""
        settings = self.load()["cluster"]
        return dict(settings)

    def groups(self) -> dict[str, dict[str, Any]]:
        """Return every node group's own settings by its name."""
        return {group["name"]: dict(group) for group in self.load()["nodegroups"].values()}

    def jobs(self) -> list[dict[str, Any]]:
        """Return the opcodes that are running now, each as its input; on another node than the master the list may be empty."""
        return self._opcodes(RUNNING)

    def _opcodes(self, states: tuple[str, ...]) -> list[dict[str, Any]]:
        import json

        found: list[dict[str, Any]] = []
        queue = f"{self.directory}/queue"
        try:
            names = sorted((name for name in os.listdir(queue) if name.startswith("job-")), key=lambda name: (len(name), name))
        except OSError:
            return found
        for name in names:
            try:
                with open(f"{queue}/{name}", "rb") as file:
                    job = json.load(file)
            except (OSError, ValueError):
                continue  # archived or rewritten this moment
            found += _opcodes_of(job, states)
        return found

    def running(self, operation: str, instance: str) -> dict[str, Any] | None:
        """Return the input of the operation that is running on an instance, which says what hooks are not told (dry run).

        Where one instance's whole name is how another's begins, each may have one; of several on one the newest job's holds.
        """
        found = [opcode for opcode in self.jobs() if opcode.get("OP_ID") == operation and _is_about(opcode, instance)]
        exact = [opcode for opcode in found if opcode.get("instance_name") == instance]
        return next(reversed(exact or found), None)

    def is_pending(self, instance: str) -> bool:
        """Tell whether a job on an instance runs or is yet to run: what the configuration says of it may not hold in a moment."""
        return any(_is_about(opcode, instance) for opcode in self._opcodes(PENDING))


def _is_about(opcode: Mapping[str, Any], instance: str) -> bool:
    """Tell whether an opcode is about an instance, which was named as the administrator did: perhaps without the domain."""
    named = opcode.get("name") if opcode.get("kind") == "instance" else ""  # of tags
    asked = str(opcode.get("instance_name") or named or "")
    return bool(asked) and (asked == instance or instance.startswith(f"{asked}."))


def _opcodes_of(job: Any, states: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the inputs of a job's opcodes that are in one of the states; a file of another shape has none."""
    ops = job.get("ops") if isinstance(job, dict) else None
    found = [op for op in ops if isinstance(op, dict) and op.get("status") in states] if isinstance(ops, list) else []
    return [op["input"] for op in found if isinstance(op.get("input"), dict)]


# what we ask of Ganeti


def option(value: object) -> str:
    """Return a parameter's value as gnt-instance reads it: commas escaped, truth in lower case."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return option(":".join(str(part) for part in value))
    return str("" if value is None else value).replace("\\", "\\\\").replace(",", "\\,")


def parameters(values: Mapping[str, object]) -> str:
    return ",".join(f"{name}={option(value)}" for name, value in values.items())


def fit_nics(
    nics: list[dict[str, Any]], *, networks: set[str], taken: Mapping[str, str], copy: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return recorded NICs as the cluster can have them now, and what had to be changed about them.

    `taken` says whose each MAC address is. A copy of an instance gets neither its MAC nor its IP addresses.
    """
    fitting, changes = [], []
    for index, recorded in enumerate(nics):
        nic = dict(recorded)
        if nic.get("network") and nic["network"] not in networks:
            changes.append(f"NIC {index} is on the default link: network {nic.pop('network')} is gone")
        if copy:
            nic.pop("ip", None)
            nic["mac"] = "generate"
        elif nic.get("mac") in taken:
            changes.append(f"NIC {index} gets a new MAC address: {taken[nic['mac']]} has {nic['mac']} now")
            nic["mac"] = "generate"
        fitting.append(nic)
    return fitting, changes


def asked_of_disk(disk: Mapping[str, Any]) -> dict[str, object]:
    """Return what --disk is given for a recorded disk; one of ours on ExtStorage may be taken out of the trash by a token."""
    asked: dict[str, object] = {"size": f"{disk['size'] >> 20}M", "mode": disk["mode"]}
    if disk["name"]:
        asked["name"] = disk["name"]
    if "volume" in disk:
        asked |= {"provider": PROVIDER, **disk["parameters"]}
    if "token" in disk:
        asked["trash"] = disk["token"]
    return asked


def add_command(record: Mapping[str, Any], *, name: str, node: str, release: tuple[int, int]) -> list[str]:
    """Return the gnt-instance command that makes a recorded instance again, stopped and with empty file disks."""
    command = [
        "gnt-instance",
        "add",
        "-t",
        record["template"],
        "-n",
        node,
        "--no-install",
        "--no-start",
        "--no-conflicts-check",
        "--ignore-ipolicy",
    ]
    if release < (3, 1):  # later series do not check unless asked, and warn about these options
        command += ["--no-name-check", "--no-ip-check"]
    hypervisor = parameters(record["hv"])
    command += ["-H", record["hypervisor"] + (f":{hypervisor}" if hypervisor else "")]
    if record["be"]:
        command += ["-B", parameters(record["be"])]
    if record["os"]:
        command += ["-o", record["os"], "--force-variant"]  # nothing is installed: the variant may be gone
    if record.get("driver") and record["template"] != EXT:
        command.append(f"--file-driver={record['driver']}")
    if record["osparams"]:
        command += ["-O", parameters(record["osparams"])]
    if record["tags"]:
        command += ["--tags", ",".join(record["tags"])]
    for index, disk in enumerate(record["disks"]):
        command += ["--disk", f"{index}:{parameters(asked_of_disk(disk))}"]
    for index, nic in enumerate(record["nics"]):
        command += ["--net", f"{index}:{parameters(nic)}"]
    if not record["nics"]:
        command.append("--no-nics")
    return [*command, name]
