# make vault      installs atefs in .venv and mounts an encrypted vault on $(MOUNT)
# make test       everything that has to hold; what .ci/run calls
# make test-long  the tests that take minutes each
# make bench      measures a vault on this machine

MOUNT ?= $(HOME)/vault
export MOUNT

PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: vault test test-long bench
.DEFAULT_GOAL := vault

vault: .venv/installed
	@scripts/mount-vault

test: .venv/installed-test
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest -q -n 3 --dist loadgroup

test-long: .venv/installed-test
	.venv/bin/pytest -q -m long

bench: .venv/installed
	.venv/bin/atefs bench

# The stamps say that what pyproject.toml asks for is installed; the package itself is used where it lies.
.venv/installed: pyproject.toml scripts/system-packages
	@scripts/system-packages
	@test -x .venv/bin/python || "$$(scripts/python)" -m venv .venv
	$(PIP) --editable .
	@touch $@

.venv/installed-test: .venv/installed
	@scripts/system-packages test
	$(PIP) --editable '.[pyfuse3,test]'
	@touch $@
