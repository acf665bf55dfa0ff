/* What does an engine cost that is no engine? A cheap upstream with SGLang's surface, for benchmarks of gateways.
 *
 * One thread, epoll, HTTP/1.1 keep-alive. Streams advance in lockstep on a
 * shared tick (as an inference engine's decode step does): at every tick each
 * active stream gets one SSE event, sent as one HTTP chunk with one write().
 * Every content chunk carries "@<16-digit CLOCK_MONOTONIC us>#<8-digit number>",
 * so the load generator measures the delay of each single chunk, and sees
 * whether one is missing, out of order or altered (loadgen.c knows the frame).
 * Streams whose body asks for usage get SGLang's usage frame before [DONE].
 *
 *   upstream PORT [REPLICAS]: listens on PORT of 127.0.0.1, 127.0.0.2 and so on
 *
 *   GET  /_mock/config?ttft_us=&itl_us=&tokens=&tpc=&fail_status=&fail_count=
 *                     &cut_after=&hang=            set behaviour, any subset
 *   GET  /_mock/stats | /_mock/reset | /_mock/last counters, last request
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RBUF = 16384, EVBUF = 8192 };
typedef struct conn {
  int fd, streaming, want_out, started, listens;
  char *r; size_t rlen, rcap;
  char *out; size_t olen, ooff, ocap;
  long total, sent; int tpc, usage;
  uint64_t ready_at;
  char id[33];
  struct conn *prev, *next;
} conn;

static long ttft_us = 0, itl_us = 10000, tokens = 128, tpc = 1;
static long fail_status = 0, fail_count = 0, cut_after = 0, hang_ = 0;
static long n_req, n_stream, n_done, n_chunk, n_abort, n_active, n_conn, n_stall;
static uint64_t last_abort_us;
static char last_req[65536]; static size_t last_len;
static conn active = {.prev = &active, .next = &active};
static int ep;
static char pad[4096];

static uint64_t now_us(void) {
  struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}
static void set_events(conn *c, uint32_t ev) {
  struct epoll_event e = {.events = ev | EPOLLRDHUP, .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void detach(conn *c) {
  if (!c->streaming) return;
  c->prev->next = c->next; c->next->prev = c->prev; c->streaming = 0; n_active--;
}
static void drop(conn *c) {
  if (c->streaming) { n_abort++; last_abort_us = now_us(); detach(c); }
  close(c->fd); free(c->r); free(c->out); free(c); n_conn--;
}
/* 0 ok (all sent or queued), -1 dead */
static int send_all(conn *c, const char *b, size_t n) {
  if (!c->want_out) {
    ssize_t w = send(c->fd, b, n, MSG_NOSIGNAL);
    if (w < 0) { if (errno != EAGAIN) return -1; w = 0; }
    if ((size_t)w == n) return 0;
    b += w; n -= w;
  }
  if (c->olen + n > c->ocap) { c->ocap = (c->olen + n) * 2; c->out = realloc(c->out, c->ocap); }
  memcpy(c->out + c->olen, b, n); c->olen += n;
  if (!c->want_out) { c->want_out = 1; set_events(c, EPOLLIN | EPOLLOUT); }
  return 0;
}
static int reply(conn *c, int st, const char *ct, const char *body, size_t n) {
  char h[512];
  int k = snprintf(h, sizeof h, "HTTP/1.1 %d %s\r\ndate: Mon, 01 Dec 2025 00:00:00 GMT\r\nserver: uvicorn\r\n"
      "content-length: %zu\r\ncontent-type: %s\r\n\r\n", st, st == 200 ? "OK" : "Error", n, ct);
  char *m = malloc(k + n); memcpy(m, h, k); memcpy(m + k, body, n);
  int rc = send_all(c, m, k + n); free(m); return rc;
}
static int event(conn *c, char *o, const char *delta, const char *fin) {
  char j[EVBUF];
  int n = snprintf(j, sizeof j, "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":1764547200,"
      "\"model\":\"bench-model\",\"choices\":[{\"index\":0,\"delta\":%s,\"logprobs\":null,"
      "\"finish_reason\":%s,\"matched_stop\":null}],\"usage\":null}\n\n", c->id, delta, fin);
  int k = sprintf(o, "%x\r\n", n);
  memcpy(o + k, j, n); k += n; memcpy(o + k, "\r\n", 2);
  return k + 2;
}
/* emit the next event of a stream; -1: connection is dead or was cut. The greeting comes with the first token. */
static int step(conn *c) {
  char o[EVBUF * 4], d[EVBUF]; int k = 0;
  if (!c->started) {
    c->started = 1;
    k = sprintf(o, "HTTP/1.1 200 OK\r\ndate: Mon, 01 Dec 2025 00:00:00 GMT\r\nserver: uvicorn\r\n"
        "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    k += event(c, o + k, "{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":null,\"tool_calls\":null}", "null");
  }
  if (cut_after && c->sent >= cut_after) { detach(c); return -1; }
  snprintf(d, sizeof d, "{\"role\":null,\"content\":\" @%016llu#%08ld%.*s\",\"reasoning_content\":null,\"tool_calls\":null}",
      (unsigned long long)now_us(), c->sent + 1, (int)((c->tpc - 1) * 5 < 4000 ? (c->tpc - 1) * 5 : 4000), pad);
  k += event(c, o + k, d, "null");
  c->sent++; n_chunk++;
  if (c->sent * c->tpc >= c->total) {
    k += event(c, o + k, "{\"role\":null,\"content\":null,\"reasoning_content\":null,\"tool_calls\":null}", "\"stop\"");
    if (c->usage) {
      char u[512];
      int n = snprintf(u, sizeof u, "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":1764547200,"
          "\"model\":\"bench-model\",\"choices\":[],\"usage\":{\"prompt_tokens\":32,\"total_tokens\":%ld,\"completion_tokens\":%ld,"
          "\"prompt_tokens_details\":null,\"reasoning_tokens\":0}}\n\n", c->id, 32 + c->sent * c->tpc, c->sent * c->tpc);
      k += sprintf(o + k, "%x\r\n%s\r\n", n, u);
    }
    k += sprintf(o + k, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    detach(c); n_done++;
  }
  return send_all(c, o, k);
}
static long qget(const char *q, const char *k, long def) {
  char key[64]; snprintf(key, sizeof key, "%s=", k);
  const char *p = q ? strstr(q, key) : NULL;
  return p ? atol(p + strlen(key)) : def;
}
static int contains(const char *b, size_t n, const char *s) { return memmem(b, n, s, strlen(s)) != NULL; }
static long jnum(const char *b, size_t n, const char *key, long def) {
  const char *p = memmem(b, n, key, strlen(key));
  if (!p) return def;
  for (p += strlen(key); p < b + n && (*p == ' ' || *p == ':' || *p == '"'); p++) ;
  return p < b + n && *p >= '0' && *p <= '9' ? atol(p) : def;
}
static int handle(conn *c, char *path, const char *head, size_t hlen, const char *body, size_t blen) {
  char b[4096]; int n; (void)head; (void)hlen;
  char *q = strchr(path, '?'); if (q) *q++ = 0;
  if (!strcmp(path, "/v1/chat/completions") || !strcmp(path, "/chat/completions")) {
    static unsigned long seq; seq++; n_req++;
    last_len = hlen + blen < sizeof last_req ? hlen + blen : sizeof last_req;
    memcpy(last_req, head, hlen < last_len ? hlen : last_len);
    if (hlen < last_len) memcpy(last_req + hlen, body, last_len - hlen);
    if (hang_) return 0;
    if (fail_status && fail_count != 0) {
      if (fail_count > 0) fail_count--;
      n = sprintf(b, "{\"object\":\"error\",\"message\":\"mock failure %ld\",\"type\":\"MockError\",\"param\":null,\"code\":%ld}", fail_status, fail_status);
      return reply(c, fail_status, "application/json", b, n);
    }
    long tk = jnum(body, blen, "\"max_tokens\"", jnum(body, blen, "\"max_completion_tokens\"", tokens));
    snprintf(c->id, sizeof c->id, "%016lx%016lx", seq * 0x9E3779B97F4A7C15ul, seq);
    if (contains(body, blen, "\"stream\":true") || contains(body, blen, "\"stream\": true")) {
      n_stream++; n_active++;
      c->streaming = 1; c->started = 0; c->total = tk; c->sent = 0; c->tpc = tpc;
      c->usage = contains(body, blen, "\"include_usage\":true");
      c->ready_at = now_us() + ttft_us;
      c->prev = active.prev; c->next = &active; active.prev->next = c; active.prev = c;
      return ttft_us == 0 ? step(c) : 0;
    }
    n = snprintf(b, sizeof b, "{\"id\":\"%s\",\"object\":\"chat.completion\",\"created\":1764547200,\"model\":\"bench-model\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\" @%016llu The quick brown fox jumps over the lazy dog, "
        "again and again, until the benchmark is over and every byte is counted.\",\"reasoning_content\":null,\"tool_calls\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\",\"matched_stop\":null}],\"usage\":{\"prompt_tokens\":32,\"total_tokens\":64,"
        "\"completion_tokens\":32,\"prompt_tokens_details\":null}}", c->id, (unsigned long long)now_us());
    return reply(c, 200, "application/json", b, n);
  }
  if (!strcmp(path, "/_mock/config")) {
    ttft_us = qget(q, "ttft_us", ttft_us); itl_us = qget(q, "itl_us", itl_us);
    tokens = qget(q, "tokens", tokens); tpc = qget(q, "tpc", tpc);
    fail_status = qget(q, "fail_status", fail_status); fail_count = qget(q, "fail_count", fail_count);
    cut_after = qget(q, "cut_after", cut_after); hang_ = qget(q, "hang", hang_);
    return reply(c, 200, "text/plain", "ok", 2);
  }
  if (!strcmp(path, "/_mock/reset")) { n_req = n_stream = n_done = n_chunk = n_abort = n_stall = 0; last_abort_us = 0; }
  if (!strcmp(path, "/_mock/last")) return reply(c, 200, "text/plain", last_req, last_len);
  if (!strncmp(path, "/_mock/", 7)) {
    n = sprintf(b, "{\"requests\":%ld,\"streams\":%ld,\"done\":%ld,\"chunks\":%ld,\"aborts\":%ld,\"active\":%ld,\"conns\":%ld,"
        "\"stalls\":%ld,\"last_abort_us\":%llu,\"now_us\":%llu}", n_req, n_stream, n_done, n_chunk, n_abort, n_active, n_conn,
        n_stall, (unsigned long long)last_abort_us, (unsigned long long)now_us());
    return reply(c, 200, "application/json", b, n);
  }
  const char *s = "{}";
  if (strstr(path, "models"))
    s = "{\"object\":\"list\",\"data\":[{\"id\":\"bench-model\",\"object\":\"model\",\"created\":1764547200,\"owned_by\":\"sglang\",\"root\":\"bench-model\",\"max_model_len\":131072}]}";
  else if (strstr(path, "model_info"))
    s = "{\"model_path\":\"bench-model\",\"tokenizer_path\":\"bench-model\",\"is_generation\":true,\"preferred_sampling_params\":\"\",\"weight_version\":\"default\",\"model_type\":\"llama\"}";
  else if (strstr(path, "server_info"))
    s = "{\"model_path\":\"bench-model\",\"served_model_name\":\"bench-model\",\"tp_size\":1,\"dp_size\":1,\"max_running_requests\":4096,\"max_total_num_tokens\":4000000,\"version\":\"0.5.23\",\"internal_states\":[{}]}";
  else if (strstr(path, "/v1/loads")) {
    struct timespec t; clock_gettime(CLOCK_REALTIME, &t);
    char iso[32]; strftime(iso, sizeof iso, "%Y-%m-%dT%H:%M:%S+00:00", gmtime(&t.tv_sec));
    n = snprintf(b, sizeof b, "{\"timestamp\":\"%s\",\"version\":\"0.5.23\",\"loads\":[{\"timestamp\":%ld,\"dp_rank\":0,"
        "\"num_running_reqs\":%ld,\"num_waiting_reqs\":0,\"num_used_tokens\":0,\"num_total_tokens\":0,"
        "\"max_total_num_tokens\":2000000000,\"max_running_requests\":100000}]}", iso, (long)t.tv_sec, n_active);
    return reply(c, 200, "application/json", b, n);
  } else if (strstr(path, "load"))
    s = "[{\"dp_rank\":0,\"num_reqs\":0,\"num_waiting_reqs\":0,\"num_tokens\":0}]";
  else if (strstr(path, "metrics")) return reply(c, 200, "text/plain", "sglang:num_running_reqs 0\n", 26);
  return reply(c, 200, "application/json", s, strlen(s));
}
/* decode a chunked request body in place; bytes used from src, 0 incomplete */
static size_t dechunk(char *src, size_t n, size_t *blen) {
  size_t i = 0, o = 0;
  for (;;) {
    char *e = memmem(src + i, n - i, "\r\n", 2); if (!e) return 0;
    size_t sz = strtoul(src + i, NULL, 16); size_t st = e + 2 - src;
    if (st + sz + 2 > n) return 0;
    if (!sz) { *blen = o; return st + 2; }
    memmove(src + o, src + st, sz); o += sz; i = st + sz + 2;
  }
}
static int on_read(conn *c) {
  for (;;) {
    if (c->rcap - c->rlen < RBUF) { c->rcap = c->rcap * 2 + RBUF * 2; c->r = realloc(c->r, c->rcap); }
    ssize_t k = recv(c->fd, c->r + c->rlen, c->rcap - c->rlen - 1, 0);
    if (k == 0) return -1;
    if (k < 0) { if (errno == EAGAIN) break; return -1; }
    c->rlen += k; if (c->rlen < c->rcap - 1) break;
  }
  while (c->rlen && !c->streaming) {
    char *e = memmem(c->r, c->rlen, "\r\n\r\n", 4); if (!e) break;
    size_t hl = e + 4 - c->r, bl = 0, used; int chunked = 0;
    c->r[c->rlen] = 0;
    for (char *p = c->r; (p = memchr(p, '\n', e - p)) != NULL && p < e;) {
      p++;
      if (!strncasecmp(p, "content-length:", 15)) bl = atol(p + 15);
      else if (!strncasecmp(p, "transfer-encoding: chunked", 26)) chunked = 1;
    }
    if (chunked) { used = dechunk(c->r + hl, c->rlen - hl, &bl); if (!used) break; }
    else { if (c->rlen < hl + bl) break; used = bl; }
    char path[1024]; char *s = memchr(c->r, ' ', hl); size_t pl = s ? strcspn(s + 1, " \r") : 0;
    if (!s || pl >= sizeof path) return -1;
    memcpy(path, s + 1, pl); path[pl] = 0;
    char *b = c->r + hl; char sv = b[bl]; b[bl] = 0;
    int rc = handle(c, path, c->r, hl, b, bl); b[bl] = sv;
    if (rc) return -1;
    memmove(c->r, c->r + hl + used, c->rlen - hl - used); c->rlen -= hl + used;
  }
  return 0;
}
int main(int argc, char **argv) {
  int port = argc > 1 ? atoi(argv[1]) : 9100;
  signal(SIGPIPE, SIG_IGN);
  for (size_t i = 0; i < sizeof pad; i++) pad[i] = " word"[i % 5];
  int one = 1, count = argc > 2 ? atoi(argv[2]) : 1;
  ep = epoll_create1(0);
  for (int i = 1; i <= count; i++) { /* 127.0.0.1, 127.0.0.2 and so on: replicas of one fleet */
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK + i - 1)};
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) { perror("bind"); return 1; }
    conn *k = calloc(1, sizeof *k); k->fd = ls; k->listens = 1;
    struct epoll_event le = {.events = EPOLLIN, .data.ptr = k};
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &le);
  }
  struct epoll_event ev[1024];
  uint64_t next_tick = now_us();
  for (;;) {
    struct timespec ts = {3600, 0};
    if (active.next != &active) {
      uint64_t t = now_us(); uint64_t d = itl_us && next_tick > t ? next_tick - t : 0;
      ts.tv_sec = d / 1000000; ts.tv_nsec = d % 1000000 * 1000;
    }
    int n = epoll_pwait2(ep, ev, 1024, &ts, NULL);
    for (int i = 0; i < n; i++) {
      conn *c = ev[i].data.ptr;
      if (c->listens) {
        int fd;
        while ((fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          conn *k = calloc(1, sizeof *k); k->fd = fd; n_conn++;
          struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = k};
          epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
        }
        continue;
      }
      int dead = 0;
      if (ev[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) dead = 1;
      else if (ev[i].events & EPOLLIN) dead = on_read(c) < 0;
      if (!dead && ev[i].events & EPOLLOUT && c->want_out) {
        ssize_t w = send(c->fd, c->out + c->ooff, c->olen - c->ooff, MSG_NOSIGNAL);
        if (w < 0 && errno != EAGAIN) dead = 1;
        else if (w > 0 && (c->ooff += w) == c->olen) { c->olen = c->ooff = 0; c->want_out = 0; set_events(c, EPOLLIN); }
      }
      if (dead) drop(c);
    }
    uint64_t t = now_us();
    if (t >= next_tick || !itl_us) {
      next_tick += itl_us; if (next_tick < t) next_tick = t + itl_us;
      for (conn *c = active.next, *nx; c != &active; c = nx) {
        nx = c->next;
        if (t < c->ready_at) continue;
        if (c->want_out) { n_stall++; continue; }
        if (step(c) < 0) drop(c);
      }
    }
  }
}
