# make run   sets everything up and runs logiss on port 5000
# make test  sets everything up and passes the tests
# make docs  makes pages of docs/: build/docs/index.html
# make faults  plays every fault in full, half an hour, and writes docs/faults-report.rst
# make fleet  restarts, kills and halts instances behind a HAProxy, eight minutes, and says
#             what became of every message: docs/fleet.rst
# make reference  writes docs/configuration.rst anew
# make man  writes docs/logiss.1, the man page, anew
# make changelog VERSION=1.2.3  makes a section of CHANGELOG.rst of the fragments
# make release-check  builds both packages into dist/, installs each and tries it out
# make lint  looks at format, rules and types; make clean removes what make has made
# make bench, bench-levels, bench-pages, bench-hostile  measure; docs/performance.rst says what
# make sanitize  runs the tests of the compiled codec under AddressSanitizer
# make fuzz  feeds new octets to the fuzz targets for an hour; FUZZ_SECONDS=60 for less
# make audit  looks for known vulnerabilities of what is installed
#
# PYTHON names the interpreter for the virtual environment: 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

FUZZ_SECONDS ?= 3600

export LISTEN_HOST ?= 127.0.0.1

.PHONY: audit bench bench-hostile bench-levels bench-pages changelog clean docs faults fleet fuzz lint man reference release-check run sanitize test

# With nothing else set it forwards to an embedded receiver.
run: $(STAMP)
	$(BIN)/twist logiss --with-receiver

test: $(STAMP) lint
	$(BIN)/trial -j2 --reporter=summary --temp-directory=$(VENV)/_trial_temp tests
	$(BIN)/pytest -n 2 --dist loadfile --durations=20

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Needs no network. A warning is an error, and all is read anew, for pages that have not
# changed would not warn again of what they link to.
docs: $(STAMP)
	$(BIN)/sphinx-build -E -W --keep-going -n -q -b html -d build/doctrees docs build/docs

# From the settings and what logiss/reference.py says of them; a test compares.
reference: $(STAMP)
	$(BIN)/python docs/make_configuration.py

# From what the commands say of themselves; a test compares.
man: $(STAMP)
	$(BIN)/python -m docs.make_man

# The version stands in logiss/_version.py, and the page has the day of the release.
changelog: $(STAMP)
	@test -n "$(VERSION)" || { echo "name the version: make changelog VERSION=1.2.3"; exit 1; }
	sed -i 's/^__version__ = .*/__version__ = "$(VERSION)"/' logiss/_version.py
	$(BIN)/towncrier build --yes --version "$(VERSION)"
	$(MAKE) man

# What passes is left in dist/.
release-check: $(STAMP)
	$(BIN)/python -m tests.release dist

# As root and with iproute2, rsyslog and rsyslog-relp it plays all of them; what
# cannot be played is a row that says why. FAULTS='--only kill --level acked' chooses.
faults: $(STAMP)
	$(BIN)/python -m tests.faults --full --report docs/faults-report.rst $(FAULTS)

# Needs haproxy and curl. FLEET='--only SIGKILL' chooses.
fleet: $(STAMP)
	$(BIN)/python -m tests.fleet $(FLEET)

# Says so where it cannot run: it needs gcc with libasan, and Python's headers.
sanitize: $(STAMP)
	$(BIN)/python -m tests.sanitized

# FUZZ='http gzip' chooses targets; --help of `python -m tests.fuzz` tells the rest.
fuzz: $(VENV)/fuzz
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ)

# Where atheris has no wheel, hypothesis does it.
$(VENV)/fuzz: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --only-binary=atheris --editable '.[fuzz]' || echo "fuzz: no atheris for this Python, hypothesis does it"
	touch $@

# Needs the network; says so where the database of vulnerabilities cannot be reached.
audit: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[audit]'
	$(BIN)/python -m tests.audit

# Needs gcc and wrk, installs nothing; `make test` makes the virtual environment.
bench:
	@test -x $(BIN)/python || { echo "no virtual environment: run 'make test' first"; exit 1; }
	$(BIN)/python benchmarks/posts.py --variant stock --variant pure --variant tls
	$(BIN)/python benchmarks/codec.py

# What the delivery levels cost, in one run; logiss without a name is at acked.
bench-levels:
	@test -x $(BIN)/python || { echo "no virtual environment: run 'make test' first"; exit 1; }
	$(BIN)/python benchmarks/posts.py --variant sent --variant relp --variant relp-256 --variant relp-512 --seconds 2 --rounds 5
	$(BIN)/python benchmarks/posts.py --variant sent --variant relp --variant relp-256 --variant relp-512 --seconds 2 --rounds 5 --connections 8

# What 1,000 bad clients of each kind do; it takes ten minutes.
bench-hostile: $(STAMP)
	$(BIN)/python -m benchmarks.hostile

# What a hundred open status pages cost the posts; needs gcc and wrk, installs nothing.
bench-pages:
	@test -x $(BIN)/python || { echo "no virtual environment: run 'make test' first"; exit 1; }
	$(BIN)/python benchmarks/pages.py

$(STAMP): setup.py pyproject.toml logiss/_version.py logiss/_frames.pyx
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "logiss needs Python 3.11 or newer, PYTHON names " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	rm -f logiss/_frames.c logiss/_frames.*.so
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint,docs,release]'
	touch $@

clean:
	rm -f logiss/_frames.c logiss/_frames.*.so
	rm -rf $(VENV) .tox build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .fuzz _trial_temp*
