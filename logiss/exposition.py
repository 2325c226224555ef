"""
Says the counters in Prometheus's text format, when it is asked to.

Names and units follow Prometheus's conventions. A label has as many values as there
are destinations, connections, statuses or users in the configuration, and of users no
more than `logiss.metrics.NAMES_MAX`: nothing that a client sends becomes one.
"""

import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from logiss import words
from logiss.facts import Facts
from logiss.metrics import SECONDS_BOUNDS, UNASKED, Histogram, Link, Metrics

#: A user is called by at most so many characters.
LABEL_MAX = 128
#: What a post may be answered; each has a count from the start on, so that the first
#: of them is seen as a change.
CODES = (200, 400, 401, 405, 411, 413, 415, 499, 500, 503, 504)
#: The same of what is no request that could be served.
REFUSED_CODES = (400, 413, 414, 431, 500, 501)

_VERSION = "1.0.0"
#: The media types.
OPENMETRICS = f"application/openmetrics-text; version={_VERSION}; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"

Samples = Mapping[tuple[str, ...], float]


def text(name: str | bytes) -> str:
    """A name as a label."""
    return words.text(name, LABEL_MAX)


class Exposition:
    """
    @param facts: called for each exposition.
    @param lately: likewise; what one of ten posts took each destination lately.
    @param proc: where the kernel tells of processes.
    """

    def __init__(
        self,
        facts: Callable[[], Facts],
        lately: Callable[[], Mapping[str, float]] = dict,
        proc: str = "/proc",
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(_FactsCollector(facts, lately, proc))

    def octets(self, accept: str) -> tuple[bytes, str]:
        """
        All metrics, and the media type of what is returned.

        @param accept: of the request: the text format or OpenMetrics.
        """
        if accepts_openmetrics(accept):
            return openmetrics.generate_latest(self._registry), OPENMETRICS
        return generate_latest(self._registry), TEXT


def accepts_openmetrics(accept: str) -> bool:
    """
    Whether a client takes OpenMetrics 1.0.0. It then prefers that, as Prometheus does;
    what it says of other versions and of how much it likes them does not matter.
    """
    for media_range in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        if media_type == "application/openmetrics-text":
            given = dict(p.partition("=")[::2] for p in parameters)
            if given.get("version", _VERSION) == _VERSION and given.get("q") != "0":
                return True
    return False


class _FactsCollector(Collector):
    def __init__(
        self,
        facts: Callable[[], Facts],
        lately: Callable[[], Mapping[str, float]],
        proc: str,
    ) -> None:
        self._facts = facts
        self._lately = lately
        self._proc = proc

    def collect(self) -> Iterator[Metric]:
        facts = self._facts()
        yield InfoMetricFamily(
            "logiss",
            "Which logiss this is, and what its 200 means.",
            {
                "version": facts.version,
                "instance_name": text(facts.instance),
                "delivery": facts.delivery_level,
            },
        )
        yield from _intake(facts)
        yield from _posts(facts)
        yield from _delivery(facts)
        yield from _backend(facts)
        yield _slowness(facts, self._lately())
        yield from _dedupe(facts.metrics)
        yield from _credentials(facts)
        yield from _memory(facts)
        if facts.workers_wanted:
            yield from _workers(facts, self._proc)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value)


def _counters(name: str, about: str, labels: Iterable[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(name, about, labels=tuple(labels))
    for values, count in samples.items():
        family.add_metric(values, count)
    return family


def _gauges(name: str, about: str, labels: Iterable[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, about, labels=tuple(labels))
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _buckets(counts: Iterable[int]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    below = 0
    bounds = [*(str(bound) for bound in SECONDS_BOUNDS), "+Inf"]
    for bound, count in zip(bounds, counts, strict=True):
        below += count
        buckets.append((bound, below))
    return buckets


def _add(
    samples: dict[tuple[str, ...], float], name: tuple[str, ...], n: float
) -> None:
    """Count `n` more; names that are cut may be the same."""
    samples[name] = samples.get(name, 0) + n


def _codes(known: Iterable[int], given: Mapping[int, int]) -> Samples:
    return {(str(c),): given.get(c, 0) for c in sorted({*known, *given})}


def _intake(facts: Facts) -> Iterator[Metric]:
    metrics, clients = facts.metrics, facts.clients
    yield _gauge(
        "logiss_draining", "1 from the signal to stop until the end.", facts.is_draining
    )
    yield _gauge("logiss_clients", "Clients that are connected.", clients.connected)
    yield _gauge(
        "logiss_clients_limit",
        "How many clients there may be; 0 is no limit.",
        clients.most,
    )
    yield _counter(
        "logiss_accept_pauses",
        "How often further clients had to wait for room.",
        clients.pauses,
    )
    yield _counter(
        "logiss_clients_cut", "Clients cut off for being too slow.", metrics.clients_cut
    )
    yield _counter(
        "logiss_proxy_headers_refused",
        "Connections that did not begin with a PROXY header.",
        metrics.proxy_headers_refused,
    )
    yield _counters(
        "logiss_requests_refused",
        "What was no request that could be served, by what was answered.",
        ["code"],
        _codes(REFUSED_CODES, metrics.requests_refused_by_code.given()),
    )
    yield _counter(
        "logiss_health_checks", "Requests for /health.", metrics.health_checks
    )
    yield _counter(
        "logiss_refused_bodies_captured",
        "Refused bodies that were kept in files.",
        metrics.refused_captured,
    )
    yield _counter(
        "logiss_refused_bodies_not_captured",
        "Refused bodies that could not be kept.",
        metrics.refused_not_captured,
    )
    yield _counter(
        "logiss_log_lines_dropped",
        "Log lines that nobody read in time.",
        metrics.log_lines_dropped,
    )


def _posts(facts: Facts) -> Iterator[Metric]:
    metrics = facts.metrics
    given = {200: metrics.posts_succeeded, **metrics.posts_failed_by_code.given()}
    yield _counters(
        "logiss_posts",
        "Posts by what was answered; 499 is a client that had gone.",
        ["code"],
        _codes(CODES, given),
    )
    yield _gauge(
        "logiss_posts_inflight", "Posts without an answer.", facts.posts_inside
    )
    yield SummaryMetricFamily(
        "logiss_post_seconds",
        "Posts from the end of their headers to their answer.",
        count_value=metrics.posts_succeeded + metrics.posts_failed,
        sum_value=metrics.post_seconds,
    )
    yield SummaryMetricFamily(
        "logiss_codec_seconds",
        "Rewriting the frames of posts that were delivered.",
        count_value=metrics.posts_succeeded,
        sum_value=metrics.codec_seconds,
    )
    yield _counter(
        "logiss_frames_received",
        "Frames of posts that were read to their end.",
        metrics.frames_received,
    )
    yield _counter(
        "logiss_frames_delivered",
        "Frames that reached the delivery level.",
        metrics.frames_delivered,
    )
    yield _counter(
        "logiss_frames_failed",
        "Frames that did not, and whose posts were not answered 200.",
        metrics.frames_failed,
    )
    yield _counters(
        "logiss_frames_truncated",
        "Frames with a header field that was too long.",
        ["field"],
        {
            ("hostname",): metrics.hostnames_cut,
            ("app_name",): metrics.app_names_cut,
            ("procid",): metrics.procids_cut,
            ("msgid",): metrics.msgids_cut,
        },
    )
    yield _counters(
        "logiss_duplicate_posts",
        "Retries that were not forwarded again: joined one under way, came later, or"
        " were known elsewhere in the fleet.",
        ["how"],
        {
            ("joined",): metrics.posts_joined,
            ("remembered",): metrics.posts_remembered,
            ("elsewhere",): metrics.posts_known_elsewhere,
        },
    )
    yield _counter(
        "logiss_msg_count_mismatches",
        "Posts with another number of frames than Logplex-Msg-Count says.",
        metrics.counts_mismatched,
    )
    yield _counters(
        "logiss_sender_losses",
        "Messages that senders say never came. Both reports may be of the same.",
        ["report", "what"],
        {
            ("header", "dropped"): metrics.dropped_by_headers,
            ("header", "lost"): metrics.lost_by_headers,
            ("frame", "dropped"): metrics.dropped_by_frames,
            ("frame", "lost"): metrics.lost_by_frames,
        },
    )
    yield _counters(
        "logiss_user_losses",
        "Messages that the senders of a user say never came, each once; without a user"
        " those of one too many to name.",
        ["user", "what"],
        _losses(metrics),
    )


def _losses(metrics: Metrics) -> Samples:
    # What is not in the name of a user is what is left of all.
    losses: dict[tuple[str, ...], float] = {
        ("", "dropped"): metrics.losses_dropped,
        ("", "lost"): metrics.losses_lost,
    }
    for user, loss in metrics.losses_by_user.items():
        for what, count in (("dropped", loss.dropped), ("lost", loss.lost)):
            _add(losses, (text(user), what), count)
            losses["", what] -= count
    return losses


def _delivery(facts: Facts) -> Iterator[Metric]:
    metrics = facts.metrics
    yield HistogramMetricFamily(
        "logiss_delivery_seconds",
        "Deliveries from the rewritten body to their end, those that failed too.",
        buckets=_buckets(metrics.delivery.counts),
        sum_value=metrics.delivery.sum_seconds,
    )
    yield SummaryMetricFamily(
        "logiss_send_seconds",
        "Posts that were delivered, from their first write to the delivery level.",
        count_value=metrics.posts_succeeded,
        sum_value=metrics.send_seconds,
    )
    yield _gauge(
        "logiss_queue_bytes",
        "Bytes that wait for a connection to the backend.",
        facts.queue_bytes,
    )
    yield _gauge(
        "logiss_queue_payloads",
        "Posts that wait for a connection to the backend.",
        facts.queue_payloads,
    )
    yield _gauge(
        "logiss_replay_bytes",
        "Bytes that wait to be sent again after a connection was lost.",
        facts.replay_bytes,
    )
    for name, about, count in (
        ("writes", "Writes to the backend; each may carry many posts.", metrics.writes),
        (
            "payloads_withdrawn",
            "Posts whose time was over before they were begun.",
            metrics.payloads_withdrawn,
        ),
        (
            "payloads_requeued",
            "Posts begun on a connection that was lost, sent again on another.",
            metrics.payloads_requeued,
        ),
        (
            "payloads_refused",
            "Posts that the backend would not take.",
            metrics.payloads_refused,
        ),
        (
            "payloads_replayed",
            "Posts answered 200 and sent again after a connection was lost.",
            metrics.payloads_replayed,
        ),
        ("replayed_bytes", "Bytes that were sent again.", metrics.bytes_replayed),
        (
            "replays_given_up",
            "Posts answered 200 that could not be sent again before the end.",
            metrics.replays_given_up,
        ),
    ):
        yield _counter(f"logiss_{name}", about, count)


def _backend(facts: Facts) -> Iterator[Metric]:
    each = _labels_of_links(facts)
    yield from _backend_now(facts, each)
    links = [
        *((_name(facts, f.link, f.worker), f.link) for f in facts.links),
        *((_name(facts, f.link, f.worker), f.link) for f in facts.ended_links),
    ]
    reconnects = [
        *(max(0, f.link.connects - 1) for f in facts.links),
        *(f.reconnects for f in facts.ended_links),
    ]
    for name, about, values in (
        ("connects", "Connections that became usable.", [x.connects for _, x in links]),
        ("connect_attempts", "Attempts to connect.", [x.attempts for _, x in links]),
        ("connect_errors", "Attempts that failed.", [x.failures for _, x in links]),
        (
            "disconnects",
            "Connections that ended, but for those that logiss had done with.",
            [x.disconnects for _, x in links],
        ),
        ("reconnects", "Connections that became usable again.", reconnects),
        (
            "stalls",
            "Connections given up without progress.",
            [x.stalls for _, x in links],
        ),
        (
            "write_errors",
            "Posts that a write failed of.",
            [x.write_errors for _, x in links],
        ),
        (
            "delivered_bytes",
            "Bytes that reached the delivery level.",
            [x.bytes_delivered for _, x in links],
        ),
    ):
        samples: dict[tuple[str, ...], float] = {}
        for (key, _), value in zip(links, values, strict=True):
            _add(samples, key, value)
        yield _counters(f"logiss_backend_{name}", about, each, samples)
    yield _connecting(links, each)
    yield _confirmation(link for _, link in links)


def _labels_of_links(facts: Facts) -> tuple[str, ...]:
    # One process alone is no worker.
    by = ("destination", "id")
    return (*by, "worker") if facts.workers_wanted else by


def _name(facts: Facts, link: Link, worker: int | None) -> tuple[str, ...]:
    name = text(link.destination), str(link.link_id)
    return (*name, str(worker)) if facts.workers_wanted else name


def _backend_now(facts: Facts, each: tuple[str, ...]) -> Iterator[Metric]:
    """Of two workers with one number it is the one that takes posts."""
    connected: dict[tuple[str, ...], float] = {}
    waited: dict[tuple[str, ...], float] = {}
    for f in facts.serving_links:
        name = _name(facts, f.link, f.worker)
        connected[name] = max(connected.get(name, 0), f.link.is_usable)
        waited[name] = max(waited.get(name, 0.0), f.waited_seconds)
    yield _gauges(
        "logiss_backend_connected",
        "1 while the connection is usable.",
        each,
        connected,
    )
    yield _gauges(
        "logiss_backend_unconfirmed_seconds",
        "How long the oldest of what a connection was given has no outcome.",
        each,
        waited,
    )


def _connecting(
    links: Iterable[tuple[tuple[str, ...], Link]], each: tuple[str, ...]
) -> Metric:
    sums: dict[tuple[str, ...], tuple[int, float]] = {}
    for name, link in links:
        count, seconds = sums.get(name, (0, 0.0))
        sums[name] = count + link.connects, seconds + link.connect_seconds
    connecting = SummaryMetricFamily(
        "logiss_backend_connect_seconds",
        "Attempts to connect that succeeded: name, TCP and TLS.",
        labels=each,
    )
    for name, (count, seconds) in sums.items():
        connecting.add_metric(list(name), count, seconds)
    return connecting


def _confirmation(links: Iterable[Link]) -> Metric:
    confirmation = HistogramMetricFamily(
        "logiss_backend_confirmation_seconds",
        "Posts from their write to the delivery level, or until that was given up.",
        labels=("destination",),
    )
    by_destination: dict[str, list[Histogram]] = {}
    for link in links:
        by_destination.setdefault(text(link.destination), []).append(link.confirmation)
    for destination, histograms in by_destination.items():
        counts = map(sum, zip(*(h.counts for h in histograms), strict=True))
        seconds = sum(h.sum_seconds for h in histograms)
        confirmation.add_metric([destination], _buckets(counts), seconds)
    return confirmation


def _slowness(facts: Facts, lately: Mapping[str, float]) -> Metric:
    """What a rate over two scrapes would tell too late of a backend with much to do."""
    took: dict[tuple[str, ...], float] = {}
    for f in facts.links:
        name = (text(f.link.destination),)
        took[name] = max(took.get(name, 0.0), lately.get(f.link.destination, 0.0))
    return _gauges(
        "logiss_backend_recent_p90_seconds",
        "What one of ten posts of the last 10 seconds took at least; 0 without any.",
        ("destination",),
        took,
    )


def _credentials(facts: Facts) -> Iterator[Metric]:
    metrics = facts.metrics
    accepted: dict[tuple[str, ...], float] = {}
    last_used: dict[tuple[str, ...], float] = {}
    # Names that are cut may be the same.
    for held in facts.credentials:
        name = text(held.user), text(held.stage)
        accepted.setdefault(name, 0)
        if held.last_used_at is not None:
            last_used[name] = max(last_used.get(name, 0.0), held.last_used_at)
    for by, count in metrics.accepted_by_stage.items():
        name = (text(by[0]), text(by[1])) if by else ("", "")
        _add(accepted, name, count)
    yield _counters(
        "logiss_credentials_accepted",
        "Posts that were let in; without a user those of one too many to name.",
        ("user", "stage"),
        accepted,
    )
    yield _gauges(
        "logiss_credentials_last_used_timestamp_seconds",
        "When one of the user in this stage was last used.",
        ("user", "stage"),
        last_used,
    )
    refused: dict[tuple[str, ...], float] = {("",): 0}
    for refusals in facts.refusals:
        refused.setdefault((text(refusals.user),), 0)
    for by, count in metrics.refused_by_user.items():
        _add(refused, (text(by[0]) if by else "",), count)
    yield _counters(
        "logiss_credentials_refused",
        "Posts answered 401; without a user those of unknown users.",
        ("user",),
        refused,
    )
    for name_, about, count in (
        (
            "deprecated",
            "Posts let in by a credential that is to be replaced.",
            metrics.credentials_deprecated,
        ),
        (
            "awaited",
            "Posts answered 503, as credentials were not loaded.",
            metrics.credentials_awaited,
        ),
        (
            "refreshes",
            "Readings of the credentials in Redis that succeeded.",
            metrics.refreshes_succeeded,
        ),
        (
            "refresh_changes",
            "Readings that put other credentials in force.",
            metrics.refreshes_changed,
        ),
        ("refresh_errors", "Readings that failed.", metrics.refreshes_failed),
        (
            "entries_skipped",
            "Entries in Redis that could not be read, each once in each reading.",
            metrics.entries_skipped,
        ),
    ):
        yield _counter(f"logiss_credentials_{name_}", about, count)
    yield _gauge(
        "logiss_credentials_entries_unreadable",
        "Entries that could not be read in the last reading that succeeded.",
        metrics.entries_unreadable,
    )
    yield _gauge(
        "logiss_credentials_loaded",
        "1 when all credentials are known.",
        facts.are_credentials_loaded,
    )
    yield _gauge(
        "logiss_credentials_refresh_overdue_seconds",
        "How long ago they should have been read anew.",
        facts.refresh_overdue_seconds,
    )


def _dedupe(metrics: Metrics) -> Iterator[Metric]:
    yield _counters(
        "logiss_dedupe_unasked_posts",
        "Posts forwarded without the word of the table in Redis, by why.",
        ["reason"],
        {(reason,): metrics.dedupe_unasked.get((reason,), 0) for reason in UNASKED},
    )
    for name, about, count in (
        (
            "overtaken_posts",
            "Posts forwarded while another process had not ended theirs.",
            metrics.dedupe_overtaken,
        ),
        (
            "unrecorded_posts",
            "Posts that were delivered, which it could not be told.",
            metrics.dedupe_unrecorded,
        ),
        ("connects", "How often it became usable.", metrics.dedupe_connects),
        ("outages", "How often it could not be used any more.", metrics.dedupe_outages),
    ):
        yield _counter(f"logiss_dedupe_{name}", about, count)


def _memory(facts: Facts) -> Iterator[Metric]:
    yield _gauge(
        "logiss_inflight_bytes",
        "Bytes of bodies and batches in memory.",
        facts.inflight_bytes,
    )
    yield _gauge(
        "logiss_inflight_limit_bytes",
        "How many there may be: MAX_INFLIGHT_BYTES.",
        facts.inflight_limit_bytes,
    )
    yield _gauge(
        "logiss_inflight_waiting",
        "Posts that wait for room in memory.",
        facts.waiting_for_room,
    )
    yield _counter(
        "logiss_inflight_refusals",
        "Posts for which no room was found in time.",
        facts.budget_refusals,
    )


# workers; those of one number are one series, also while an old one leaves a new one

_BY_WORKER = ("worker",)


def _workers(facts: Facts, proc: str) -> Iterator[Metric]:
    wanted = [(str(n),) for n in range(1, facts.workers_wanted + 1)]
    yield _gauge("logiss_workers", "How many workers there are to be.", len(wanted))
    serving = {(str(w.number),) for w in facts.workers if w.state == "serving"}
    yield _gauges(
        "logiss_worker_up",
        "1 while a worker of this number takes posts.",
        _BY_WORKER,
        {name: name in serving for name in wanted},
    )
    clients: dict[tuple[str, ...], float] = dict.fromkeys(wanted, 0)
    for worker in facts.workers:
        _add(clients, (str(worker.number),), worker.clients)
    yield _gauges(
        "logiss_worker_clients", "Clients that are connected.", _BY_WORKER, clients
    )
    each = {(str(counts.number),): counts for counts in facts.worker_counts}
    yield _counters(
        "logiss_worker_falls",
        "How often one has ended without having been told to.",
        _BY_WORKER,
        {name: counts.falls for name, counts in each.items()},
    )
    yield _counters(
        "logiss_worker_posts",
        "Posts that were answered.",
        _BY_WORKER,
        {name: counts.posts for name, counts in each.items()},
    )
    yield _counters(
        "logiss_worker_cpu_seconds",
        "User and system CPU time, as each has told it last.",
        _BY_WORKER,
        {name: counts.cpu_seconds for name, counts in each.items()},
    )
    yield from _worker_processes(facts, proc)
    yield _counters(
        "logiss_reloads",
        "How often the configuration was read anew, by what came of it.",
        ("result",),
        {(result,): count for result, count in facts.reloads.items()},
    )


def _worker_processes(facts: Facts, proc: str) -> Iterator[Metric]:
    """Of a process that is gone nothing is said."""
    resident: dict[tuple[str, ...], float] = {}
    files: dict[tuple[str, ...], float] = {}
    for worker in facts.workers:
        name = (str(worker.number),)
        try:
            pages, count = _pages_and_files(f"{proc}/{worker.pid}")
        except OSError:
            continue
        _add(resident, name, pages * resource.getpagesize())
        _add(files, name, count)
    yield _gauges(
        "logiss_worker_resident_memory_bytes",
        "Resident memory, of which some is shared.",
        _BY_WORKER,
        resident,
    )
    yield _gauges(
        "logiss_worker_open_fds", "Open files and sockets.", _BY_WORKER, files
    )


def _pages_and_files(place: str) -> tuple[int, int]:
    """
    What proc(5) has in statm and fd.

    @raise OSError: there is no such process.
    """
    with open(f"{place}/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return pages, len(os.listdir(f"{place}/fd"))
