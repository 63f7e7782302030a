"""Man pages and shell completion out of what the program itself knows: its parser, its settings, its provider's parameters.

A page is Markdown in this directory. Below a heading that is a command, such as `## image import`, its synopsis and options are put in
from the parser; `@SETTINGS@`, `@PARAMETERS@`, `@HOOKS@` and `@STATUS@` become the tables of the program. lowdown(1) makes roff of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from zfsganeti import __version__
from zfsganeti.cli import parser
from zfsganeti.config import SETTINGS
from zfsganeti.contents import PARAMETERS
from zfsganeti.errors import EXIT_STATUS
from zfsganeti.links import LINKS

HERE = Path(__file__).parent
PAGES = sorted(HERE.glob("man/*.[1-8].md"))
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
PLACES = {"INSTANCE": "@instances", "NODE": "@nodes"}  # what is known of what stands for them in a usage, in whatever case
OF_AN_IMAGE = ("show", "rename", "push", "copy", "retire", "restore", "lend", "delete", "verify", "export")
ASKED = {  # commands whose argument only the program itself knows
    "trash restore": "@trash",
    "trash empty": "@entries",
    "image pull": "@everywhere",
    **{f"image {verb}": "@images" for verb in OF_AN_IMAGE},
    **{f"snapshot {verb}": "@snapshots" for verb in ("rollback", "delete", "clone")},
}
NEW = ("new_name",)  # an option's value that must not be there yet


def commands(top: argparse.ArgumentParser | None = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command that can be typed, such as 'image import', with its parser."""
    top = top or parser()
    inner = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield " ".join(words), top
    for action in inner:
        for name, below in action.choices.items():
            yield from commands(below, (*words, name))


# man pages


def page(text: str) -> str:
    """Return a page's Markdown with what the program knows put into it."""
    known = dict(commands())
    text = HEADING.sub(lambda found: _command(found[1], known[found[1]]) if found[1] in known else found[0], text)
    for mark, made in (("@SETTINGS@", _settings), ("@PARAMETERS@", _parameters), ("@HOOKS@", _hooks), ("@STATUS@", _statuses)):
        text = text.replace(mark, made())
    return text


def _command(name: str, made: argparse.ArgumentParser) -> str:
    lines = [f"## {name}", "", _synopsis(made), ""]
    for action in made._actions:
        if isinstance(action, argparse._HelpAction) or action.help in (None, argparse.SUPPRESS):
            continue
        lines += [_naming(action), "", f":   {_sentence(str(action.help) % vars(action))}", ""]
    if made.epilog:
        lines += [f"Example: `{made.epilog.removeprefix('Example: ')}`", ""]
    return "\n".join(lines)


def _synopsis(made: argparse.ArgumentParser) -> str:
    usage = made.format_usage().removeprefix("usage: ").replace(" [-h]", "")
    return f"`{' '.join(usage.split())}`"


def _naming(action: argparse.Action) -> str:
    shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper().replace("_", "-")
    if not action.option_strings:
        return f"*{shown if isinstance(action.metavar, str) else action.dest}*"
    value = "" if action.nargs == 0 else f" *{shown}*"
    return ", ".join(f"**{option}**" for option in action.option_strings) + value


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _settings() -> str:
    lines = []
    for setting in SETTINGS:
        lines += [f"**{setting.name}** (default: {f'`{setting.default}`' if setting.default else 'empty'})", "", f":   {setting.help}", ""]
    return "\n".join(lines)


def _parameters() -> str:
    lines = []
    for name, (_parse, text) in PARAMETERS.items():
        lines += [f"**{name}**", "", f":   {_sentence(text)}", ""]
    return "\n".join(lines)


def _hooks() -> str:
    return ", ".join(f"*{link.rpartition('/')[0]}*" for link in sorted(LINKS)) + "\n"


def _statuses() -> str:
    return "\n".join(f"**{status}**\n\n:   {_sentence(text)}\n" for status, text in EXIT_STATUS.items())


def write_pages(directory: Path) -> None:
    """The directory has every page as roff."""
    directory.mkdir(parents=True, exist_ok=True)
    for source in PAGES:
        name, section, _md = source.name.rsplit(".", 2)
        about = {"title": name.upper(), "section": section, "date": _date(), "source": f"zfsganeti {__version__}", "volume": "zfsganeti"}
        told = [word for key, value in about.items() for word in ("-M", f"{key}={value}")]
        command = ["lowdown", "-s", "-Tman", "--out-no-smarty", "--parse-no-intraemph", *told]
        done = subprocess.run(command, input=page(source.read_text(encoding="utf-8")), capture_output=True, text=True, check=True)
        (directory / f"{name}.{section}").write_text(done.stdout, encoding="utf-8")


def _date() -> str:
    """Return the day of the last change, which is the same whenever and wherever this is run."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _last_commit() or max(int(source.stat().st_mtime) for source in PAGES)
    return time.strftime("%Y-%m-%d", time.gmtime(int(epoch)))


def _last_commit() -> str:
    """Return when the last commit was made, '' where there is no repository."""
    with contextlib.suppress(OSError):
        asked = ["git", "-C", str(HERE), "log", "-1", "--format=%ct"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return ""


# completion

COMPLETION = r"""# bash completion for gnt-zfs, made from its parser
_gnt_zfs_words() {
  case "$1" in
@CASES@
  esac
}

# a column of a table that gnt-zfs shows, without its title
_gnt_zfs_column() {
  local column=$1
  shift
  gnt-zfs "$@" 2>/dev/null | awk -v column="$column" 'NR > 1 { print $column }' | sort -u
}

_gnt_zfs() {
  local current=${COMP_WORDS[COMP_CWORD]} at=$((COMP_CWORD - 1)) path="" given="" colon="" word index
  # bash takes a name with a colon for several words
  if [[ $current == ":" ]]; then
    colon=${COMP_WORDS[at]}: at=$((at - 1)) current=""
  elif [[ ${COMP_WORDS[at]} == ":" ]]; then
    colon=${COMP_WORDS[at - 1]}: at=$((at - 2))
  fi
  local before=${COMP_WORDS[at]}
  [[ $before == "=" ]] && before=${COMP_WORDS[at - 1]}
  [[ $current == "=" ]] && current=""
  COMPREPLY=()
  for ((index = 1; index <= at; index++)); do
    word=${COMP_WORDS[index]}
    [[ $word == -* ]] && continue
    case " $(_gnt_zfs_words "${path#help }") " in
      *" $word "*) path="${path:+$path }$word" ;;
      *) given=${given:-$word} ;;
    esac
  done
  local words=""
  [[ $before == -* ]] && words=$(_gnt_zfs_words "$path $before")
  [[ -n $words ]] || words=$(_gnt_zfs_words "${path#help }")
  [[ $path == "help "* ]] && words=$(printf '%s\n' $words | grep '^[a-z]')
  case " $words " in *" @snapshots "*) [[ -n $given ]] && words="${words//@instances/} $(_gnt_zfs_column 2 snapshot list "$given")" ;; esac
  case " $words " in *" @instances "*) words+=" $(cat /var/lib/ganeti/ssconf_instance_list 2>/dev/null)" ;; esac
  case " $words " in *" @nodes "*) words+=" $(cat /var/lib/ganeti/ssconf_node_list 2>/dev/null)" ;; esac
  case " $words " in *" @trash "*) words+=" $(_gnt_zfs_column 1 trash list)" ;; esac
  case " $words " in *" @entries "*) words+=" $(_gnt_zfs_column 2 trash list)" ;; esac
  case " $words " in *" @images "*) words+=" $(_gnt_zfs_column 1 image list)" ;; esac
  case " $words " in *" @everywhere "*) words+=" $(_gnt_zfs_column 1 image list --all-nodes)" ;; esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -X '@*' -- "$colon$current")
  COMPREPLY=("${COMPREPLY[@]#"$colon"}")
  [[ $current == */* || $current == .* ]] && compopt -o default
}
complete -F _gnt_zfs gnt-zfs
"""


def completion() -> str:
    """Return a script by which bash completes what can be typed; it starts the program only for what that alone knows."""
    found: dict[str, list[str]] = {"": []}
    for name, made in commands():
        words = name.split()
        for depth in range(len(words)):
            step = found.setdefault(" ".join(words[:depth]), [])
            if words[depth] not in step:
                step.append(words[depth])
        found[name] = _words(name, made)
        found.update({f"{name} {option}": values for option, values in _values(made)})
    found["help"] += found[""]
    cases = "\n".join(f'    "{path}") echo "{" ".join(words)}" ;;' for path, words in sorted(found.items()))
    return COMPLETION.replace("@CASES@", cases)


def _words(name: str, made: argparse.ArgumentParser) -> list[str]:
    """Return what can be typed after a command: options, choices of arguments, and marks for what the script asks for."""
    words = [option for action in made._actions for option in action.option_strings if option.startswith("--")]
    places = [word for action in made._actions if not action.option_strings for word in _known(action)]
    return list(dict.fromkeys([*words, *places, *([ASKED[name]] if name in ASKED else [])]))


def _values(made: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    """Yield each option that takes a value, with what that can be; @none stands for what nobody can know."""
    for action in made._actions:
        if action.option_strings and action.nargs != 0:
            for option in action.option_strings:
                yield option, ([] if action.dest in NEW else _known(action)) or ["@none"]


def _known(action: argparse.Action) -> list[str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    places = re.findall(r"[A-Z]+", str(action.metavar or action.dest).upper())
    return [mark for place, mark in PLACES.items() if place in places]


if __name__ == "__main__":
    if sys.argv[1:2] == ["completion"]:
        sys.stdout.write(completion())
    elif sys.argv[1:2] == ["man"] and len(sys.argv) == 3:
        write_pages(Path(sys.argv[2]))
    else:
        raise SystemExit("usage: python3 -m docs.generate completion | man DIRECTORY")
