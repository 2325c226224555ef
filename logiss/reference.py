"""
What each variable is for, in words: for the configuration reference and the man page.

How it is read, and its default, is in `logiss.settings`; each of its variables has an
entry here. The text is reStructuredText, as the pages of the documentation are, with
links between them.
"""

import re

from attrs import frozen


@frozen
class Entry:
    """
    What there is to say about one variable.

    @ivar group: the section that it stands in.
    @ivar summary: in a line or two, for a table.
    @ivar meaning: in full, paragraphs.
    @ivar type: what its value may be.
    @ivar examples: values.
    @ivar mistakes: values that are refused, to show how.
    @ivar more: paragraphs behind these.
    """

    name: str
    group: str
    summary: str
    meaning: str
    type: str
    examples: tuple[str, ...]
    mistakes: tuple[str, ...] = ()
    more: str = ""


def plain(text: str) -> str:
    """`text` without markup, on one line."""
    text = re.sub(r"`([^`<>]*) <[^>]*>`_+", r"\1", " ".join(text.split()))
    return re.sub(r"``?([^`]*)``?_*", r"\1", text)


#: In the order of the reference.
ENTRIES = (
    Entry(
        "DEPLOY",
        "Instance",
        "label of this instance, ``source=`` in every log line",
        """
Label of this instance: ``source=`` in every log line.
""",
        type="text",
        examples=("local", "eu-1"),
        mistakes=("",),
    ),
    Entry(
        "PORT",
        "Instance",
        "TCP port to listen on",
        """
TCP port to listen on. ``0`` takes a free one; the line ``at=listen`` names it.
""",
        type="number from 0 to 65535",
        examples=("5000",),
        mistakes=("80000",),
        more="""
A port that is taken ends the start with exit code 1 and ``PORT: cannot listen on
*:5000: Address already in use; end the process that listens there or take another``.

A socket that systemd hands over takes the place of ``PORT`` and ``LISTEN_HOST``, and
one named ``admin`` that of ``ADMIN_PORT`` and ``ADMIN_HOST``; none of them has to be
set then. See `Deploying <deploying.rst#systemd>`__.
""",
    ),
    Entry(
        "LISTEN_HOST",
        "Instance",
        "address to listen on; without it all, IPv6 and IPv4",
        """
Address to listen on. Without it logiss listens on all addresses: IPv6 and IPv4 with
one socket where the system has IPv6, else IPv4. log-iss does not have this variable.
""",
        type="IP address of this machine",
        examples=("127.0.0.1", "::1"),
        more="""
An address that is not of this machine ends the start with ``LISTEN_HOST: cannot listen
on 192.0.2.1:5000: Cannot assign requested address; set it to an address of this
machine``.
""",
    ),
    Entry(
        "ADMIN_PORT",
        "Instance",
        "TCP port of the status page and the metrics; without it there is none",
        """
TCP port of the status page (``/``), the metrics for Prometheus (``/metrics``) and
``/status.json``, see `Monitoring <monitoring.rst>`__. Without it there is none of
them, and their libraries are not loaded. It must not be ``PORT``. With it logiss
keeps 160 more open files for itself. Not in log-iss.
""",
        type="number from 0 to 65535",
        examples=("9514",),
        mistakes=("http",),
    ),
    Entry(
        "ADMIN_HOST",
        "Instance",
        "address that ``ADMIN_PORT`` listens on",
        """
Address that ``ADMIN_PORT`` listens on. Nobody is asked for credentials there, and the
page names users, addresses and request ids: let nobody reach it who may not see them.
Not in log-iss.
""",
        type="IP address of this machine",
        examples=("10.0.0.5", "::1"),
        more="""
An address that is not of this machine ends the start with ``ADMIN_HOST: cannot listen
on 192.0.2.1:9514: Cannot assign requested address; set it to an address of this
machine``.
""",
    ),
    Entry(
        "WEB_CONCURRENCY",
        "Instance",
        "how many processes serve; ``auto``: as many as there are CPUs",
        """
How many processes serve the port: each is a whole logiss, with ``FORWARD_COUNT``
connections of its own to the backend, and a parent keeps them. ``auto`` is as many as
there are CPUs that the process may use, by its affinity and its control groups. What
has a limit has it in each of them: ``MAX_CONNECTIONS``, ``MAX_INFLIGHT_BYTES``. Heroku
and others set it by the size of the machine. `Many cores <workers.rst>`__ tells the
rest. Not in log-iss.
""",
        type="number from 1 to 256, or ``auto``",
        examples=("2", "auto"),
        mistakes=("0", "all"),
    ),
    Entry(
        "DRAIN_DELAY",
        "Instance",
        "how long health checks say 503 before posts are refused",
        """
How long, from the signal to stop on, ``/health`` and ``/ready`` already say 503 while
posts are still taken, so that a load balancer looks away first: let it be longer than
the balancer needs to notice. Each answer to a post closes its connection meanwhile.
Behind it the drain begins, in which posts get 503. Not in log-iss.
""",
        type="seconds or duration, up to 24h",
        examples=("0", "10s"),
        mistakes=("-1",),
    ),
    Entry(
        "ENV_FILE",
        "Instance",
        "file of variables, read at the start and at each SIGHUP",
        """
File of ``NAME=value`` lines. What stands there counts in place of what stands in the
environment, and is read anew at SIGHUP, which the environment of a process cannot be.
Values may be quoted; ``#`` begins a comment. Not in log-iss.
""",
        type="path",
        examples=("/etc/logiss/logiss.env",),
        more="""
A file that cannot be read, or a line in it that is no variable, ends the start with a
line such as ``ENV_FILE: line 3 of '/etc/logiss/logiss.env' is no NAME=value; mend it,
or put a # in front of a comment``. At SIGHUP the old configuration stays in force.
""",
    ),
    Entry(
        "REQUEST_LOG",
        "Instance",
        "``all``: a line for each post; ``errors``: sum successful posts up every 10 s",
        """
``all`` writes a line for each post. ``errors`` writes one for each post that is not
answered 200, and sums the others up every 10 s. See `Log lines <log-lines.rst>`__.
""",
        type="``all`` or ``errors``, in any case",
        examples=("all", "errors"),
        mistakes=("none",),
    ),
    Entry(
        "FORWARD_DEST",
        "Forwarding",
        "``host:port`` or ``[v6]:port`` of the syslog receiver; ``relp://host:port`` "
        "and ``relp+tls://host:port`` for RELP; several, split at ``,``, share the "
        "connections",
        """
The syslog receivers, one or several, split at ``,``. A name is resolved anew for each
connection; names with IPv6 addresses only work. Internationalised names are written
in their ASCII form.

``host:port`` is octet-counted syslog, over TLS when ``PEMFILE`` is set.
``relp://host:port`` is RELP without TLS, ``relp+tls://host:port`` is RELP over TLS
and needs ``PEMFILE``. The scheme may be in any case. With RELP the delivery level is
``relp``, whatever ``DELIVERY`` says, and the receiver needs settings of its own: see
`Reliability <reliability.rst>`__.

Several destinations share the ``FORWARD_COUNT`` connections in turn: with
``a:514,b:514`` and 4, connections 0 and 2 go to ``a``, 1 and 3 to ``b``. Each payload
goes to one of them, whichever is ready, so those that work carry the load. RELP and
syslog cannot be mixed.
""",
        type="``host:port``, ``[v6]:port``, or one of these behind ``relp://`` or "
        "``relp+tls://``; one or more, split at ``,``",
        examples=(
            "syslog.example.com:601",
            "192.0.2.7:514",
            "[2001:db8::7]:514",
            "a.example.com:601,b.example.com:601",
            "relp://192.0.2.7:2514",
        ),
        mistakes=(
            "syslog",
            "http://syslog:514",
            "relp://a:2514,b:514",
            "relp+tls://a:2514",
        ),
        more="""
With ``PEMFILE``, ``relp://a:2514`` is refused, because it would be without TLS
(``FORWARD_DEST: 'relp://a:2514' is without TLS although PEMFILE is set; use
relp+tls:// or unset PEMFILE``), and so is a host with ``_``, for which no certificate
can be.
""",
    ),
    Entry(
        "FORWARD_DEST_CONNECT_TIMEOUT",
        "Forwarding",
        "seconds for DNS, TCP and TLS together; also ``10s``, ``500ms``, ``1m``",
        """
How long DNS, TCP and TLS, or with RELP its opening, may take together until a
connection is usable. After that the attempt is given up and the next one waits its
turn: 200 ms, growing to at most 5 s, with jitter. An attempt of 2 s and more is
followed by 200 ms only. TCP's handshake has at most 3 s for each address, and the
answer to RELP's ``open`` 5 s.
""",
        type="duration",
        examples=("10", "10s", "500ms", "1m"),
        mistakes=("0",),
    ),
    Entry(
        "FORWARD_COUNT",
        "Forwarding",
        "connections to ``FORWARD_DEST``, at least one for each destination",
        """
Connections to ``FORWARD_DEST``, opened at start and kept. Not less than there are
destinations.
""",
        type="number from 1 to 1000",
        examples=("1", "16"),
        mistakes=("0",),
        more="""
With more destinations than connections the start ends with ``FORWARD_COUNT: is 1,
less than the 2 destinations in FORWARD_DEST; raise it``.
""",
    ),
    Entry(
        "DELIVERY_TIMEOUT",
        "Forwarding",
        "seconds from the complete body to 504. Set ``4.5``: log-shuttle and logplex "
        "both give up after 5 s themselves, and an answer at 5 s comes too late",
        """
From the complete body to 504. Set ``4.5``: log-shuttle and logplex both give up after
5 s themselves, so an answer at 5 s comes too late, and a batch that was delivered at
the last moment is sent again or counted as lost.
""",
        type="duration",
        examples=("4.5", "4500ms"),
        mistakes=("soon",),
    ),
    Entry(
        "DELIVERY",
        "Forwarding",
        "when 200 is answered: ``sent`` or ``acked``, see `Reliability "
        "<reliability.rst>`__",
        """
When 200 is answered. ``sent``: the kernel of this machine took every byte on a
connection that was not known to be broken. ``acked``: the backend's kernel has
acknowledged every byte. What each level promises, and what it costs: `Reliability
<reliability.rst>`__.

The level ``relp`` is not set here but comes with ``FORWARD_DEST``; this variable does
not count then.
""",
        type="``sent`` or ``acked``, in any case",
        examples=("acked", "sent"),
        mistakes=("stored", "relp"),
        more="""
``acked`` needs Linux: elsewhere the start ends with ``DELIVERY: 'acked' needs Linux's
SIOCOUTQ, which darwin does not have; set DELIVERY=sent``, with the platform's name.
Where Linux refuses the ioctl, as a sandbox may, it ends in the same way.
""",
    ),
    Entry(
        "REPLAY_BYTES",
        "Forwarding",
        "how much of what was answered 200 each connection keeps, to send it again "
        "after a reset; ``0`` is off",
        """
How much of what was answered 200 each connection keeps, to send it again when the
connection ends by a reset or a time-out: the backend may have died before it had read
it. ``0`` is off. A payload is kept until so many newer bytes are confirmed behind it;
of one of more than 512 KiB the last frames, as many as that takes. With RELP nothing
is replayed. Not in log-iss.

Duplicates are bounded by this: at most so many bytes and one write for each
connection that breaks, besides what was in flight. So is the memory:
``FORWARD_COUNT`` times the same, which ``MAX_INFLIGHT_BYTES`` does not count.
""",
        type="size, or ``0``",
        examples=("0", "1MiB", "65536"),
        mistakes=("off",),
    ),
    Entry(
        "RELP_WINDOW",
        "Forwarding",
        "how many frames each RELP session has on their way; so many may arrive twice",
        """
How many frames each RELP session has on their way, without an answer; omrelp calls it
``windowSize``. When a session breaks, so many may arrive twice. A larger window costs
less CPU where posts have hundreds of frames: see `Reliability <reliability.rst>`__.
Not in log-iss.
""",
        type="whole number from 1 to 1000",
        examples=("512",),
        mistakes=("0",),
    ),
    Entry(
        "PEMFILE",
        "Forwarding",
        "file of PEM certificates: TLS to the backend, checked against them. A "
        "private key in it, with its certificate, is shown to the backend",
        """
File of PEM certificates. With it every connection to the backend is TLS: the
backend's certificate must lead to one of those in the file and be for its host in
``FORWARD_DEST`` (RFC 6125). Plain TCP is never fallen back to.

When the file has a private key, not encrypted, the certificate that fits it is shown
to the backend, together with those in the file that lead from it towards its root.
""",
        type="path of a file that is readable at start",
        examples=("/etc/logiss/backend.pem",),
        mistakes=("/nonexistent.pem",),
        more="""
Also errors: no certificate in the file; a certificate or key that cannot be read; an
encrypted key; several keys; a key that fits no certificate.
""",
    ),
    Entry(
        "TOKEN_MAP",
        "Credentials",
        "``user:token,user:token``; split at ``|`` instead when there is one",
        """
Users and their tokens, for Basic authentication. Entries are split at ``,``; when
there is a ``|`` anywhere in the value they are split at ``|`` instead, so that tokens
may contain commas. User and token are split at the first ``:``. White space around an
entry is ignored. Several tokens for one user all count.

May be left out when ``REDIS_URL`` is set. A user who is in Redis too has the
credentials there and not these.
""",
        type="``user:token``, one or more",
        examples=(
            "app:logthis",
            "app:logthis,system:islogging",
            "app:log,this|app:new",
        ),
        mistakes=("app",),
    ),
    Entry(
        "HMAC_KEY",
        "Credentials",
        "key of the credential hashes; required with credentials in Redis, else a "
        "random one",
        """
Key of the HMAC-SHA512 hashes of passwords and tokens. Only these hashes are compared
with what clients send. Required with ``REDIS_URL``, as ``REDIS_KEY`` is: it is the key
that the hashes in Redis were made with (``logiss hash``). Without credentials in Redis
each process takes a random key, which does as well, because the hashes never leave the
process.
""",
        type="text",
        examples=("a-long-random-text",),
    ),
    Entry(
        "REDIS_URL",
        "Credentials",
        "``redis://:password@host:port/database``, ``rediss://`` over TLS: "
        "credentials that rotate, see `Credentials <credentials.rst>`__",
        """
The Redis that has the credentials, in the hash ``REDIS_KEY``. They are read at start
and every ``CREDENTIAL_REFRESH_INTERVAL``; until they have been, only users of
``TOKEN_MAP`` are served: see `Credentials <credentials.rst>`__. With ``DEDUPE_REDIS``
it also has the table of retried posts, or only that.

``rediss://`` is TLS: the certificate must be for the host (RFC 6125) and lead to an
authority of the system, or of the bundle that OpenSSL's own variable
``SSL_CERT_FILE`` names. User and password are percent-encoded; a password without a
user is that of Redis's default user.
""",
        type="``redis://[[user]:password@]host[:port][/database]``, the same with "
        "``rediss://``; the port is 6379, the database 0",
        examples=(
            "redis://cache.example.com",
            "redis://:secret@127.0.0.1:6380/2",
            "rediss://logiss:p%40ss@cache.example.com",
            "redis://[2001:db8::7]:6379",
        ),
        mistakes=(
            "cache.example.com",
            "redis://cache.example.com:0",
            "redis://app:@cache.example.com",
        ),
        more="""
No line repeats the URL.
""",
    ),
    Entry(
        "REDIS_KEY",
        "Credentials",
        "the hash in Redis that has the credentials; required with ``REDIS_URL``",
        """
The hash that has the credentials: users, and for each a JSON list. See `Credentials
<credentials.rst>`__. Required with ``REDIS_URL``, unless that is there for
``DEDUPE_REDIS`` alone and ``TOKEN_MAP`` has the credentials; without it it does
nothing.
""",
        type="text",
        examples=("logiss:credentials",),
    ),
    Entry(
        "CREDENTIAL_REFRESH_INTERVAL",
        "Credentials",
        "seconds from one reading of the hash to the next; also ``30s``, ``5m``",
        """
From one reading of the hash to the next, from begin to begin. A credential that is
removed is refused at most so much, and the time of one reading, later. A reading that
fails is tried again after 1 s, then 2, 4 and so on to 30 s, less a jitter of up to a
half, and never later than after this.
""",
        type="duration, 1 s at least",
        examples=("10", "30s", "5m"),
        mistakes=("500ms",),
    ),
    Entry(
        "ALLOW_EMPTY_CREDENTIALS",
        "Credentials",
        "``1``: an empty hash revokes everyone in it, instead of being taken for a "
        "mistake",
        """
What an empty hash, or none, means. ``0``: a mistake. What was loaded stays in force,
and nothing counts as loaded before there was an entry. ``1``: that nobody is in it.
Not in log-iss.
""",
        type="flag",
        examples=("1",),
        mistakes=("2",),
    ),
    Entry(
        "ENFORCE_SSL",
        "Proxies in front",
        "``1``: refuse posts whose ``X-Forwarded-Proto`` is not ``https``",
        """
Refuses posts whose ``X-Forwarded-Proto`` header, as the load balancer in front sets
it, is not ``https`` (its first item, in any case), or who set it is not in
``TRUSTED_PROXIES``.
""",
        type="flag",
        examples=("1", "true", "off"),
        mistakes=("maybe",),
    ),
    Entry(
        "TRUSTED_PROXIES",
        "Proxies in front",
        "networks whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed; "
        "split at ``,``",
        """
Whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed: the networks of the
load balancers in front. From any other peer these headers are ignored: its own
address is the origin and in the log, and ``ENFORCE_SSL`` refuses it. Set it where
others than the load balancers can reach ``PORT``. An address is a network of itself;
peers with IPv4-mapped addresses count as IPv4. With ``PROXY_PROTOCOL`` nobody is
believed unless this is set, and the address that is compared is the one in the PROXY
header. Not in log-iss, which believes everybody.
""",
        type="networks and addresses, split at ``,`` or spaces; ``all``",
        examples=("10.0.0.0/8", "10.1.2.3, 2001:db8::/32"),
        mistakes=("10.0.0.1/8", "lb.example.com"),
    ),
    Entry(
        "PROXY_PROTOCOL",
        "Proxies in front",
        "``1``: each connection begins with a PROXY header, which names the client",
        """
``1`` where a load balancer begins each connection with a header of HAProxy's PROXY
protocol, version 1 or 2 (HAProxy: ``send-proxy`` or ``send-proxy-v2``). The address
in it is that of the client. A connection that does not begin with one within
``HEADER_TIMEOUT`` is closed without an answer, ``/health`` included: health checks
have to send it too. Only the load balancer may reach ``PORT``, for anybody else can
name any address. With ``ENFORCE_SSL`` it needs ``TRUSTED_PROXIES``. Not in log-iss.
""",
        type="flag",
        examples=("1",),
        mistakes=("v2",),
    ),
    Entry(
        "METADATA_ID",
        "Structured data",
        "SD-ID of the metadata element; without it there is none",
        """
SD-ID of the metadata element that follows ``[origin …]`` in each frame, when the post
has at least one of the parameters below. Without it there is no metadata.
""",
        type="name, not ``origin``",
        examples=("metadata@123",),
        mistakes=("a b",),
    ),
    Entry(
        "LOG_ISS_QUERY_PARAMS",
        "Structured data",
        "query parameters put into the metadata element, names split at ``;``",
        """
Query parameters that become parameters of the metadata element, in this order.
""",
        type="names, split at ``;``",
        examples=("index", "index;source;sourcetype"),
        mistakes=("a=b",),
    ),
    Entry(
        "LOG_ISS_FIELD_PARAMS",
        "Structured data",
        "query parameters put into its ``fields`` parameter, names split at ``;``",
        """
Query parameters that go into ``fields="name=value,name=value"`` of the metadata
element, in this order.
""",
        type="names, split at ``;``",
        examples=("team", "team;cell"),
        mistakes=("a]",),
    ),
    Entry(
        "KEEP_STRUCTURED_DATA",
        "Structured data",
        "``1``: structured data at the start of a message stays structured data",
        """
A message that begins with complete SD-ELEMENTs, each with at least one parameter,
keeps them as structured data behind ours. Off, they are message text.
""",
        type="flag",
        examples=("1", "no"),
        mistakes=("2",),
    ),
    Entry(
        "MAX_CONNECTIONS",
        "Clients",
        "clients connected at once; others wait until one has gone",
        """
How many clients may be connected at once. When there are so many, no further ones are
accepted until one has gone: they wait in the kernel's backlog, which has room for
511, and so does a health check on a connection of its own. The log says when that
begins and ends. With ``WEB_CONCURRENCY`` each worker may have so many. Not in log-iss.

Each client is an open file, and so is each connection to ``FORWARD_DEST``. logiss
keeps 64 and twice ``FORWARD_COUNT`` for itself, so that clients never take those of a
connection to the backend. At start it raises its limit on open files
(``RLIMIT_NOFILE``, ``ulimit -n``, ``LimitNOFILE=`` of systemd) as far as it needs and
the hard limit allows. Where that is too low, fewer clients are accepted, and a line
at start says how many; where there is room for fewer than 16, it does not start. An
embedding application has to raise its limit itself.
""",
        type="whole number from 1 to 1000000",
        examples=("1000", "50000"),
        mistakes=("0",),
        more="""
With a limit of 64 open files it ends with ``MAX_CONNECTIONS: the process may open 64
files and sockets, and keeps 72 for itself; raise its limit (ulimit -n) to 10072``.
""",
    ),
    Entry(
        "HEADER_TIMEOUT",
        "Clients",
        "seconds for a request's headers, then its connection is cut off",
        """
Seconds that the line and headers of a request may take, from their first byte on. A
client that takes longer is cut off, without an answer. Not with
``HTTP_CHANNEL=stock``. Not in log-iss.
""",
        type="duration",
        examples=("5", "1m"),
        mistakes=("0",),
    ),
    Entry(
        "BODY_TIMEOUT",
        "Clients",
        "seconds for a request's body, then its connection is cut off",
        """
Seconds that the body of a request may take. A client that takes longer is cut off,
without an answer: log-shuttle and logplex send again what they have no answer to. Not
with ``HTTP_CHANNEL=stock``. Not in log-iss.
""",
        type="duration",
        examples=("5", "1m"),
        mistakes=("long",),
    ),
    Entry(
        "BODY_RATE",
        "Clients",
        "what of a body has to come each second on average, after 2 s; ``0`` is off",
        """
Bytes of a body that have to come each second, on average and once 2 s are over. A
client that sends less is cut off, without an answer. ``0`` is off. Not with
``HTTP_CHANNEL=stock``. Not in log-iss.
""",
        type="size, or ``0``",
        examples=("0", "16KiB"),
        mistakes=("fast",),
    ),
    Entry(
        "KEEPALIVE_TIMEOUT",
        "Clients",
        "seconds without a byte until an idle connection is closed",
        """
Seconds without a byte until an idle connection of a client is closed. Drains of
logplex sit idle for 5 minutes; with less time than that, connections are closed that
they are about to post to. Not in log-iss.
""",
        type="duration",
        examples=("60", "10m"),
        mistakes=("0",),
    ),
    Entry(
        "READ_AHEAD",
        "Clients",
        "how much of further requests is kept while one is served",
        """
Bytes of further requests that are kept while one is being served, on each connection.
When there are more, reading pauses until that one is answered. ``0`` keeps one read
at most. Not with ``HTTP_CHANNEL=stock``. Not in log-iss.
""",
        type="size, or ``0``",
        examples=("0", "16KiB"),
        mistakes=("some",),
    ),
    Entry(
        "ON_TIMEOUT",
        "Clients",
        "``hangup``: close the connection of a log-shuttle in place of a 503 or 504",
        """
``hangup`` closes the connection of a client whose ``User-Agent`` begins with
``log-shuttle`` where ``POST /logs`` would be answered 503 or 504, without an answer.
log-shuttle takes any status for the end of a batch, which is then lost, but sends it
again when its connection breaks. Set it where log-shuttles post here directly: behind
a load balancer, which makes a 502 of a hang-up, it is of no use. A batch of which
something was written before its 504 may arrive twice. Other clients are answered. Not
in log-iss.
""",
        type="``respond`` or ``hangup``, in any case",
        examples=("hangup",),
        mistakes=("wait",),
    ),
    Entry(
        "HTTP_CHANNEL",
        "Clients",
        "``fast``, or ``stock`` for twisted.web's own HTTP channel",
        """
``fast`` is logiss's own HTTP/1.1 channel, ``stock`` is twisted.web's. See `HTTP
<http.rst>`__ for what the latter does not allow. Not in log-iss.
""",
        type="``fast`` or ``stock``",
        examples=("stock",),
        mistakes=("slow",),
    ),
    Entry(
        "MAX_BODY_BYTES",
        "Sizes",
        "largest body, on the wire and inflated",
        """
Largest body of a post, as it comes and inflated; a larger one is 413. The rewritten
frames of one post may come to four times as much.
""",
        type="size",
        examples=("5242880", "5MiB"),
        mistakes=("1GB",),
    ),
    Entry(
        "MAX_INFLIGHT_BYTES",
        "Sizes",
        "all bodies held by the process, those that are still arriving too",
        """
All bodies that the process holds, those that are still arriving too, and what they
have become: inflated, rewritten. When there is no room for more of a body it is not
read on, and a post for which there is none in ``DELIVERY_TIMEOUT`` is answered 503.
Bodies that are still arriving fill seven eighths of it at most, so that those that
only have to be delivered find room. One that is alone may have more: nobody is kept
waiting for himself. From half of it on, connections are read in smaller pieces. With
``HTTP_CHANNEL=stock`` bodies count once they are there. With ``WEB_CONCURRENCY`` each
worker may hold so many.
""",
        type="size",
        examples=("512MiB",),
        mistakes=("1024",),
    ),
    Entry(
        "MAX_REQUEST_LINE",
        "Sizes",
        "longest request line, else 414",
        """
Bytes of a request's line: method, path with query, version. A longer one is answered
414. Not with ``HTTP_CHANNEL=stock``. Not in log-iss.
""",
        type="size, 1KiB to 1MiB",
        examples=("4096", "32KiB"),
        mistakes=("10",),
    ),
    Entry(
        "MAX_HEADER_BYTES",
        "Sizes",
        "most bytes of headers, else 431",
        """
Bytes of all header fields of a request, as they come. More are answered 431. Not with
``HTTP_CHANNEL=stock``. Not in log-iss.
""",
        type="size, 1KiB to 1MiB",
        examples=("8192", "64KiB"),
        mistakes=("1GiB",),
    ),
    Entry(
        "MAX_HEADER_FIELDS",
        "Sizes",
        "most header fields, else 431",
        """
Header fields of a request. More are answered 431. Not with ``HTTP_CHANNEL=stock``.
Not in log-iss.
""",
        type="number, 1 to 1000000",
        examples=("50",),
        mistakes=("0",),
    ),
    Entry(
        "MAX_FRAMES",
        "Sizes",
        "most frames of a post, else 413",
        """
Frames of a post. More are answered 413. Not in log-iss.
""",
        type="number, 1 to 1000000",
        examples=("1000",),
        mistakes=("many",),
    ),
    Entry(
        "MAX_FRAME_BYTES",
        "Sizes",
        "longest frame, else 413",
        """
Bytes of a frame, as it comes and as it leaves. A longer one is answered 413. Not in
log-iss.
""",
        type="size, at most 128KiB",
        examples=("10240", "64KiB"),
        mistakes=("1MiB",),
    ),
    Entry(
        "MAX_GZIP_MEMBERS",
        "Sizes",
        "most members of a gzip body, else 400",
        """
Members of a gzip body, one behind the other. More are answered 400. Not in log-iss.
""",
        type="number, 1 to 1000000",
        examples=("1",),
        mistakes=("0",),
    ),
    Entry(
        "MAX_GZIP_RATIO",
        "Sizes",
        "how many bytes may come out of one, after 1 MiB, else 413",
        """
How many bytes may come out of each byte of a gzip body, once 1 MiB has come out. More
are answered 413. Not in log-iss.
""",
        type="number, 1 to 1000000",
        examples=("50",),
        mistakes=("200:1",),
    ),
    Entry(
        "REQUIRE_MSG_COUNT",
        "Sizes",
        "``1``: refuse posts with another number of frames than ``Logplex-Msg-Count`` "
        "says",
        """
``1`` refuses with 400 a post whose ``Logplex-Msg-Count`` is another number than that
of the frames in its body. In any case the mismatch is logged and counted. Not in
log-iss.
""",
        type="flag",
        examples=("1",),
        mistakes=("2",),
    ),
    Entry(
        "CAPTURE_REFUSED",
        "Refused bodies",
        "directory for the last bodies that were answered 400",
        """
Directory in which the last bodies are kept that were answered 400 because of what
they are: no gzip, malformed frames, another number of frames than they should have.
Each is a file that ``logiss replay`` can post again; `Receiving <receiving.rst>`_ tells
what is in it and what keeping costs. Without it nothing is kept and nothing is paid. It
must be there, and be a directory that logiss may write to. Not in log-iss.
""",
        type="directory",
        examples=("/var/lib/logiss",),
        mistakes=("/nowhere",),
    ),
    Entry(
        "CAPTURE_REFUSED_MAX",
        "Refused bodies",
        "so many of them are kept",
        """
How many files are kept in ``CAPTURE_REFUSED``, those of earlier runs and of all
workers too. The oldest are deleted first. Not in log-iss.
""",
        type="number, 1 to 1000000",
        examples=("1000",),
        mistakes=("0",),
    ),
    Entry(
        "CAPTURE_REFUSED_BYTES",
        "Refused bodies",
        "so large are they together",
        """
How large the files in ``CAPTURE_REFUSED`` are together. A body that is larger alone is
cut, and its file says so. Not in log-iss.
""",
        type="size",
        examples=("1GiB",),
        mistakes=("0",),
    ),
    Entry(
        "DEDUPE_REDIS",
        "Retried posts",
        "``1``: know retried posts by a table in ``REDIS_URL`` that a fleet shares",
        """
``1`` keeps the table of ``Logplex-Frame-Id`` also in the Redis of ``REDIS_URL``, so
that a retry is known by whatever process it reaches: see `Reliability
<reliability.rst#a-table-for-a-fleet>`__. Redis can be slow, full or gone: posts are
delivered as without it then, and a retry may be forwarded twice. When ``TOKEN_MAP``
says who may post, and ``REDIS_KEY`` is not set, Redis is there for this alone. Not in
log-iss.
""",
        type="flag",
        examples=("1",),
        mistakes=("redis",),
    ),
    Entry(
        "DEDUPE_TIMEOUT",
        "Retried posts",
        "how long that Redis may take for an answer; then posts go on without it",
        """
How long the Redis of ``DEDUPE_REDIS`` may take for an answer. One that takes longer is
given up, with its connection, and posts do not wait for it until it has shown that it
is well again. At most a quarter of ``DELIVERY_TIMEOUT``. Not in log-iss.
""",
        type="duration",
        examples=("20ms", "0.2"),
        mistakes=("0",),
    ),
    Entry(
        "DEDUPE_PREFIX",
        "Retried posts",
        "what the keys of that table begin with",
        """
What the keys of the table begin with; a colon and 32 hex digits follow. Instances that
share a table have the same; fleets that share a Redis, but are not to know of each
other, have different ones. So must instances with a different ``FORWARD_DEST``: what
was delivered to one collector would count as delivered to the other, which is a loss.
Not in log-iss.
""",
        type="text, at most 64 printable ASCII characters without spaces",
        examples=("logs-eu:dedupe",),
        mistakes=("two words",),
    ),
)
