/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "worker/task/http_decode.h"
#include "worker/task/net_guard.h"
#include "worker/version.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* HTTP for tasks, over libcurl. Redirects are followed here rather than by libcurl, so that headers
 * a task set (keys, tokens) never reach another origin than the one it named. Proxies of the
 * environment are used only with allow_private: behind a proxy the guard could not see where a
 * request goes. */

enum { MAX_REDIRECTS = 5, MAX_IDLE = 8, ERROR_KEPT = 16 << 10 };
static const size_t default_max_size = 64 << 20;
static const double default_timeout = 30;

/* Handles keep their connections between deliveries. Those that may hold a connection to a private
 * address are kept apart: reusing one would pass by the guard. */
static struct stack {
    CURL *handles[MAX_IDLE];
    int size;
} idle[2];
static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

struct call {
    cw_task *t;
    const struct cw_http *request;
    CURL *handle;
    char *url;          /* where the redirects led */
    char *first_origin; /* scheme://host:port of the request */
    char *host;         /* for messages: no path, no query, no password */
    const char *method;
    bool with_body, refused, stopped, too_large, unwanted;
    double deadline; /* on the monotonic clock, seconds */
    size_t max_size, streamed;
    struct http_decoder decoder; /* of one answer */
    bool packed;                 /* was it? Then it has told its own end */
    struct buf body;
};

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static CURL *handle_take(bool private)
{
    struct stack *s = &idle[private];
    pthread_once(&curl_once, init_curl);
    pthread_mutex_lock(&idle_lock);
    CURL *handle = s->size ? s->handles[--s->size] : NULL;
    pthread_mutex_unlock(&idle_lock);
    return handle ? handle : curl_easy_init();
}

static void handle_give(CURL *handle, bool private)
{
    struct stack *s = &idle[private];
    curl_easy_reset(handle);
    pthread_mutex_lock(&idle_lock);
    bool kept = s->size < MAX_IDLE;
    if (kept)
        s->handles[s->size++] = handle;
    pthread_mutex_unlock(&idle_lock);
    if (!kept)
        curl_easy_cleanup(handle);
}

void http_close(void)
{
    pthread_mutex_lock(&idle_lock);
    for (int i = 0; i < 2; i++)
        while (idle[i].size)
            curl_easy_cleanup(idle[i].handles[--idle[i].size]);
    pthread_mutex_unlock(&idle_lock);
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct call *c = arg;
    (void)purpose;
    if (!c->request->allow_private && !address_is_public(&address->addr)) {
        c->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static long status_of(const struct call *c)
{
    long status = 0;
    curl_easy_getinfo(c->handle, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

/* A part that nobody asked for is no body of a success. */
static bool is_success(const struct call *c)
{
    long status = status_of(c);
    if (status != 206)
        return status >= 200 && status < 300;
    for (const char *const *h = c->request->headers; h && *h; h++)
        if (strncasecmp(*h, "Range:", 6) == 0)
            return true;
    return false;
}

/* A limit for what is streamed is none for memory: of an error its beginning tells enough. */
static int on_error_data(struct call *c, const char *data, size_t size)
{
    size_t room = c->body.size < ERROR_KEPT ? ERROR_KEPT - c->body.size : 0;
    c->streamed += size;
    c->too_large = c->streamed > c->max_size;
    buf_add(&c->body, data, size < room ? size : room);
    return c->too_large ? -1 : 0;
}

/* Sizes are those after decompression: a small gzip can hide a large body. */
static int on_decoded(const char *data, size_t size, void *arg)
{
    struct call *c = arg;
    if (c->request->on_body && is_success(c)) {
        c->streamed += size;
        c->too_large = c->streamed > c->max_size;
        if (c->too_large)
            return -1;
        c->unwanted = c->request->on_body(c->t, data, size, c->request->arg) < 0;
        return c->unwanted ? -1 : 0;
    }
    if (c->request->on_body)
        return on_error_data(c, data, size);
    buf_add(&c->body, data, size);
    c->too_large = c->body.failed;
    return c->too_large ? -1 : 0;
}

static void add_codings(struct call *c, const char *header)
{
    struct curl_header *h;
    for (size_t i = 0; curl_easy_header(c->handle, header, i, CURLH_HEADER, -1, &h) == CURLHE_OK;
         i++)
        if (strcasecmp(h->value, "chunked") != 0) /* libcurl's to undo */
            http_decode_add(&c->decoder, h->value);
}

static size_t on_data(char *data, size_t size, size_t count, void *arg)
{
    struct call *c = arg;
    size *= count;
    if (!c->decoder.taken) {
        add_codings(c, "Content-Encoding");
        add_codings(c, "Transfer-Encoding");
    }
    return http_decode(&c->decoder, data, size, on_decoded, c) < 0 ? 0 : size;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t d, curl_off_t e)
{
    struct call *c = arg;
    (void)a, (void)b, (void)d, (void)e;
    c->stopped = cw_stopping(c->t) != CW_GO;
    return c->stopped;
}

static double now_seconds(void)
{
    return (double)clock_us(CLOCK_MONOTONIC) / 1e6;
}

static char *part(CURLU *url, CURLUPart what, unsigned flags)
{
    char *text = NULL;
    if (curl_url_get(url, what, &text, flags) != CURLUE_OK)
        return mem_dup("");
    char *copy = mem_dup(text);
    curl_free(text);
    return copy;
}

/* `scheme://host:port`, NULL when the URL is none of http or https; *ret_host is to be freed too.
 */
static char *origin_of(const char *text, char **ret_host)
{
    CURLU *url = curl_url();
    char *origin = NULL;
    *ret_host = NULL;
    if (curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK) {
        char *scheme = part(url, CURLUPART_SCHEME, 0);
        char *port = part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT);
        *ret_host = part(url, CURLUPART_HOST, 0);
        if (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0)
            origin = mem_printf("%s://%s:%s", scheme, *ret_host, port);
        free(scheme);
        free(port);
    }
    curl_url_cleanup(url);
    return origin;
}

/* Headers of the task go to the origin that it named; others get none of them. */
static struct curl_slist *headers_for(const struct call *c, const char *origin)
{
    struct curl_slist *list = NULL;
    if (strcmp(origin, c->first_origin) == 0)
        for (const char *const *h = c->request->headers; h && *h; h++)
            list = curl_slist_append(list, *h);
    return curl_slist_append(list, "Expect:");
}

static void set_method(const struct call *c)
{
    CURL *h = c->handle;
    size_t size = c->request->body_size ? c->request->body_size
                  : c->request->body    ? strlen(c->request->body)
                                        : 0;
    curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
    if (c->with_body) {
        curl_easy_setopt(h, CURLOPT_POST, 1L);
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)size);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, c->request->body);
    } else if (strcmp(c->method, "HEAD") == 0) {
        curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    }
    bool implied = strcmp(c->method, c->with_body ? "POST" : "GET") == 0;
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, implied ? NULL : c->method);
}

/* The same handle may carry a request to another origin next: what is not wanted is unset. */
static void set_pem(CURL *h, CURLoption option, const char *text)
{
    struct curl_blob blob = {(void *)text, text ? strlen(text) : 0, CURL_BLOB_COPY};
    curl_easy_setopt(h, option, text ? &blob : NULL);
}

static void set_tls(const struct call *c, bool own)
{
    const struct cw_http *r = c->request;
    set_pem(c->handle, CURLOPT_CAINFO_BLOB, own ? r->ca : NULL);
    set_pem(c->handle, CURLOPT_SSLCERT_BLOB, own ? r->client_cert : NULL);
    set_pem(c->handle, CURLOPT_SSLKEY_BLOB, own ? r->client_key : NULL);
}

static void set_options(struct call *c, struct curl_slist *headers)
{
    CURL *h = c->handle;
    double left = c->deadline - now_seconds();
    curl_easy_setopt(h, CURLOPT_URL, c->url);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(h, CURLOPT_USERAGENT, "cworker/" CWORKER_VERSION);
    curl_easy_setopt(h, CURLOPT_ACCEPT_ENCODING, "deflate, gzip");
    curl_easy_setopt(h, CURLOPT_HTTP_CONTENT_DECODING, 0L);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, left > 0.001 ? (long)(left * 1000) : 1L);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, c);
    curl_easy_setopt(h, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(h, CURLOPT_OPENSOCKETDATA, c);
    if (!c->request->allow_private)
        curl_easy_setopt(h, CURLOPT_PROXY, "");
    set_method(c);
}

static int failed(struct call *c, CURLcode code)
{
    const char *host = c->host;
    if (c->stopped)
        return helper_stopped(c->t);
    if (c->refused)
        return helper_failed(c->t, false, "PermissionError",
                             "%s is a private, loopback or link-local address", host);
    if (c->unwanted)
        return cw_stopping(c->t) != CW_GO ? helper_stopped(c->t)
               : c->t->problem.type
                   ? -1
                   : helper_failed(c->t, false, "ValueError", "the reply of %s was refused", host);
    if (c->too_large)
        return helper_failed(c->t, false, "ValueError", "the reply of %s is larger than %zu bytes",
                             host, c->max_size);
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        return helper_failed(c->t, true, "TimeoutError", "%s did not answer in time", host);
    case CURLE_UNSUPPORTED_PROTOCOL: /* a reply that has no status line */
        return helper_failed(c->t, true, "ConnectionError", "%s does not answer in HTTP", host);
    case CURLE_URL_MALFORMAT:
        return helper_failed(c->t, false, "ValueError", "not a URL of http or https");
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
        return helper_failed(c->t, false, "ConnectionError", "%s: %s", host,
                             curl_easy_strerror(code));
    default:
        return helper_failed(c->t, true, "ConnectionError", "%s: %s", host,
                             curl_easy_strerror(code));
    }
}

/* Of an error the status tells enough, whatever its body. */
static int end_body(struct call *c, CURLcode code)
{
    const char *wrong = http_decode_end(&c->decoder, code == CURLE_OK);
    int result = 0;
    if (wrong && is_success(c))
        result = helper_failed(c->t, true, "ConnectionError", "%s: the body cannot be decoded: %s",
                               c->host, wrong);
    else if (!wrong && code != CURLE_OK)
        result = failed(c, code);
    c->packed = c->decoder.ended;
    http_decode_close(&c->decoder);
    return result;
}

/* One request to c->url. */
static int perform(struct call *c)
{
    char *host, *origin = origin_of(c->url, &host);
    if (!origin) {
        free(host);
        return helper_failed(c->t, false, "ValueError", "not a URL of http or https");
    }
    free(c->host);
    c->host = host;
    if (!c->first_origin)
        c->first_origin = mem_dup(origin);
    struct curl_slist *headers = headers_for(c, origin);
    set_tls(c, strcmp(origin, c->first_origin) == 0);
    free(origin);
    buf_reset(&c->body);
    set_options(c, headers);
    CURLcode code = curl_easy_perform(c->handle);
    curl_easy_setopt(c->handle, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    return end_body(c, code);
}

/* Where the reply sends us, as browsers and requests do: 307 and 308 keep the method, 303 and a
 * redirected POST become GET. */
static bool redirected(struct call *c, long status)
{
    char *target = NULL;
    curl_easy_getinfo(c->handle, CURLINFO_REDIRECT_URL, &target);
    if (!target || c->request->no_redirects ||
        (status != 301 && status != 302 && status != 303 && status != 307 && status != 308))
        return false;
    bool get = (status == 303 && strcmp(c->method, "HEAD") != 0) ||
               (status < 303 && strcmp(c->method, "POST") == 0);
    if (get) {
        c->method = "GET";
        c->with_body = false;
    }
    char *url = mem_dup(target);
    free(c->url);
    c->url = url;
    return true;
}

static int follow(struct call *c, long *ret_status)
{
    for (int hops = 0;; hops++) {
        if (perform(c) < 0)
            return -1;
        *ret_status = status_of(c);
        if (!redirected(c, *ret_status))
            return 0;
        if (hops == MAX_REDIRECTS)
            return helper_failed(c->t, false, "ConnectionError", "%s: more than %d redirects",
                                 c->host, MAX_REDIRECTS);
    }
}

static void delete_json(void *item)
{
    cJSON_Delete(item);
}

static const cJSON *read_headers(struct call *c)
{
    cJSON *headers = cJSON_CreateObject();
    struct curl_header *h = NULL;
    while ((h = curl_easy_nextheader(c->handle, CURLH_HEADER, -1, h))) {
        char *name = mem_dup(h->name);
        for (char *at = name; *at; at++)
            *at = *at >= 'A' && *at <= 'Z' ? (char)(*at | 32) : *at;
        cJSON_DeleteItemFromObjectCaseSensitive(headers, name);
        cJSON_AddStringToObject(headers, name, h->value);
        free(name);
    }
    cw_defer(c->t, delete_json, headers);
    return headers;
}

const char *cw_header(const struct cw_reply *reply, const char *name)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(reply->headers, name));
}

/* Does only the end of the connection tell where the body ends? TLS could tell a cut from it, but
 * libcurl lets servers end without its goodbye. HTTP/2 has an end of its own. */
static bool is_open_ended(const struct call *c)
{
    struct curl_header *transfer;
    curl_off_t length = -1;
    long version = 0;
    curl_easy_getinfo(c->handle, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    curl_easy_getinfo(c->handle, CURLINFO_HTTP_VERSION, &version);
    bool chunked = curl_easy_header(c->handle, "Transfer-Encoding", 0, CURLH_HEADER, -1,
                                    &transfer) == CURLHE_OK &&
                   strcasecmp(transfer->value, "chunked") == 0;
    return length < 0 && version < CURL_HTTP_VERSION_2_0 && !c->packed && !chunked;
}

static void read_reply(struct call *c, long status, struct cw_reply *ret)
{
    char *type = NULL;
    curl_off_t wait = 0;
    curl_easy_getinfo(c->handle, CURLINFO_CONTENT_TYPE, &type);
    curl_easy_getinfo(c->handle, CURLINFO_RETRY_AFTER, &wait);
    ret->status = status;
    ret->size = c->body.size;
    ret->open_ended = is_open_ended(c);
    ret->content_type = type ? task_text(c->t, type, strlen(type)) : NULL;
    ret->retry_after = (double)wait;
    ret->headers = read_headers(c);
    char *body = buf_take(&c->body);
    cw_defer(c->t, free, body);
    ret->body = body;
}

static int check_status(struct call *c, const struct cw_reply *reply)
{
    long status = reply->status;
    if (status < 400 || c->request->allow_any_status)
        return 0;
    helper_failed(c->t, status >= 500 || status == 429 || status == 408, "RuntimeError",
                  "HTTP %ld from %s", status, c->host);
    c->t->problem.retry_after = reply->retry_after;
    return -1;
}

int cw_http(cw_task *t, const struct cw_http *request, struct cw_reply *ret_reply)
{
    *ret_reply = (struct cw_reply){.body = ""};
    t->problem = (struct problem){0};
    if (cw_stopping(t) != CW_GO)
        return helper_stopped(t);
    struct call c = {
        .t = t,
        .request = request,
        .url = mem_dup(request->url ? request->url : ""),
        .with_body = request->body,
        .method = request->method ? request->method
                  : request->body ? "POST"
                                  : "GET",
        .deadline = now_seconds() + (request->timeout > 0 ? request->timeout : default_timeout),
        .max_size = request->max_size ? request->max_size : default_max_size,
        .handle = handle_take(request->allow_private),
    };
    c.body = BUF_INIT(c.max_size);
    long status = 0;
    int code = c.handle ? follow(&c, &status)
                        : helper_failed(t, true, "OSError", "libcurl gives no handle");
    if (code == 0) {
        read_reply(&c, status, ret_reply);
        code = check_status(&c, ret_reply);
    }
    if (c.handle)
        handle_give(c.handle, request->allow_private);
    buf_done(&c.body);
    free(c.url);
    free(c.first_origin);
    free(c.host);
    return code;
}
