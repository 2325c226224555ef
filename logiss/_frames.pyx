# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""
The compiled twin of `logiss.frames`, and of what RELP makes of its messages.

`rewrite` walks the usual way through a body: frames within their limits, whatever their
fields. Whatever is out of the ordinary (a frame that breaks the grammar, a limit,
structured data to be kept) it leaves to the pure twin, whole body and all, so that
there is one place that says what is wrong, and one that knows structured data.

The output is written straight into the bytes object that is returned. It is sized
by the body and by how much its first frames have grown, never by a MSG-LEN alone: a
frame has to be there before anything is made for it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *PyBytes_FromStringAndSize(const char *, Py_ssize_t) except NULL
    int _PyBytes_Resize(PyObject **, Py_ssize_t) except -1
    char *octets_of "PyBytes_AS_STRING"(PyObject *)
    void Py_XDECREF(PyObject *)
    bytes new_bytes "PyBytes_FromStringAndSize"(const char *, Py_ssize_t)

from logiss import frames as pure
from logiss import relp as pure_relp
from logiss.frames import Batch, DEFAULT_LIMITS, EMPTY_BATCH

cdef enum:
    HOSTNAME_MAX = 255
    APP_NAME_MAX = 48
    PROCID_MAX = 128
    MSGID_MAX = 32
    LENGTH_DIGITS_MAX = 9
    REPORT_BYTES_MAX = 80
    MESSAGE_BYTES_MAX = 131072
    DATALEN_DIGITS_MAX = 6
    NUMBER_DIGITS_MAX = 20


# Far above any txnr; a count of them on top of it is still a Py_ssize_t.
cdef Py_ssize_t TXNR_SANE_MAX = 10 ** 18


cdef struct Field:
    const char *start
    Py_ssize_t size


cdef inline char *put(char *at, const char *octets, Py_ssize_t size) noexcept nogil:
    memcpy(at, octets, size)
    return at + size


cdef inline Py_ssize_t digits_of(Py_ssize_t number) noexcept nogil:
    cdef Py_ssize_t digits = 1
    while number >= 10:
        number //= 10
        digits += 1
    return digits


cdef inline char *put_number(char *at, Py_ssize_t number) noexcept nogil:
    cdef char *end = at + digits_of(number)
    cdef char *digit = end
    while True:
        digit -= 1
        digit[0] = <char>(48 + number % 10)
        number //= 10
        if digit == at:
            return end


cdef inline Py_ssize_t count_up(char *digits, Py_ssize_t size) noexcept nogil:
    """Make the number of `size` digits one more; how many it has then."""
    cdef Py_ssize_t i = size
    while i > 0:
        i -= 1
        if digits[i] != 57:
            digits[i] += 1
            return size
        digits[i] = 48
    digits[0] = 49
    digits[size] = 48
    return size + 1


cdef inline bint cut(Field *field, Py_ssize_t most) noexcept nogil:
    """Put ``-`` for an empty field, cut a long one; whether it was cut."""
    if field.size == 0:
        field.start = b"-"
        field.size = 1
    elif field.size > most:
        field.size = most
        return True
    return False


cdef inline bint is_space(char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline const char *behind_msg_len(
    const char *at, const char *end, Py_ssize_t *length
) noexcept nogil:
    """Read ``MSG-LEN SP`` at `at`, which is before `end`; NULL when there is none."""
    cdef const char *start = at
    length[0] = 0
    while start < end and 48 <= start[0] <= 57 and start - at <= LENGTH_DIGITS_MAX:
        length[0] = 10 * length[0] + (start[0] - 48)
        start += 1
    if (
        start == at
        or start - at > LENGTH_DIGITS_MAX
        or at[0] == 48
        or start == end
        or start[0] != 32
    ):
        return NULL
    return start + 1


def rewrite(
    bytes body not None,
    bytes structured_data not None,
    bytes drain_token not None = b"",
    bint keep_structured_data=False,
    limits=DEFAULT_LIMITS,
):
    """As `logiss.frames.rewrite`, to the byte and to the message."""
    cdef const char *at = PyBytes_AS_STRING(body)
    cdef const char *end = at + PyBytes_GET_SIZE(body)
    cdef const char *body_start = at
    cdef const char *start
    cdef const char *stop
    cdef const char *space
    cdef Py_ssize_t frame_bytes_max = limits.frame_bytes
    cdef Py_ssize_t frames_max = limits.frames
    cdef Py_ssize_t batch_bytes_max = limits.batch_bytes
    cdef Py_ssize_t length, msg_size, msg_len, grown, used = 0, batch_bytes = 0
    cdef Py_ssize_t frames = 0
    cdef Py_ssize_t dropped = 0, lost = 0
    cdef Py_ssize_t hostnames_cut = 0, app_names_cut = 0, procids_cut = 0, msgids_cut = 0
    cdef Field leading, hostname, app_name, procid, msgid
    cdef Field fields[5]
    cdef Py_ssize_t i
    cdef bint has_nil, has_space
    cdef char *to
    cdef bytes stamp = structured_data or b"-"
    cdef const char *stamp_start = PyBytes_AS_STRING(stamp)
    cdef Py_ssize_t stamp_size = PyBytes_GET_SIZE(stamp)
    cdef const char *token = PyBytes_AS_STRING(drain_token)
    cdef Py_ssize_t token_size = PyBytes_GET_SIZE(drain_token)
    cdef PyObject *out = NULL
    cdef char *octets = NULL
    cdef Py_ssize_t room = 0

    for i in range(token_size):
        if not 33 <= token[i] <= 126:
            token_size = 0
            break

    try:
        while at < end:
            start = behind_msg_len(at, end, &length)
            if start == NULL:
                if is_space(at[0]):
                    start = at
                    while start < end and is_space(start[0]):
                        start += 1
                    if start == end:
                        break
                return pure.rewrite(
                    body, structured_data, drain_token, keep_structured_data, limits
                )
            frames += 1
            if length > end - start or length > frame_bytes_max or frames > frames_max:
                return pure.rewrite(
                    body, structured_data, drain_token, keep_structured_data, limits
                )
            stop = start + length

            # PRI VERSION SP TIMESTAMP SP, HOSTNAME SP APP-NAME SP PROCID SP MSGID
            leading.start = start
            space = <const char *>memchr(start, 32, stop - start)
            if space != NULL:
                space = <const char *>memchr(space + 1, 32, stop - space - 1)
            if space == NULL:
                return pure.rewrite(
                    body, structured_data, drain_token, keep_structured_data, limits
                )
            leading.size = space + 1 - start
            start = space + 1
            for i in range(4):
                fields[i].start = start
                space = <const char *>memchr(start, 32, stop - start)
                if space == NULL:
                    if i < 3:
                        return pure.rewrite(
                            body, structured_data, drain_token, keep_structured_data, limits
                        )
                    space = stop
                fields[i].size = space - start
                start = space + 1
            hostname = fields[0]
            app_name = fields[1]
            procid = fields[2]
            msgid = fields[3]
            if token_size and hostname.size == 4 and (
                hostname.start[0] == 104
                and hostname.start[1] == 111
                and hostname.start[2] == 115
                and hostname.start[3] == 116
            ):
                hostname.start = token
                hostname.size = token_size
            hostnames_cut += cut(&hostname, HOSTNAME_MAX)
            app_names_cut += cut(&app_name, APP_NAME_MAX)
            procids_cut += cut(&procid, PROCID_MAX)
            msgids_cut += cut(&msgid, MSGID_MAX)

            # [SP nil SP] MSG; `start` is one behind `stop` when MSGID ends the frame.
            has_nil = False
            if start > stop:
                start = stop
            elif stop - start >= 2 and start[0] == 45 and start[1] == 32:
                has_nil = True
                start += 2
            elif keep_structured_data and start < stop and start[0] == 91:
                return pure.rewrite(
                    body, structured_data, drain_token, keep_structured_data, limits
                )
            msg_size = stop - start
            if (
                procid.size == 7 and memcmp(procid.start, b"logplex", 7) == 0
            ) or (procid.size == 11 and memcmp(procid.start, b"log-shuttle", 11) == 0):
                # Few frames come so far: what a report is the pure twin knows.
                counts = pure.losses_in(start[:min(msg_size, REPORT_BYTES_MAX)])
                dropped += counts[0]
                lost += counts[1]
            has_space = has_nil or msg_size > 0

            msg_len = (
                leading.size + hostname.size + app_name.size + procid.size + msgid.size
                + 4 + stamp_size + has_space + msg_size
            )
            batch_bytes += msg_len
            if msg_len > frame_bytes_max or batch_bytes > batch_bytes_max:
                return pure.rewrite(
                    body, structured_data, drain_token, keep_structured_data, limits
                )
            grown = used + digits_of(msg_len) + 1 + msg_len
            if grown > room:
                # The rest of the body, should it grow as its first frames did, but
                # never more than the batch may still come to.
                room = grown + min(
                    <Py_ssize_t>(<double>(end - stop) * grown / (stop - body_start)),
                    batch_bytes_max - batch_bytes,
                )
                if out == NULL:
                    out = PyBytes_FromStringAndSize(NULL, room)
                else:
                    _PyBytes_Resize(&out, room)
                octets = octets_of(out)

            to = put_number(octets + used, msg_len)
            to[0] = 32
            to = put(to + 1, leading.start, leading.size)
            to = put(to, hostname.start, hostname.size)
            to[0] = 32
            to = put(to + 1, app_name.start, app_name.size)
            to[0] = 32
            to = put(to + 1, procid.start, procid.size)
            to[0] = 32
            to = put(to + 1, msgid.start, msgid.size)
            to[0] = 32
            to = put(to + 1, stamp_start, stamp_size)
            if has_space:
                to[0] = 32
                to += 1
            to = put(to, start, msg_size)
            used = to - octets
            at = stop


        if not frames:
            return EMPTY_BATCH
        _PyBytes_Resize(&out, used)
        return Batch(
            <object>out,
            frames,
            hostnames_cut,
            app_names_cut,
            procids_cut,
            msgids_cut,
            dropped,
            lost,
        )
    finally:
        Py_XDECREF(out)


def split(bytes octets not None):
    """As `logiss.frames.split`."""
    cdef const char *at = PyBytes_AS_STRING(octets)
    cdef const char *end = at + PyBytes_GET_SIZE(octets)
    cdef const char *start
    cdef Py_ssize_t length
    cdef list messages = []
    while at < end:
        start = behind_msg_len(at, end, &length)
        if start == NULL or length > end - start:
            return pure.split(octets)
        messages.append(start[:length])
        at = start + length
    return messages


def tail(bytes octets not None, Py_ssize_t size):
    """As `logiss.frames.tail`."""
    cdef const char *at = PyBytes_AS_STRING(octets)
    cdef const char *end = at + PyBytes_GET_SIZE(octets)
    cdef const char *first = at
    cdef const char *start
    cdef Py_ssize_t length
    while at < end and end - at >= size:
        first = at
        start = behind_msg_len(at, end, &length)
        if start == NULL or end - start < length:
            return octets
        at = start + length
    if end - at >= size:
        first = at
    return first[: end - first]


cdef inline Py_ssize_t end_of_frame(
    const char *octets, Py_ssize_t at, Py_ssize_t size
) noexcept nogil:
    """Where the octet-counted frame at `at` ends; -1 when none begins there."""
    cdef Py_ssize_t length = 0, digits = 0
    while digits < DATALEN_DIGITS_MAX and at < size and 48 <= octets[at] <= 57:
        length = length * 10 + octets[at] - 48
        at += 1
        digits += 1
    if digits == 0 or at == size or octets[at] != 32:
        return -1
    at += 1
    if not 0 < length <= MESSAGE_BYTES_MAX or length > size - at:
        return -1
    return at + length


def syslog_frames(
    bytes octets not None, Py_ssize_t at, Py_ssize_t count_max, Py_ssize_t first_txnr
):
    """As `logiss.relp.syslog_frames`."""
    cdef const char *start = PyBytes_AS_STRING(octets)
    cdef Py_ssize_t whole = PyBytes_GET_SIZE(octets)
    cdef Py_ssize_t end = at, next_end, size = 0, count = 0, i
    cdef char txnr[NUMBER_DIGITS_MAX]
    cdef Py_ssize_t digits
    cdef bytes made
    cdef char *to
    if not 0 <= at <= whole or not 0 <= first_txnr <= TXNR_SANE_MAX:
        return pure_relp.syslog_frames(octets, at, count_max, first_txnr)
    while end < whole and count < count_max:
        end = end_of_frame(start, end, whole)
        if end < 0:
            return pure_relp.syslog_frames(octets, at, count_max, first_txnr)
        size += digits_of(first_txnr + count) + 9
        count += 1
    size += end - at
    digits = put_number(txnr, first_txnr) - txnr
    made = new_bytes(NULL, size)
    to = PyBytes_AS_STRING(made)
    for i in range(count):
        next_end = end_of_frame(start, at, whole)
        to = put(to, txnr, digits)
        digits = count_up(txnr, digits)
        to = put(to, b" syslog ", 8)
        to = put(to, start + at, next_end - at)
        to[0] = 10
        to += 1
        at = next_end
    return made, count, end


def answers(Py_ssize_t first_txnr, Py_ssize_t end_txnr):
    """As `logiss.relp.answers`."""
    cdef Py_ssize_t size = 0, n
    cdef char txnr[NUMBER_DIGITS_MAX]
    cdef Py_ssize_t digits
    cdef bytes lines
    cdef char *to
    if not 0 <= first_txnr <= TXNR_SANE_MAX or end_txnr > TXNR_SANE_MAX:
        return pure_relp.answers(first_txnr, end_txnr)
    digits = put_number(txnr, first_txnr) - txnr
    for n in range(first_txnr, end_txnr):
        size += digits_of(n) + 14
    lines = new_bytes(NULL, size)
    to = PyBytes_AS_STRING(lines)
    for n in range(first_txnr, end_txnr):
        to = put(to, txnr, digits)
        digits = count_up(txnr, digits)
        to = put(to, b" rsp 6 200 OK\n", 14)
    return lines
