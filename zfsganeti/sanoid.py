"""A policy for sanoid that fits a root of ours: every instance and volume, and nothing that only passes through."""

from __future__ import annotations

from collections.abc import Sequence

from zfsganeti.datasets import BACK, COPIES, IMAGES, MOVING, TRASH

HIDDEN = (TRASH, IMAGES, COPIES, MOVING, BACK)  # also where one does not exist yet: what comes later is left alone
HEAD = """\
# sanoid's policy for the instances of this node, written by gnt-zfs snapshot policy > /etc/sanoid/sanoid.conf
# Numbers are how many are kept. An instance is given another policy in a section of its own at the end, such as
#   [{example}/web1.example.com]
#     use_template = zfsganeti
#     daily = 60
# gnt-zfs counts these snapshots as others': it never destroys one unless told to.
"""
TEMPLATES = """
[template_zfsganeti]
\tautosnap = yes
\tautoprune = yes
\tfrequently = 0
\thourly = 36
\tdaily = 30
\tmonthly = 3
\tyearly = 0

[template_zfsganeti_none]
\tautosnap = no
\tautoprune = no
\tmonitor = no
"""


def policy(roots: Sequence[str]) -> str:
    """Return a sanoid.conf for these roots, the same for sanoid 2.1 and 2.2.

    A section applies to what exists below it when sanoid runs; later ones take back what earlier ones said.
    """
    said = [HEAD.format(example=roots[0])]
    for root in roots:
        said.append(f"\n[{root}]\n\tuse_template = zfsganeti\n\trecursive = yes\n\tprocess_children_only = yes\n")
        said += [f"\n[{root}/{hidden}]\n\tuse_template = zfsganeti_none\n\tskip_children = yes\n" for hidden in HIDDEN]
    return "".join(said) + TEMPLATES
