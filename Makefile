# Two commands: `make demo` shows the main job in a lab of virtual machines, `make test` runs every test. Both need root and
# Debian 12 or 13 and install what is missing. `make check` is the quick loop without root.

PYTHON := /usr/bin/python3
VENV := $(or $(ZFSGANETI_VENV),$(CURDIR)/.venv)
GENERATION ?= trixie
NODE ?= node1
LAB := tests/lab/lab

.PHONY: changelog check test bench chaos lab-rest lab-table demo lab lab-shell lab-run lab-stop lab-clean install install-data deps venv deb man

check: venv
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m mypy zfsganeti tests benchmarks docs
	$(VENV)/bin/python -m pytest -q -n auto tests/unit tests/contract

venv: $(VENV)/made

$(VENV)/made: requirements-dev.txt
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(VENV)/bin/pip install -q -r requirements-dev.txt
	touch $@

deps:
	$(LAB) deps

test: deps
	$(MAKE) check
	$(VENV)/bin/python -m pytest -q tests/ganeti
	$(VENV)/bin/python -m tests.lab test

# what make test leaves out: the stories that it tells on the other generation only, or on none, as long as make test again
lab-rest: deps venv
	ZFSGANETI_STORIES=rest $(VENV)/bin/python -m tests.lab test

# what the last make test and the last make lab-rest have seen, as a table; it is committed
lab-table: venv
	$(VENV)/bin/python -m tests.lab table docs/lab.md

# how long things take on a node of each generation, as ratios to what does the same by hand; the page is committed
bench: deps venv
	$(VENV)/bin/python -m benchmarks docs/performance.md

# every operation interrupted at every point, for HOURS; writes a page of what is known then
HOURS ?= 8
chaos: deps venv
	$(VENV)/bin/python -m tests.chaos --hours $(HOURS) docs/reliability.md

demo: deps
	$(LAB) demo --generation $(GENERATION)

lab: deps
	$(LAB) up --generation $(GENERATION)

lab-shell:
	$(LAB) shell --generation $(GENERATION) $(NODE)

# make lab-run NODE=node2 COMMAND='zfs list'; make knows only 0 and 2, tests/lab/lab run node2 'zfs list' passes the status on
lab-run:
	@$(LAB) run --generation $(GENERATION) $(NODE) "$(COMMAND)"

lab-stop:
	$(LAB) stop

lab-clean: lab-stop
	$(LAB) clean

SHARE := $(DESTDIR)/usr/share/zfsganeti
PACKAGES := $(DESTDIR)/usr/lib/python3/dist-packages
PROVIDER := $(DESTDIR)/usr/share/ganeti/extstorage/zfs
OS := $(DESTDIR)/usr/share/ganeti/os/zfs-image
STATE := $(DESTDIR)/var/lib/zfsganeti
UDEV := $(DESTDIR)/usr/lib/udev/rules.d
COMPLETIONS := $(DESTDIR)/usr/share/bash-completion/completions
VERBS = $(shell cd $(CURDIR) && $(PYTHON) -c 'from zfsganeti.extstorage import NAMES; print(*NAMES)')
SCRIPTS = $(shell cd $(CURDIR) && $(PYTHON) -c 'from zfsganeti.osdefinition import SCRIPTS; print(*SCRIPTS)')
HOOKS = $(shell cd $(CURDIR) && $(PYTHON) -c 'from zfsganeti.links import LINKS; print(*LINKS)')

# what a node needs: the library, and around it what Ganeti, udev and the administrator look for
install: install-data
	install -d $(PACKAGES)/zfsganeti
	install -m 644 zfsganeti/*.py $(PACKAGES)/zfsganeti
	$(PYTHON) -m compileall -q $(PACKAGES)/zfsganeti

# everything but the library, which the package installs its own way
install-data:
	install -d $(SHARE)/hooks $(SHARE)/patches $(PROVIDER) $(DESTDIR)/usr/sbin $(UDEV) $(OS) $(STATE) $(COMPLETIONS)
	install -m 755 hooks/zfsganeti hooks/handle $(SHARE)/hooks
	install -m 644 patches/*.patch $(SHARE)/patches
	install -m 755 gnt-zfs $(DESTDIR)/usr/sbin
	install -m 755 extstorage/zfs/provider $(PROVIDER)
	install -m 644 extstorage/zfs/parameters.list $(PROVIDER)
	install -m 644 udev/59-zfsganeti.rules $(UDEV)
	for verb in $(VERBS); do ln -sf provider $(PROVIDER)/$$verb || exit 1; done
	install -m 755 os/zfs-image/script $(OS)
	install -m 644 os/zfs-image/ganeti_api_version os/zfs-image/parameters.list $(OS)
	for script in $(SCRIPTS); do ln -sf script $(OS)/$$script || exit 1; done
	ln -sf /var/lib/zfsganeti/variants.list $(OS)/variants.list
	for link in $(HOOKS); do \
	  install -d $(DESTDIR)/etc/ganeti/hooks/$$(dirname $$link) && \
	  ln -sf /usr/share/zfsganeti/hooks/zfsganeti $(DESTDIR)/etc/ganeti/hooks/$$link || exit 1; \
	done
	$(PYTHON) -m docs.generate completion > $(COMPLETIONS)/gnt-zfs
	chmod 644 $(COMPLETIONS)/gnt-zfs

# the man pages, as roff below build/man: from docs/*.md, the parser of gnt-zfs and the table of settings
man:
	$(PYTHON) -m docs.generate man build/man
# the lowdown of Debian 12 asks for a font C, which the groff of Debian 13 has no more
	sed -i 's/\\fC/\\f(CR/g' build/man/*

# the package for every node, in build/deb; installs what building needs
deb:
	debian/build build/deb

# debian/changelog with this commit's version, which is nowhere but in zfsganeti/__init__.py: autopkgtest wants to see it
changelog:
	debian/build --changelog
