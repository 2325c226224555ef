"""
Counts in plain attributes of one object.

Whoever counts adds to an attribute; whoever reports reads them. Nothing locks and
nothing is looked up by name.
"""

from attrs import define


@define
class Metrics:
    """What has happened since the process started."""

    posts_succeeded: int = 0
    posts_failed: int = 0
    credentials_accepted: int = 0
    credentials_refused: int = 0
    health_checks: int = 0
    frames_received: int = 0
    frames_delivered: int = 0
    hostnames_cut: int = 0
    app_names_cut: int = 0
    procids_cut: int = 0
    msgids_cut: int = 0
    payloads_withdrawn: int = 0
    payloads_requeued: int = 0
    payloads_refused: int = 0
    payloads_replayed: int = 0
    bytes_replayed: int = 0
    replays_given_up: int = 0
    writes: int = 0
    bytes_delivered: int = 0
    connects_attempted: int = 0
    connects_succeeded: int = 0
    connects_failed: int = 0
    disconnects: int = 0
    log_lines_dropped: int = 0
    clients_cut: int = 0
    posts_joined: int = 0
    posts_remembered: int = 0
    counts_mismatched: int = 0
    # Headers and frames may tell of the same loss: never to be added together.
    dropped_by_headers: int = 0
    lost_by_headers: int = 0
    dropped_by_frames: int = 0
    lost_by_frames: int = 0
    proxy_headers_refused: int = 0
