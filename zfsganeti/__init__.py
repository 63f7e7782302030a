"""Storage on a node's own ZFS for the instances of a Ganeti cluster."""

__version__ = "0.1.0"
