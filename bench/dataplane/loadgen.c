/* Does every chunk arrive, when, and unaltered? A load generator for chat completions (epoll, one thread).
 *
 *   loadgen -p PORT [-H host-ip] [-m closed|open|hold] [-c CONC] [-r RATE] [-w WARM_S]
 *           [-d DUR_S] [-s stream?1:0] [-t TOKENS] [-e EXPECT_CHUNKS] [-b PROMPT_BYTES]
 *           [-P path] [-h "Header: v"]... [-M model] [-v]
 *
 * closed: CONC requests always in flight. open: Poisson arrivals at RATE/s
 * (latency counted from the scheduled arrival). hold: opens CONC streams once.
 * Prints "START" after the warm-up and "STOP" after DUR_S (the window in which
 * everything is counted), then one JSON line. A stream is ok only if it was
 * 200, carried exactly EXPECT content chunks in order, [DONE], and ended clean.
 * With -v every content frame must be upstream.c's, byte for byte, and carry the
 * next number of its stream: "altered" and "lost" count those that do not.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct vec { uint32_t *a; size_t n, cap; } vec;
static void push(vec *v, uint64_t x) {
  if (v->n == v->cap) { v->cap = v->cap ? v->cap * 2 : 65536; v->a = realloc(v->a, v->cap * 4); }
  v->a[v->n++] = x > 0xffffffffu ? 0xffffffffu : (uint32_t)x;
}
static int cmp(const void *a, const void *b) { uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b; return (x > y) - (x < y); }
static uint32_t pct(vec *v, double p) { return v->n ? v->a[(size_t)(p * (v->n - 1))] : 0; }

enum { HEAD, FIXED, CHSIZE, CHDATA, CHCRLF, TRAILER, TOEOF, END };
typedef struct conn {
  int fd, st, status, close_after, done, reused, mm; /* mm: mode of the message body */
  uint64_t t0, tfirst, tlast, lastts; size_t left; long seq; long events, content, order_bad;
  char hd[8192]; size_t hn; char ln[16384]; size_t lnn; char cs[32]; size_t csn;
  struct conn *nextfree;
} conn;

static int port = 9200, conc = 16, streaming = 1, tokens = 128, expect = -1, plen = 400;
static double rate = 100, warm = 1, dur = 4; static char mode = 'c';
static const char *path = "/v1/chat/completions", *model = "bench-model", *host = "127.0.0.1"; static char hdrs[2048];
static int ep; static char *req; static size_t reqn; static conn *freelist; static struct sockaddr_in sa;
static int inflight, measuring, stopping; static uint64_t stop_at;
static long n_ok, n_bad, n_err, n_status, n_short, n_conn_err, n_chunk, n_reads, n_shed, n_nodone, st_hist[600];
static int verify; static long n_lost, n_altered, n_seen, n_done_seen;
static vec ttft, delay, e2e, gap; static char sample[512];

static uint64_t now_us(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000; }

static void launch(uint64_t t0) {
  conn *c = freelist;
  if (c) { freelist = c->nextfree; c->reused = 1; }
  else {
    c = calloc(1, sizeof *c); c->fd = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1; setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (void *)&sa, sizeof sa)) { if (measuring) { n_conn_err++; n_bad++; } close(c->fd); free(c); usleep(1000); return; }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
  }
  c->st = HEAD; c->hn = c->lnn = c->csn = 0; c->status = 0; c->events = c->content = c->order_bad = 0; c->done = 0; c->close_after = 0; c->seq = 0;
  c->t0 = t0; c->tfirst = c->tlast = c->lastts = 0;
  inflight++;
  if (send(c->fd, req, reqn, MSG_NOSIGNAL) != (ssize_t)reqn) { /* stale keep-alive connection: the read side reports it */ }
}
static const char F1[] = "data: {\"id\":\"", F2[] = "\",\"object\":\"chat.completion.chunk\",\"created\":1764547200,\"model\":\"bench-model\","
  "\"choices\":[{\"index\":0,\"delta\":{\"role\":null,\"content\":\" @", F3[] = "\",\"reasoning_content\":null,\"tool_calls\":null},"
  "\"logprobs\":null,\"finish_reason\":null,\"matched_stop\":null}],\"usage\":null}";
/* upstream.c's frame with one token per chunk: 32 digits of an id, 16 of an instant, '#', 8 of a number */
static int as_sent(const char *l, size_t n) {
  size_t a = sizeof F1 - 1, b = sizeof F2 - 1, c = sizeof F3 - 1;
  return n == a + 32 + b + 25 + c && !memcmp(l, F1, a) && !memcmp(l + a + 32, F2, b) && !memcmp(l + n - c, F3, c);
}
static void line(conn *c, const char *l, size_t n, uint64_t now) {
  if (n < 5 || memcmp(l, "data:", 5)) return;
  if (memmem(l, n, "[DONE]", 6)) { c->done = 1; n_done_seen++; return; }
  c->events++;
  if (!c->tfirst) { c->tfirst = now; if (measuring && !stopping) push(&ttft, now - c->t0); }
  for (const char *p = l; (p = memchr(p, '@', n - (p - l))); p++) {
    if ((size_t)(l + n - p) < 26) break;
    uint64_t ts = strtoull(p + 1, NULL, 10);
    c->content++; if (ts < c->lastts) c->order_bad++;
    c->lastts = ts;
    n_seen++;
    if (verify) {
      if (strtol(p + 18, NULL, 10) != ++c->seq) { n_lost++; c->seq = strtol(p + 18, NULL, 10); }
      if (!as_sent(l, n)) n_altered++;
    }
    if (measuring && !stopping) { n_chunk++; push(&delay, now > ts ? now - ts : 0); if (c->tlast) push(&gap, now - c->tlast); }
    c->tlast = now;
  }
}
static void body(conn *c, const char *b, size_t n, uint64_t now) {
  if (!streaming || c->status != 200) { if (c->hn < sizeof c->hd - n - 1) { memcpy(c->hd + c->hn, b, n); c->hn += n; } return; }
  while (n) {
    const char *e = memchr(b, '\n', n); size_t k = e ? (size_t)(e - b) : n;
    if (c->lnn + k > sizeof c->ln) k = sizeof c->ln - c->lnn;
    if (c->lnn || !e) { memcpy(c->ln + c->lnn, b, k); c->lnn += k; if (!e) return; line(c, c->ln, c->lnn, now); c->lnn = 0; }
    else line(c, b, k, now);
    n -= e + 1 - b; b = e + 1;
  }
}
static void finish(conn *c, uint64_t now, int broken) {
  int bad = broken;
  if (measuring && !stopping) {
    if (c->status >= 0 && c->status < 600) st_hist[c->status]++;
    if (c->status != 200) { n_status++; bad = 1; if (!sample[0]) snprintf(sample, sizeof sample, "%.*s", (int)c->hn, c->hd); }
    else if (streaming) {
      if (expect >= 0 && c->content != expect) { n_short++; bad = 1; }
      if (!c->done) { n_nodone++; bad = 1; }
      if (c->order_bad) bad = 1;
    }
    if (broken) n_err++;
    if (bad) n_bad++; else { n_ok++; push(&e2e, now - c->t0); if (!streaming) push(&ttft, now - c->t0); }
  }
  inflight--;
  if (broken || c->close_after) { close(c->fd); free(c); }
  else { c->nextfree = freelist; freelist = c; }
  if (mode == 'c' && !stopping) launch(now_us());
}
/* returns 1 when the message ended */
static int feed(conn *c, const char *b, size_t n, uint64_t now) {
  while (n) {
    if (c->st == HEAD) {
      size_t k = n < sizeof c->hd - 1 - c->hn ? n : sizeof c->hd - 1 - c->hn;
      memcpy(c->hd + c->hn, b, k); c->hd[c->hn + k] = 0;
      char *e = memmem(c->hd, c->hn + k, "\r\n\r\n", 4);
      if (!e) { c->hn += k; return 0; }
      size_t used = (e + 4 - c->hd) - c->hn; e[2] = 0;
      c->status = atoi(c->hd + 9); c->st = TOEOF; c->left = 0;
      for (char *p = c->hd; (p = strchr(p, '\n')); ) {
        p++;
        if (!strncasecmp(p, "content-length:", 15)) { c->left = atol(p + 15); c->st = FIXED; }
        else if (!strncasecmp(p, "transfer-encoding: chunked", 26)) c->st = CHSIZE;
        else if (!strncasecmp(p, "connection: close", 17)) c->close_after = 1;
      }
      c->hn = 0; b += used; n -= used;
      if (c->st == FIXED && !c->left) return 1;
      if (c->st == TOEOF) c->close_after = 1;
    } else if (c->st == FIXED || c->st == CHDATA) {
      size_t k = n < c->left ? n : c->left; body(c, b, k, now); c->left -= k; b += k; n -= k;
      if (!c->left) { if (c->st == FIXED) return 1; c->st = CHCRLF; c->left = 2; }
    } else if (c->st == CHCRLF) { size_t k = n < c->left ? n : c->left; c->left -= k; b += k; n -= k; if (!c->left) c->st = CHSIZE; }
    else if (c->st == CHSIZE) {
      char x = *b++; n--;
      if (x == '\n') { c->cs[c->csn] = 0; c->left = strtoul(c->cs, NULL, 16); c->csn = 0; c->st = c->left ? CHDATA : TRAILER; }
      else if (c->csn < sizeof c->cs - 1) c->cs[c->csn++] = x;
    } else if (c->st == TRAILER) { char x = *b++; n--; if (x == '\n') { if (!c->csn) return 1; c->csn = 0; } else if (x != '\r') c->csn++; }
    else { body(c, b, n, now); return 0; }
  }
  return 0;
}
int main(int argc, char **argv) {
  for (int o; (o = getopt(argc, argv, "p:m:c:r:w:d:s:t:e:b:P:h:M:H:v")) > 0;) switch (o) {
    case 'p': port = atoi(optarg); break; case 'm': mode = optarg[0]; break; case 'c': conc = atoi(optarg); break;
    case 'r': rate = atof(optarg); break; case 'w': warm = atof(optarg); break; case 'd': dur = atof(optarg); break;
    case 's': streaming = atoi(optarg); break; case 't': tokens = atoi(optarg); break; case 'e': expect = atoi(optarg); break;
    case 'b': plen = atoi(optarg); break; case 'P': path = optarg; break; case 'M': model = optarg; break; case 'H': host = optarg; break;
    case 'v': verify = 1; break;
    case 'h': strncat(hdrs, optarg, 1000); strcat(hdrs, "\r\n"); break; default: return 2;
  }
  char *pr = malloc(plen + 1); for (int i = 0; i < plen; i++) pr[i] = "lorem ipsum "[i % 12];
  pr[plen] = 0; if (plen && pr[plen - 1] == ' ') pr[plen - 1] = '.';
  char *bd; int bn = asprintf(&bd, "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},"
      "{\"role\":\"user\",\"content\":\"%s\"}],\"temperature\":0.7,\"max_tokens\":%d,\"stream\":%s}", model, pr, tokens, streaming ? "true" : "false");
  reqn = asprintf(&req, "POST %s HTTP/1.1\r\nhost: %s:%d\r\nuser-agent: OpenAI/Python 1.0\r\naccept: */*\r\ncontent-type: application/json\r\n"
      "%scontent-length: %d\r\n\r\n%s", path, host, port, hdrs, bn, bd);
  sa = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)}; inet_pton(AF_INET, host, &sa.sin_addr);
  ep = epoll_create1(0); srand48(12345);
  uint64_t t0 = now_us(), start_at = t0 + warm * 1e6, next = t0; stop_at = start_at + dur * 1e6; uint64_t real_start = 0, real_stop = 0;
  static char buf[262144]; struct epoll_event ev[512];
  int opened = 0;
  while (!real_stop || (inflight && mode != 'h' && now_us() < stop_at + 300000)) {
    uint64_t t = now_us(), wake = measuring ? stop_at : start_at;
    if (!measuring && t >= start_at) { measuring = 1; real_start = t; puts("START"); fflush(stdout); }
    if (measuring && !stopping && t >= stop_at) { stopping = 1; real_stop = t; puts("STOP"); fflush(stdout); continue; }
    if (stopping) wake = t + 50000;
    if (mode != 'o' && opened < conc && !stopping) { /* gently: listen backlogs are short */
      for (int k = 0; k < 8 && opened < conc; k++, opened++) launch(now_us());
      if (opened < conc && t + 4000 < wake) wake = t + 4000;
    }
    if (mode == 'o' && !stopping) {
      while (next <= t) { if (inflight < 4096) launch(next); else n_shed++; next += (uint64_t)(-log(1 - drand48()) / rate * 1e6); }
      if (next < wake) wake = next;
    }
    uint64_t d = wake > t ? wake - t : 0; struct timespec ts = {d / 1000000, d % 1000000 * 1000};
    int n = epoll_pwait2(ep, ev, 512, &ts, NULL);
    for (int i = 0; i < n; i++) {
      conn *c = ev[i].data.ptr; ssize_t k = recv(c->fd, buf, sizeof buf, MSG_DONTWAIT); t = now_us();
      if (k < 0 && errno == EAGAIN) continue;
      if (k <= 0) {
        if (c->st == TOEOF && k == 0) { c->close_after = 1; finish(c, t, 0); continue; }
        int idle = 0; for (conn **p = &freelist; *p; p = &(*p)->nextfree) if (*p == c) { *p = c->nextfree; idle = 1; break; }
        if (idle) { close(c->fd); free(c); } else finish(c, t, 1);
        continue;
      }
      if (measuring && !stopping) n_reads++;
      if (feed(c, buf, k, t)) finish(c, t, 0);
    }
  }
  double el = (real_stop - real_start) / 1e6; if (el <= 0) el = 1e-6;
  qsort(ttft.a, ttft.n, 4, cmp); qsort(delay.a, delay.n, 4, cmp); qsort(e2e.a, e2e.n, 4, cmp); qsort(gap.a, gap.n, 4, cmp);
  printf("{\"secs\":%.3f,\"ok\":%ld,\"bad\":%ld,\"broken\":%ld,\"non200\":%ld,\"short\":%ld,\"no_done\":%ld,\"conn_err\":%ld,\"lost\":%ld,\"altered\":%ld,\"seen\":%ld,\"dones\":%ld,\"shed\":%ld,\"rps\":%.1f,"
      "\"chunks\":%ld,\"chunks_s\":%.0f,\"chunks_per_read\":%.2f,\"ttft_p50\":%u,\"ttft_p99\":%u,\"delay_p50\":%u,\"delay_p99\":%u,\"gap_p50\":%u,\"gap_p99\":%u,"
      "\"e2e_p50\":%u,\"e2e_p99\":%u,\"status\":{", el, n_ok, n_bad, n_err, n_status, n_short, n_nodone, n_conn_err, n_lost, n_altered, n_seen, n_done_seen, n_shed, n_ok / el, n_chunk, n_chunk / el,
      n_reads ? (double)n_chunk / n_reads : 0, pct(&ttft, .5), pct(&ttft, .99), pct(&delay, .5), pct(&delay, .99), pct(&gap, .5), pct(&gap, .99), pct(&e2e, .5), pct(&e2e, .99));
  int first = 1; for (int i = 0; i < 600; i++) if (st_hist[i]) { printf("%s\"%d\":%ld", first ? "" : ",", i, st_hist[i]); first = 0; }
  for (char *p = sample; *p; p++) if (*p == '"' || *p == '\\' || *p < 32) *p = '\'';
  printf("},\"sample_error\":\"%s\"}\n", sample);
}
