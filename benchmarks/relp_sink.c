/* relp_sink: takes RELP sessions on a loopback port, answers 200 to each syslog frame
   and forgets it.  relp_sink PORT */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IN = 1 << 20, OUT = 2 * IN, ANSWER = 128 };
#define OFFERS "200 OK\nrelp_version=0\nrelp_software=relp_sink\ncommands=syslog"

/* A number before `end`, behind which *at stands; -1 when there is more to come, -2
   when it is none. */
static long number(const char **at, const char *end) {
    const char *first = *at;
    long n = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; ++*at) {
        n = n * 10 + **at - '0';
        if (*at - first == 9) return -2;
    }
    return *at == end ? -1 : *at == first ? -2 : n;
}

/* The answer to the frame at *at, behind which *at stands then; its length, 0 when the
   frame has more to come, -1 when it ends the session. */
static int take(const char **at, const char *end, char *answer, int *closes) {
    const char *p = *at, *command;
    long txnr = number(&p, end), size;
    if (txnr < 0) return txnr == -1 ? 0 : -1;
    if (*p++ != ' ') return -1;
    command = p;
    if (!(p = memchr(p, ' ', end - p))) return end - command > 32 ? -1 : 0;
    long length = p++ - command;
    if ((size = number(&p, end)) < 0) return size == -1 ? 0 : -1;
    if (size && *p++ != ' ') return -1;
    if (size >= IN / 2) return -1;
    if (end - p <= size) return 0;
    if (p[size] != '\n') return -1;
    *at = p + size + 1;
    if (length == 6 && !memcmp(command, "syslog", 6))
        return sprintf(answer, "%ld rsp 6 200 OK\n", txnr);
    if (length == 4 && !memcmp(command, "open", 4))
        return sprintf(answer, "%ld rsp %zu %s\n", txnr, sizeof OFFERS - 1, OFFERS);
    if (length != 5 || memcmp(command, "close", 5)) return -1;
    *closes = 1;
    return sprintf(answer, "%ld rsp 0\n0 serverclose 0\n", txnr);
}

static int send_all(int fd, const char *octets, long size) {
    while (size > 0) {
        long sent = send(fd, octets, size, MSG_NOSIGNAL);
        if (sent <= 0) return 0;
        octets += sent;
        size -= sent;
    }
    return 1;
}

struct session {
    int fd, closes;
    long kept;
    char in[IN];
};

/* Take what has come; 0 at the end of the session. */
static int serve(struct session *s) {
    static char out[OUT];
    long got = recv(s->fd, s->in + s->kept, IN - s->kept, 0), written = 0;
    if (got <= 0) return 0;
    const char *at = s->in, *end = s->in + s->kept + got;
    int answered = 0;
    /* No answer but the one to open is twice as long as its frame. */
    while (!s->closes && written < OUT - ANSWER &&
           (answered = take(&at, end, out + written, &s->closes)) > 0)
        written += answered;
    if (!send_all(s->fd, out, written)) return 0;
    s->kept = end - at;
    memmove(s->in, at, s->kept);
    return !s->closes && answered >= 0;
}

/* One thread for all sessions, as librelp's server has it. */
int main(int argc, char **argv) {
    if (argc != 2) return 2;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), ready = epoll_create1(0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 64)) return 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = 0}, events[64];
    epoll_ctl(ready, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(ready, events, 64, -1);
        for (int i = 0; i < count; i++) {
            struct session *s = events[i].data.ptr;
            if (s) {
                if (serve(s)) continue;
                close(s->fd);
                free(s);
            } else if ((s = malloc(sizeof *s))) {
                s->kept = s->closes = 0;
                s->fd = accept(listener, 0, 0);
                event.data.ptr = s;
                if (s->fd < 0 || epoll_ctl(ready, EPOLL_CTL_ADD, s->fd, &event)) free(s);
            }
        }
    }
}
