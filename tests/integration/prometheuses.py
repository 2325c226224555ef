"""A real Prometheus on a port of its own, with the rules that are delivered."""

import http
import http.client
import json
import os
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.redises import unused_port

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
_PATIENCE_SECONDS = 30
#: It ends by itself after this, whatever becomes of the test.
_LIFE_SECONDS = 600

_CONFIGURATION = """\
global: {{scrape_interval: {interval}, evaluation_interval: {interval}}}
rule_files: ["{rules}"]
scrape_configs:
- job_name: logs
  static_configs:
"""


def program_or_skip(name: str, package: str) -> str:
    """The path of a program of Debian's `package`; in CI it has to be there."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class PrometheusServer:
    """
    A running Prometheus.

    @param targets: ports on this machine by the instance they are called.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, int],
        interval: str = "1s",
        rules: Path = RULES,
    ) -> None:
        program = program_or_skip("prometheus", "prometheus")
        self._said = folder / "prometheus.said"
        self._port = unused_port()
        configuration = folder / "prometheus.yml"
        configuration.write_text(
            _CONFIGURATION.format(interval=interval, rules=rules)
            + "".join(
                f'  - {{targets: ["127.0.0.1:{port}"], labels: {{instance: {name}}}}}\n'
                for name, port in targets.items()
            )
        )
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [
                    *("timeout", "--kill-after=5", str(_LIFE_SECONDS), program),
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={folder / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            assert self._process.poll() is None, self._said.read_text()
            assert time.monotonic() < deadline, self._said.read_text()
            try:
                self._get("-/ready")
            except (http.client.HTTPException, OSError):
                time.sleep(0.05)
            else:
                return

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=_PATIENCE_SECONDS
        )
        try:
            connection.request("GET", f"/{path}")
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise http.client.HTTPException(answer.status, answer.read())
            return answer.read()
        finally:
            connection.close()

    def _ask(self, path: str, **parameters: str) -> Any:
        given = urllib.parse.urlencode(parameters)
        document = json.loads(self._get(f"api/v1/{path}?{given}"))
        assert document["status"] == "success", document
        return document["data"]

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are pending or firing, with their labels and annotations."""
        alerts: list[dict[str, Any]] = self._ask("alerts")["alerts"]
        return alerts

    def rules(self) -> list[dict[str, Any]]:
        """Each rule that is loaded, with its health and its last error."""
        groups = self._ask("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values now."""
        found = self._ask("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def stop(self) -> None:
        # Told to end, `timeout` tells Prometheus.
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_PATIENCE_SECONDS)


@contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, int], interval: str = "1s", rules: Path = RULES
) -> Iterator[PrometheusServer]:
    server = PrometheusServer(folder, targets, interval, rules)
    try:
        yield server
    finally:
        server.stop()
