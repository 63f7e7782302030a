"""What Ganeti tells us: names, hook environments, ssconf, the configuration and the job queue, and what we ask of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti import ganeti, here
from zfsganeti.errors import BadEnvironment, BadName, Busy, Missing, Unavailable
from zfsganeti.names import check_dataset

quick = settings(max_examples=300, deadline=None, derandomize=True)
MIB, GIB = 1 << 20, 1 << 30

# names


@pytest.mark.parametrize("name", ["web1", "web1.example.com", "1", "a_b-c.d", "x" * 200])
def test_usual_names_are_accepted(name: str) -> None:
    assert ganeti.check_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "must have 1 to 200 characters"),
        ("x" * 201, "must have 1 to 200 characters"),
        ("Web1", "must be lower-case letters, digits, '.', '-' and '_', and begin with a letter or digit"),
        (".images", "must be lower-case letters, digits, '.', '-' and '_', and begin with a letter or digit"),
        ("-rf", "must be lower-case letters, digits, '.', '-' and '_', and begin with a letter or digit"),
        ("web1:x", "must be lower-case letters, digits, '.', '-' and '_', and begin with a letter or digit"),
        ("a/b", "must be lower-case letters, digits, '.', '-' and '_', and begin with a letter or digit"),
        ("web1\n", "must be lower-case letters, digits, '.', '-' and '_', and begin with a letter or digit"),
        ("wéb", "must be lower-case letters, digits, '.', '-' and '_', and begin with a letter or digit"),
        ("a..b", "must not contain '..'"),
    ],
)
def test_other_names_are_refused_with_a_reason(name: str, why: str) -> None:
    with pytest.raises(BadName) as caught:
        ganeti.check_name(name)
    assert str(caught.value) == f"instance name {name[:80]!r}: {why}"


@quick
@given(st.one_of(st.text(max_size=30), st.text("ab.-_:@/ 1", max_size=12), st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True)))
def test_what_is_accepted_is_one_component_of_a_dataset_and_never_hidden(name: str) -> None:
    try:
        accepted = ganeti.check_name(name)
    except BadName:
        return
    assert accepted == name
    assert check_dataset(f"zfs/vm/.trash/{name}:20260101T000000Z.9").count("/") == 3
    assert not name.startswith(".")
    assert os.path.normpath(f"/zfs/vm/{name}") == f"/zfs/vm/{name}"


# hooks

ADD: dict[str, str] = {
    "GANETI_HOOKS_VERSION": "2",
    "GANETI_HOOKS_PATH": "instance-add",
    "GANETI_HOOKS_PHASE": "pre",
    "GANETI_OP_CODE": "OP_INSTANCE_CREATE",
    "GANETI_CLUSTER": "cluster.example.com",
    "GANETI_MASTER": "node1.example.com",
    "GANETI_INSTANCE_NAME": "web1.example.com",
    "GANETI_INSTANCE_PRIMARY": "node2.example.com",
    "GANETI_INSTANCE_DISK_TEMPLATE": "file",
    "GANETI_INSTANCE_DISK_COUNT": "2",
    "GANETI_INSTANCE_DISK0_SIZE": "1024",
    "GANETI_INSTANCE_DISK1_SIZE": "5",
}


def test_an_event_is_what_the_environment_says() -> None:
    event = ganeti.Event(ADD)
    assert (event.hook, event.operation, event.cluster) == ("instance-add-pre", "OP_INSTANCE_CREATE", "cluster.example.com")
    assert (event.instance, event.primary, event.master) == ("web1.example.com", "node2.example.com", "node1.example.com")
    assert (event.template, event.new_template, event.post_template) == ("file", "", "file")
    assert event.sizes == [GIB, 5 * MIB]
    assert (event.post_primary, event.disk_paths, event.export_removes) == ("node2.example.com", [], False)


def test_what_holds_after_the_operation_is_told_apart() -> None:
    event = ganeti.Event(
        {
            **ADD,
            "GANETI_HOOKS_PHASE": "post",
            "GANETI_POST_INSTANCE_PRIMARY": "node3.example.com",
            "GANETI_POST_INSTANCE_DISK_TEMPLATE": "plain",
            "GANETI_POST_INSTANCE_DISK_COUNT": "0",
            "GANETI_INSTANCE_DISK0_ID": "/zfs/vm/web1.example.com/a.file.disk0",
            "GANETI_INSTANCE_DISK1_ID": "['xenvg', 'x']",
            "GANETI_TARGET_NODE": "node4.example.com",
            "GANETI_INSTANCE_NEW_NAME": "web2.example.com",
            "GANETI_REMOVE_INSTANCE": "True",
        }
    )
    assert (event.hook, event.post_primary, event.post_template, event.post_disk_count) == (
        "instance-add-post",
        "node3.example.com",
        "plain",
        0,
    )
    assert event.disk_paths == ["/zfs/vm/web1.example.com/a.file.disk0"]
    assert (event.target, event.new_name, event.export_removes) == ("node4.example.com", "web2.example.com", True)


def test_the_watcher_has_no_name_of_its_own() -> None:
    assert ganeti.hook_name({}) == "watcher"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GANETI_HOOKS_VERSION", "3", "GANETI_HOOKS_VERSION is '3': only version 2 is known"),
        ("GANETI_HOOKS_PHASE", "during", "GANETI_HOOKS_PHASE is 'during': Ganeti calls hooks with pre or post"),
        ("GANETI_MASTER", None, "GANETI_MASTER is not set: Ganeti always sets it in this hook"),
        ("GANETI_INSTANCE_PRIMARY", "", "GANETI_INSTANCE_PRIMARY is '': Ganeti always sets it in this hook"),
        ("GANETI_CLUSTER", "a b", "GANETI_CLUSTER is 'a b': Ganeti always sets it in this hook"),
        (
            "GANETI_INSTANCE_NAME",
            "../x",
            "GANETI_INSTANCE_NAME is '../x': Ganeti always sets it in this hook",
        ),
        ("GANETI_INSTANCE_NAME", "a..b", "GANETI_INSTANCE_NAME is 'a..b': must not contain '..'"),
        ("GANETI_INSTANCE_DISK_COUNT", "17", "GANETI_INSTANCE_DISK_COUNT is '17': must be a number up to 16"),
        ("GANETI_INSTANCE_DISK1_SIZE", None, f"GANETI_INSTANCE_DISK1_SIZE is not set: must be a number up to {1 << 34}"),
        ("GANETI_INSTANCE_DISK1_SIZE", "-1", f"GANETI_INSTANCE_DISK1_SIZE is '-1': must be a number up to {1 << 34}"),
        ("GANETI_INSTANCE_DISK1_SIZE", "²", f"GANETI_INSTANCE_DISK1_SIZE is '²': must be a number up to {1 << 34}"),
    ],
)
def test_an_absurd_environment_is_told_by_its_variable(variable: str, value: str | None, said: str) -> None:
    environ = {key: old for key, old in ADD.items() if key != variable} | ({} if value is None else {variable: value})
    with pytest.raises(BadEnvironment) as caught:
        ganeti.Event(environ)
    assert str(caught.value) == said


def test_a_disk_grows_by_an_amount_or_to_one() -> None:
    assert ganeti.Event({**ADD, "GANETI_AMOUNT": "100", "GANETI_DISK": "0"}).growth == 100 * MIB
    assert ganeti.Event({**ADD, "GANETI_AMOUNT": "100", "GANETI_ABSOLUTE": "False"}).growth == 100 * MIB
    absolute = {**ADD, "GANETI_ABSOLUTE": "True", "GANETI_DISK": "0"}
    assert ganeti.Event({**absolute, "GANETI_AMOUNT": "1536"}).growth == 512 * MIB
    assert ganeti.Event({**absolute, "GANETI_AMOUNT": "10"}).growth == 0
    assert ganeti.Event({**absolute, "GANETI_AMOUNT": "10", "GANETI_DISK": "9"}).growth == 10 * MIB


values = st.one_of(st.text(max_size=10), st.integers().map(str), st.sampled_from(["True", "pre", "post", "file", "2", "9" * 40]))
properties = ("growth", "post_disk_count", "new_name", "target", "disk_paths", "export_removes")


@quick
@given(
    st.dictionaries(st.sampled_from([*ADD, "GANETI_AMOUNT", "GANETI_ABSOLUTE", "GANETI_DISK", "GANETI_TARGET_NODE"]), values, max_size=4)
)
def test_a_fuzzed_environment_is_a_value_or_bad(changes: dict[str, str]) -> None:
    try:
        event = ganeti.Event({**ADD, **changes})
        assert all(0 <= size <= 1 << 54 for size in event.sizes)
        assert ganeti.check_name(event.instance) == event.instance
    except BadEnvironment:
        return
    for name in properties:
        try:
            getattr(event, name)
        except BadEnvironment as error:
            assert error.variable.startswith("GANETI_")


@quick
@given(st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3))
def test_what_kind_of_storage_is_read_from_any_environment(environ: dict[str, str]) -> None:
    assert ganeti.storage_kinds(environ) == ("", "")
    assert ganeti.storage_kinds({**environ, "GANETI_INSTANCE_DISK_TEMPLATE": "drbd"}) == ("drbd", "")


# ssconf


@pytest.fixture
def ssconf(tmp_path: Path) -> ganeti.Ssconf:
    files = {
        "cluster_name": "cluster.example.com\n",
        "master_node": "node1\n",
        "file_storage_dir": "/zfs/vm/\n",
        "node_list": "node1\nnode2\n",
        "offline_nodes": "",
        "instance_list": "web1\nweb2",
        "node_primary_ips": "node1 203.0.113.1\nnode2 203.0.113.2\n\ngarbage\n",
        "release_version": "3.0.2\n",
    }
    for name, text in files.items():
        (tmp_path / f"ssconf_{name}").write_text(text, encoding="utf-8")
    return ganeti.Ssconf(str(tmp_path))


def test_ssconf_is_read(ssconf: ganeti.Ssconf) -> None:
    assert (ssconf.cluster, ssconf.master, ssconf.storage_directory) == ("cluster.example.com", "node1", "/zfs/vm")
    assert (ssconf.nodes, ssconf.offline_nodes, ssconf.instances) == (["node1", "node2"], [], ["web1", "web2"])
    assert ssconf.addresses == {"node1": "203.0.113.1", "node2": "203.0.113.2"}
    assert ssconf.release == (3, 0)


def test_no_storage_directory_is_no_path(ssconf: ganeti.Ssconf) -> None:
    Path(ssconf.directory, "ssconf_file_storage_dir").write_text("\n", encoding="utf-8")
    assert ssconf.storage_directory == ""


def test_a_machine_that_is_no_node_says_so(tmp_path: Path) -> None:
    with pytest.raises(Missing) as caught:
        _ = ganeti.Ssconf(str(tmp_path)).cluster
    assert str(caught.value) == f"{tmp_path}/ssconf_cluster_name does not exist: is this machine a node of a Ganeti cluster?"


def test_ssconf_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ssconf_cluster_name").mkdir()
    with pytest.raises(Unavailable) as caught:
        _ = ganeti.Ssconf(str(tmp_path)).cluster
    assert str(caught.value) == f"{tmp_path}/ssconf_cluster_name: Is a directory"


@pytest.mark.parametrize("text", ["", "3", "three.zero", "3.x"])
def test_a_release_that_is_none_is_unavailable(ssconf: ganeti.Ssconf, text: str) -> None:
    Path(ssconf.directory, "ssconf_release_version").write_text(text, encoding="utf-8")
    with pytest.raises(Unavailable):
        _ = ssconf.release


def test_this_node_is_known_by_its_name_or_address(ssconf: ganeti.Ssconf) -> None:
    assert ssconf.this_node("node2") == "node2"
    with pytest.raises(Missing) as caught:
        ssconf.this_node("elsewhere")
    assert str(caught.value) == "a node of this cluster named elsewhere or with an address of this machine does not exist"
    Path(ssconf.directory, "ssconf_node_primary_ips").write_text("node1 203.0.113.1\nnode3 127.0.0.1\n", encoding="utf-8")
    assert ssconf.this_node("elsewhere") == "node3"


def test_a_peer_is_reached_with_ganetis_own_keys(ssconf: ganeti.Ssconf) -> None:
    command = ssconf.ssh("node2")
    assert command[0] == "ssh"
    assert command[-2:] == ["-T", "root@node2"]
    assert {
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=yes",
        "-oHostKeyAlias=cluster.example.com",
        f"-oGlobalKnownHostsFile={ssconf.directory}/known_hosts",
    } < set(command)


@pytest.mark.parametrize("node", ["node9", "-oProxyCommand=x", "node2 node1", ""])
def test_only_nodes_of_the_cluster_are_reached(ssconf: ganeti.Ssconf, node: str) -> None:
    with pytest.raises(Missing) as caught:
        ssconf.ssh(node)
    assert str(caught.value) == f"node {node} does not exist: the cluster has node1, node2"


# the configuration

CONFIG: dict[str, Any] = {
    "cluster": {"enabled_disk_templates": ["file"], "file_storage_dir": "/zfs/vm"},
    "nodes": {"n-1": {"name": "node1"}, "n-2": {"name": "node2"}},
    "nodegroups": {"g-1": {"name": "default", "ipolicy": {}}},
    "networks": {"net-1": {"name": "blue"}},
    "disks": {
        "d-1": {"uuid": "d-1", "dev_type": "file", "size": 1024, "logical_id": ["loop", "/zfs/vm/web1/x.file.disk0"], "name": "root"},
        "d-2": {"uuid": "d-2", "dev_type": "file", "size": 10, "logical_id": ["loop", "/zfs/vm/web1/x.file.disk1"], "mode": "ro"},
    },
    "instances": {
        "i-1": {
            "name": "web1",
            "uuid": "i-1",
            "primary_node": "n-2",
            "admin_state": "up",
            "disks": ["d-1", "d-2", "d-gone"],
            "os": "debootstrap+default",
            "hypervisor": "kvm",
            "beparams": {"maxmem": 512},
            "hvparams": {"kernel_args": "ro,quiet", "acpi": True},
            "osparams": {"key": "a,b\\c"},
            "osparams_private": {"password": "secret"},
            "tags": ["b", "a"],
            "nics": [
                {"mac": "aa:00:00:00:00:01", "ip": None, "name": None, "nicparams": {"mode": "bridged", "link": "br0", "vlan": ""}},
                {"mac": "aa:00:00:00:00:02", "ip": "203.0.113.9", "network": "net-1", "nicparams": {"link": "br1"}},
            ],
        },
        "i-2": {"name": "empty", "uuid": "i-2", "primary_node": None, "hypervisor": "fake", "disk_template": "diskless", "disks": None},
    },
}


@pytest.fixture
def master(tmp_path: Path) -> ganeti.Master:
    (tmp_path / "config.data").write_text(json.dumps(CONFIG), encoding="utf-8")
    return ganeti.Master(str(tmp_path))


def test_instances_are_what_the_configuration_has(master: ganeti.Master) -> None:
    found = master.instances()
    web1, empty = found["web1"], found["empty"]
    assert (web1.uuid, web1.primary, web1.template, web1.admin_state) == ("i-1", "node2", "file", "up")
    assert [(disk.size, disk.path, disk.mode, disk.name) for disk in web1.disks] == [
        (GIB, "/zfs/vm/web1/x.file.disk0", "rw", "root"),
        (10 * MIB, "/zfs/vm/web1/x.file.disk1", "ro", None),
    ]
    assert (empty.primary, empty.template, empty.disks) == ("", "diskless", [])
    assert master.cluster() == CONFIG["cluster"]
    assert master.groups() == {"default": {"name": "default", "ipolicy": {}}}


@pytest.mark.parametrize("attached", [False, True])
def test_a_disk_is_an_instances_or_nobodys_also_while_it_is_attached_or_detached(
    master: ganeti.Master, monkeypatch: pytest.MonkeyPatch, attached: bool
) -> None:
    disks = {"d-9": {"uuid": "d-9", "dev_type": "ext", "size": 1, "logical_id": ["zfs", "v.ext.disk0"]}}
    states = [{**CONFIG, "disks": disks, "instances": {"i": {**CONFIG["instances"]["i-1"], "disks": own}}} for own in ([], ["d-9"])]
    states = states[::-1] if attached else states
    monkeypatch.setattr(master, "load", lambda: states.pop(0))
    instances, detached = master.everything()
    assert {disk.volume for disk in instances["web1"].disks} ^ detached == {"v.ext.disk0"}
    assert len(states) == 1


def test_an_instance_in_a_newer_configuration_has_its_template_with_its_disks(tmp_path: Path) -> None:
    data = json.loads(json.dumps(CONFIG))
    del data["instances"]["i-2"]["disk_template"]
    data["networks"] = None
    (tmp_path / "config.data").write_text(json.dumps(data), encoding="utf-8")
    found = ganeti.Master(str(tmp_path)).instances()
    assert (found["web1"].template, found["empty"].template) == ("file", "diskless")


def test_the_record_holds_all_but_passwords(master: ganeti.Master) -> None:
    record = master.instances()["web1"].record()
    assert record == {
        "name": "web1",
        "uuid": "i-1",
        "os": "debootstrap+default",
        "hypervisor": "kvm",
        "be": {"maxmem": 512},
        "hv": {"kernel_args": "ro,quiet", "acpi": True},
        "osparams": {"key": "a,b\\c"},
        "private": ["password"],
        "tags": ["a", "b"],
        "state": "up",
        "template": "file",
        "driver": "loop",
        "nics": [
            {"mode": "bridged", "link": "br0", "mac": "aa:00:00:00:00:01"},
            {"network": "blue", "mac": "aa:00:00:00:00:02", "ip": "203.0.113.9"},
        ],
        "disks": [
            {"file": "x.file.disk0", "size": GIB, "mode": "rw", "name": "root"},
            {"file": "x.file.disk1", "size": 10 * MIB, "mode": "ro", "name": None},
        ],
    }
    assert "secret" not in json.dumps(record)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory: run this on the master node"),
        ("{", "is no JSON"),
        ("[]", "holds no instances"),
        ("{}", "holds no"),
    ],
)
def test_a_configuration_that_is_none_is_unavailable(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "config.data").write_text(text, encoding="utf-8")
    with pytest.raises(Unavailable) as caught:
        ganeti.Master(str(tmp_path)).instances()
    assert str(caught.value).startswith("the cluster's configuration: ")
    assert said in str(caught.value)


# the job queue


def job(**op: Any) -> str:
    return json.dumps({"ops": [{"status": "success", "input": {"OP_ID": "OP_DONE", "instance_name": "old"}}, op]})


@pytest.fixture
def queue(master: ganeti.Master) -> ganeti.Master:
    place = Path(master.directory, "queue")
    place.mkdir()
    rename = {"OP_ID": "OP_INSTANCE_RENAME", "instance_name": "web1.example.com", "dry_run": True}
    (place / "job-1").write_text(job(status="running", input=rename), encoding="utf-8")
    (place / "job-2").write_text(job(status="queued", input={"OP_ID": "OP_QUEUED"}), encoding="utf-8")
    (place / "job-3").write_text(job(status="canceling", input={"OP_ID": "OP_INSTANCE_REMOVE", "instance_name": "web2"}), encoding="utf-8")
    for number, text in enumerate(("", "{", "\xff", '{"ops": [{"status": "running"}]}', "{}"), 4):
        (place / f"job-{number}").write_bytes(text.encode("latin-1"))
    (place / "job-9").symlink_to("gone")
    (place / "serial").write_text("9", encoding="utf-8")
    (place / "archive").mkdir()
    return master


def test_running_opcodes_are_found_among_garbage(queue: ganeti.Master) -> None:
    assert sorted(str(opcode["OP_ID"]) for opcode in queue.jobs()) == ["OP_INSTANCE_REMOVE", "OP_INSTANCE_RENAME"]


@pytest.mark.parametrize("text", ["[]", "7", '"x"', "null", '{"ops": null}', '{"ops": [3]}', '{"ops": {"a": 1}}'])
def test_a_job_file_of_another_shape_is_passed_over(queue: ganeti.Master, text: str) -> None:
    Path(queue.directory, "queue", "job-10").write_text(text, encoding="utf-8")
    assert len(queue.jobs()) == 2


def test_without_a_queue_no_job_is_known(tmp_path: Path) -> None:
    assert ganeti.Master(str(tmp_path)).jobs() == []
    assert ganeti.Master(str(tmp_path)).running("OP_INSTANCE_REMOVE", "web1") is None


def test_the_running_operation_on_an_instance_is_found_by_short_names_too(queue: ganeti.Master) -> None:
    found = queue.running("OP_INSTANCE_RENAME", "web1.example.com")
    assert found is not None
    assert found["dry_run"] is True
    assert queue.running("OP_INSTANCE_REMOVE", "web2.example.com") is not None
    assert queue.running("OP_INSTANCE_REMOVE", "web22.example.com") is None
    assert queue.running("OP_INSTANCE_REMOVE", "web1.example.com") is None
    assert queue.running("OP_QUEUED", "web1.example.com") is None


@pytest.mark.parametrize("numbers", [(8, 9), (9, 10), (10, 9)])
def test_an_operation_on_an_instance_whose_name_begins_with_another_ones_is_not_mistaken_for_that_ones(
    queue: ganeti.Master, numbers: tuple[int, int]
) -> None:
    """What is asked of the disks of one would be taken for what is asked of the other's, and what is removed would not be kept."""
    for number, name in zip(numbers, ("shop", "shop.example.com"), strict=True):
        asked = {"OP_ID": "OP_INSTANCE_SET_PARAMS", "instance_name": name, "disks": [["remove", number, {}]]}
        Path(queue.directory, "queue", f"job-{number}").write_text(job(status="running", input=asked), encoding="utf-8")
    for number, name in zip(numbers, ("shop", "shop.example.com"), strict=True):
        found = queue.running("OP_INSTANCE_SET_PARAMS", name)
        assert found is not None
        assert found["disks"] == [["remove", number, {}]]


def test_of_an_operation_that_died_with_the_master_and_a_later_one_the_later_is_running(queue: ganeti.Master) -> None:
    for number, dry in ((9, True), (10, False)):
        asked = {"OP_ID": "OP_INSTANCE_SET_PARAMS", "instance_name": "shop", "dry_run": dry}
        Path(queue.directory, "queue", f"job-{number}").write_text(job(status="running", input=asked), encoding="utf-8")
    found = queue.running("OP_INSTANCE_SET_PARAMS", "shop")
    assert found is not None
    assert found["dry_run"] is False


def test_what_is_yet_to_run_is_pending_and_not_running(queue: ganeti.Master) -> None:
    for number, status in enumerate(("queued", "waiting", "canceling", "success"), 20):
        text = job(status=status, input={"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": f"db{number}"})
        Path(queue.directory, "queue", f"job-{number}").write_text(text, encoding="utf-8")
    tags = {"OP_ID": "OP_TAGS_SET", "kind": "instance", "name": "tagged.example.com", "tags": ["x"]}
    Path(queue.directory, "queue", "job-30").write_text(job(status="queued", input=tags), encoding="utf-8")
    pending = ["db20.example.com", "db21", "db22", "web1.example.com", "tagged.example.com"]
    assert [name for name in [*pending, "db23", "db2", "old", ""] if queue.is_pending(name)] == pending
    assert len(queue.jobs()) == 3


def test_a_job_that_is_yet_to_run_is_pending(queue: ganeti.Master) -> None:
    waits = {"OP_ID": "OP_INSTANCE_SET_PARAMS", "instance_name": "web3"}
    for status in ("queued", "waiting", "running", "canceling", "success", "error", "canceled"):
        Path(queue.directory, "queue", "job-10").write_text(job(status=status, input=waits), encoding="utf-8")
        assert queue.is_pending("web3.example.com") == (status in ganeti.PENDING), status
        assert queue.running("OP_INSTANCE_SET_PARAMS", "web3") is not None or status not in ("running", "canceling")
    assert not queue.is_pending("web33.example.com")
    assert not queue.is_pending("old2")
    assert len(queue.jobs()) == 2


def test_nodes_that_are_given_no_instances(master: ganeti.Master) -> None:
    data = json.loads(Path(master.directory, "config.data").read_text(encoding="utf-8"))
    one, two = list(data["nodes"].values())[:2]
    one["drained"], two["vm_capable"] = True, False
    Path(master.directory, "config.data").write_text(json.dumps(data), encoding="utf-8")
    assert master.closed_nodes() == {one["name"]: "is drained", two["name"]: "is not vm_capable"}


class Queue:
    """A master on which a job is seen so many times."""

    def __init__(self, seen: int) -> None:
        self.left = seen

    def is_pending(self, instance: str) -> bool:
        assert instance == "web1"
        self.left -= 1
        return self.left >= 0


def test_jobs_are_waited_for_and_that_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    place, said = here.Here(dict), list[str]()
    place.__dict__["master"] = Queue(2)
    place.wait_for_jobs("web1", said.append)
    assert said == ["web1: waiting for the job of Ganeti's that works on it"]
    assert slept == [here.LOOK_SECONDS] * 2
    place.__dict__["master"] = Queue(0)
    place.wait_for_jobs("web1", said.append, submitted=True)
    assert (len(said), len(slept)) == (1, 3)
    place.__dict__["master"] = Queue(10)
    with pytest.raises(Busy, match="^web1: a job of Ganeti's works on it: gnt-job list shows it; then the same command goes on$"):
        place.wait_for_jobs("web1", said.append, seconds=-1)


# what we ask of Ganeti


def test_the_add_command_makes_the_recorded_instance_again(master: ganeti.Master) -> None:
    record = master.instances()["web1"].record()
    start = ["gnt-instance", "add", "-t", "file", "-n", "node2", "--no-install", "--no-start", "--no-conflicts-check", "--ignore-ipolicy"]
    rest = [
        "-H",
        "kvm:kernel_args=ro\\,quiet,acpi=true",
        "-B",
        "maxmem=512",
        "-o",
        "debootstrap+default",
        "--force-variant",
        "--file-driver=loop",
        "-O",
        "key=a\\,b\\\\c",
        "--tags",
        "a,b",
        "--disk",
        "0:size=1024M,mode=rw,name=root",
        "--disk",
        "1:size=10M,mode=ro",
        "--net",
        "0:mode=bridged,link=br0,mac=aa:00:00:00:00:01",
        "--net",
        "1:network=blue,mac=aa:00:00:00:00:02,ip=203.0.113.9",
        "web1",
    ]
    checks = ["--no-name-check", "--no-ip-check"]
    assert ganeti.add_command(record, name="web1", node="node2", release=(3, 0)) == start + checks + rest
    assert ganeti.add_command(record, name="web1", node="node2", release=(2, 16)) == start + checks + rest
    assert ganeti.add_command(record, name="web1", node="node2", release=(3, 1)) == start + rest


def test_a_copy_gets_neither_the_mac_nor_the_ip_addresses(master: ganeti.Master) -> None:
    nics = master.instances()["web1"].record()["nics"]
    fitting, changes = ganeti.fit_nics(nics, networks={"blue"}, taken={}, copy=True)
    assert fitting == [{"mode": "bridged", "link": "br0", "mac": "generate"}, {"network": "blue", "mac": "generate"}]
    assert changes == []


def test_nics_come_back_as_the_cluster_can_have_them_now() -> None:
    nics = [{"mac": "aa:00:00:00:00:01", "network": "gone", "ip": "192.0.2.7"}, {"mac": "aa:00:00:00:00:02", "link": "br0"}]
    fitting, changes = ganeti.fit_nics(nics, networks={"blue"}, taken={"aa:00:00:00:00:02": "db1"}, copy=False)
    assert fitting == [{"mac": "aa:00:00:00:00:01", "ip": "192.0.2.7"}, {"mac": "generate", "link": "br0"}]
    assert changes == [
        "NIC 0 is on the default link: network gone is gone",
        "NIC 1 gets a new MAC address: db1 has aa:00:00:00:00:02 now",
    ]
    assert nics[0]["network"] == "gone", "the record itself is not changed"
    assert ganeti.fit_nics(nics, networks={"gone"}, taken={}, copy=False) == (nics, [])


def test_what_an_instance_has_not_is_not_asked_for(master: ganeti.Master) -> None:
    record = master.instances()["empty"].record()
    command = ganeti.add_command(record, name="empty", node="node1", release=(3, 1))
    assert command[-4:] == ["-H", "fake", "--no-nics", "empty"]
    assert not {"-B", "-o", "-O", "--tags", "--disk", "--net"} & set(command)


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (None, ""), (5, "5"), ("a,b", "a\\,b"), ("a\\b", "a\\\\b"), (["x", "y"], "x:y")],
)
def test_values_are_written_as_gnt_instance_reads_them(value: object, text: str) -> None:
    assert ganeti.option(value) == text


def unescape_and_split(text: str) -> list[str]:
    """What Ganeti's utils.UnescapeAndSplit promises: commas separate unless escaped, a backslash escapes itself."""
    parts, current, escaped = [], "", False
    for character in text:
        if escaped:
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        elif character == ",":
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current]


@quick
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text("x,\\=:", max_size=8), min_size=1))
def test_parameters_come_back_from_ganetis_parser_as_they_were(values: dict[str, str]) -> None:
    pairs = [part.partition("=") for part in unescape_and_split(ganeti.parameters(values))]
    assert {name: value for name, _equals, value in pairs} == values
