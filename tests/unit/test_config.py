"""The settings: what is wrong is said all at once, and nothing but BadConfig ever comes out of a text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfsganeti import config
from zfsganeti.errors import BadConfig

DEFAULTS = {
    "root": "",
    "datastores": {},
    "trash_days": 7,
    "trash_min_free": 10,
    "overcommit": 200,
    "fill_directories": (),
    "image_pull": 0,
    "image_max": 4096,
    "warn_free": 15,
    "allow_degraded": 0,
    "leftover_minutes": 60,
    "recordsize": 65536,
    "compression": "lz4",
    "busy_seconds": 30,
    "attach_seconds": 60,
    "patch": 0,
    "ssh_cipher": "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr",
    "peer_seconds": 120,
}

quick = settings(max_examples=200, deadline=None, derandomize=True)


def test_without_a_file_there_are_the_defaults(tmp_path: Path) -> None:
    assert vars(config.load(str(tmp_path / "none"))) == DEFAULTS


def test_the_sample_sets_nothing_and_names_every_setting() -> None:
    assert vars(config.parse(config.sample())) == DEFAULTS
    told = [line[1:] for line in config.sample().splitlines() if line.startswith("#") and not line.startswith("# ")]
    assert vars(config.parse("\n".join(told))) == DEFAULTS
    assert [line.split(" ")[0] for line in told] == list(DEFAULTS)


def test_the_shipped_sample_is_the_one_made_from_the_table() -> None:
    shipped = Path(__file__).parents[2] / "zfsganeti.conf.sample"
    assert shipped.read_text(encoding="utf-8") == config.sample()


def test_a_file_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "zfsganeti.conf"
    path.write_text("# ours\n\n root = tank/vm \ntrash_days=0\nrecordsize = 16k\ncompression = zstd\n", encoding="utf-8")
    assert vars(config.load(str(path))) == {**DEFAULTS, "root": "tank/vm", "trash_days": 0, "recordsize": 16384, "compression": "zstd"}


def test_all_problems_are_told_at_once_with_setting_and_line() -> None:
    text = "trash_days = soon\nno equals\n# fine\ncolour = red\nroot = /zfs/vm\n"
    text += "warn_free = 91\ncompression = gzip\ntrash_days = 3\nrecordsize = 100K"
    with pytest.raises(BadConfig) as caught:
        config.parse(text, "/etc/x.conf")
    names = ", ".join(DEFAULTS)
    assert caught.value.problems == [
        "line 1: trash_days: 'soon' is not a whole number of days from 0 to 3650",
        "line 2: 'no equals' is not of the form setting = value",
        f"line 4: 'colour' is no setting; there are {names}",
        "line 5: root: '/zfs/vm' is not the name of a dataset, such as zfs/vm",
        "line 6: warn_free: '91' is not a whole number of percent from 0 to 90",
        "line 7: compression: 'gzip' is none of off, on, lz4, zstd, zle",
        "line 8: trash_days is set twice",
        "line 9: recordsize: '100K' is not a power of two from 512 to 1M",
    ]
    assert str(caught.value) == "/etc/x.conf: " + "; ".join(caught.value.problems)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["1", "512", "1M", "1m", "128K", "65536"])
def test_record_sizes_are_powers_of_two(text: str) -> None:
    if text == "1":
        with pytest.raises(ValueError):
            config.recordsize(text)
    else:
        assert config.recordsize(text) in (512, 1 << 20, 128 << 10, 65536)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "zfsganeti.conf"
    path.write_bytes(b"root = zf\xffs")
    with pytest.raises(BadConfig) as caught:
        config.load(str(path))
    assert caught.value.problems == ["byte 9 is not UTF-8"]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        config.load(str(tmp_path))
    assert caught.value.problems == ["Is a directory"]


@quick
@given(st.text())
def test_any_text_is_parsed_or_bad(text: str) -> None:
    try:
        config.parse(text)
    except BadConfig as error:
        assert error.problems


lines = st.tuples(
    st.sampled_from(list(DEFAULTS)), st.one_of(st.text(max_size=12), st.integers().map(str), st.just("²"), st.just("9" * 5000))
)


@quick
@given(st.lists(lines, max_size=6))
def test_any_value_of_a_setting_is_parsed_or_bad(pairs: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{name} = {value}" for name, value in pairs)
    try:
        parsed = vars(config.parse(text))
    except BadConfig as error:
        assert error.problems
    else:
        assert set(parsed) == set(DEFAULTS)
        assert 0 <= parsed["trash_days"] <= 3650
        assert parsed["compression"] in config.COMPRESSIONS


@quick
@given(st.binary())
def test_any_bytes_are_parsed_or_bad(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.conf"
    path.write_bytes(raw)
    try:
        config.load(str(path))
    except BadConfig as error:
        assert error.problems


def test_a_setting_is_saved_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "zfsganeti.conf"
    config.save("patch", "1", str(path))
    path.write_text("# ours\npatch = 0\nroot = tank/vm\n", encoding="utf-8")
    config.save("patch", "1", str(path))
    assert path.read_text(encoding="utf-8") == "# ours\nroot = tank/vm\npatch = 1\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["zfsganeti.conf"]


@pytest.mark.parametrize("mark", ["\r", "\x0c", "\x85", "\u2028"])
def test_what_ends_a_line_elsewhere_does_not_when_a_setting_is_saved(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "zfsganeti.conf"
    path.write_text(f"# one{mark}two\r\ntrash_days = 3\n", encoding="utf-8", newline="")
    config.save("root", "tank/vm", str(path))
    assert path.read_bytes().decode() == f"# one{mark}two\r\ntrash_days = 3\nroot = tank/vm\n"
    assert config.load(str(path)).trash_days == 3
