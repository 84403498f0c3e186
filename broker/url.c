/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/url.h"

#include "proto/base/buf.h"
#include "proto/base/mem.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Redis URLs. The text is cut once into scheme, user info, host, path and query; each part is then
 * percent-decoded by itself, so that an encoded separator never acts as one. No error text quotes
 * more than the scheme or a parameter's name, since the rest may hold a password. */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static char *percent_decode(const char *text, size_t size)
{
    char *out = mem_ndup(text, size);
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        bool coded = text[i] == '%' && i + 2 < size && hex_value(text[i + 1]) >= 0 &&
                     hex_value(text[i + 2]) >= 0;
        if (coded) {
            out[used++] = (char)(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
            i += 2;
        } else {
            out[used++] = text[i];
        }
    }
    out[used] = '\0';
    return out;
}

static int number_parse(const char *text, int max, int *ret_number)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return ERROR_INVALID;
    long value = strtol(text, &end, 10);
    if (*end || value > max)
        return ERROR_INVALID;
    *ret_number = (int)value;
    return 0;
}

static void string_set(char **at, char *value)
{
    free(*at);
    *at = value;
}

static int verify_parse(const char *value, enum redis_verify *ret_verify)
{
    static const struct {
        const char *name;
        enum redis_verify verify;
    } names[] = {
        {"required", REDIS_VERIFY_REQUIRED}, {"CERT_REQUIRED", REDIS_VERIFY_REQUIRED},
        {"optional", REDIS_VERIFY_OPTIONAL}, {"CERT_OPTIONAL", REDIS_VERIFY_OPTIONAL},
        {"none", REDIS_VERIFY_NONE},         {"CERT_NONE", REDIS_VERIFY_NONE},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(value, names[i].name) == 0) {
            *ret_verify = names[i].verify;
            return 0;
        }
    return ERROR_INVALID;
}

static int parameter_apply(struct redis_url *url, const char *name, const char *value,
                           struct error *err)
{
    int code = 0;
    if (strcmp(name, "ssl_ca_certs") == 0) {
        string_set(&url->ca_file, mem_dup(value));
    } else if (strcmp(name, "ssl_certfile") == 0) {
        string_set(&url->cert_file, mem_dup(value));
    } else if (strcmp(name, "ssl_keyfile") == 0) {
        string_set(&url->key_file, mem_dup(value));
    } else if (strcmp(name, "ssl_cert_reqs") == 0) {
        code = verify_parse(value, &url->verify);
    } else if (strcmp(name, "ssl_check_hostname") == 0) {
        url->check_hostname = strcasecmp(value, "false") != 0 && strcmp(value, "0") != 0;
    } else if (strcmp(name, "virtual_host") == 0 || strcmp(name, "db") == 0) {
        code = number_parse(value + (*value == '/'), 1 << 20, &url->db);
    } else {
        return error_set(err, ERROR_INVALID,
                         "unknown parameter in the Redis URL: %.60s (there are db, ssl_ca_certs, "
                         "ssl_certfile, ssl_keyfile, ssl_cert_reqs and ssl_check_hostname)",
                         name);
    }
    if (code == 0)
        return 0;
    return error_set(err, code, "bad value for %.60s in the Redis URL%s", name,
                     strcmp(name, "ssl_cert_reqs") == 0 ? ": required, optional or none" : "");
}

static int query_parse(struct redis_url *url, const char *query, struct error *err)
{
    while (*query) {
        size_t size = strcspn(query, "&");
        size_t name_size = strcspn(query, "=&");
        if (size) {
            char *name = percent_decode(query, name_size);
            bool has_value = name_size < size;
            char *value = percent_decode(query + name_size + has_value,
                                         size - name_size - has_value);
            int code = parameter_apply(url, name, value, err);
            free(name);
            free(value);
            if (code)
                return code;
        }
        query += size + (query[size] == '&');
    }
    return 0;
}

static void user_info_parse(struct redis_url *url, const char *text, size_t size)
{
    const char *colon = memchr(text, ':', size);
    size_t user_size = colon ? (size_t)(colon - text) : size;
    if (user_size)
        url->user = percent_decode(text, user_size);
    if (colon)
        url->password = percent_decode(colon + 1, size - user_size - 1);
}

static int host_parse(struct redis_url *url, const char *text, size_t size, struct error *err)
{
    const char *end = text + size, *port = NULL;
    if (size && *text == '[') {
        const char *close = memchr(text, ']', size);
        if (!close || (close + 1 < end && close[1] != ':'))
            return error_set(err, ERROR_INVALID, "bad IPv6 address in the Redis URL");
        url->host = mem_ndup(text + 1, (size_t)(close - text - 1));
        port = close + 1 < end ? close + 2 : NULL;
    } else {
        const char *colon = memchr(text, ':', size);
        size_t host_size = colon ? (size_t)(colon - text) : size;
        url->host = host_size ? percent_decode(text, host_size) : mem_dup("127.0.0.1");
        port = colon ? colon + 1 : NULL;
    }
    if (!port || port == end)
        return 0;
    char *digits = mem_ndup(port, (size_t)(end - port));
    int code = number_parse(digits, 65535, &url->port);
    free(digits);
    return code ? error_set(err, ERROR_INVALID, "the port in the Redis URL is no port number") : 0;
}

static int scheme_parse(const char *text, struct redis_url *url, bool *ret_socket,
                        const char **ret_rest, struct error *err)
{
    const char *rest = strstr(text, "://");
    if (!rest)
        return error_set(err, ERROR_INVALID, "a Redis URL starts with redis://, rediss://, "
                                             "redis+socket:// or sentinel://");
    size_t size = (size_t)(rest - text);
    char scheme[16] = "";
    if (size < sizeof scheme)
        memcpy(scheme, text, size);
    *ret_rest = rest + 3;
    *ret_socket = !strcasecmp(scheme, "redis+socket") || !strcasecmp(scheme, "unix");
    url->tls = strcasecmp(scheme, "rediss") == 0;
    if (*ret_socket || url->tls || strcasecmp(scheme, "redis") == 0)
        return 0;
    return error_set(err, ERROR_UNSUPPORTED,
                     "%.15s:// is not a scheme for Redis: there are redis://, rediss://, "
                     "redis+socket:// and sentinel://",
                     scheme);
}

static int path_parse(struct redis_url *url, const char *path, size_t size, bool is_socket,
                      struct error *err)
{
    if (is_socket) {
        url->socket_path = percent_decode(path, size);
        if (*url->socket_path)
            return 0;
        return error_set(err, ERROR_INVALID, "the Redis URL names no socket");
    }
    while (size && *path == '/') {
        path++;
        size--;
    }
    if (!size)
        return 0;
    char *db = percent_decode(path, size);
    int code = number_parse(db, 1 << 20, &url->db);
    free(db);
    return code ? error_set(err, code, "the database in the Redis URL is no number") : 0;
}

static int url_fill(const char *text, struct redis_url *url, struct error *err)
{
    bool is_socket = false;
    const char *rest = NULL;
    int code = scheme_parse(text, url, &is_socket, &rest, err);
    if (code)
        return code;
    if (strchr(rest, ';'))
        return error_set(err, ERROR_UNSUPPORTED, "lists of Redis URLs are not supported");
    const char *path = rest + strcspn(rest, "/?#");
    size_t path_size = strcspn(path, "?#");
    size_t authority = (size_t)(path - rest);
    const char *at = memrchr(rest, '@', authority);
    if (at) {
        user_info_parse(url, rest, (size_t)(at - rest));
        authority -= (size_t)(at + 1 - rest);
        rest = at + 1;
    }
    if (!is_socket)
        code = host_parse(url, rest, authority, err);
    if (!code)
        code = path_parse(url, path, path_size, is_socket, err);
    if (code || path[path_size] != '?')
        return code;
    char *query = mem_ndup(path + path_size + 1, strcspn(path + path_size + 1, "#"));
    code = query_parse(url, query, err);
    free(query);
    return code;
}

/* --- sentinels --- */

/* A semicolon ends one URL of a list only where the next one follows; else it belongs to a
 * password. */
static const char *next_url(const char *text)
{
    for (const char *at = strchr(text, ';'); at; at = strchr(at + 1, ';')) {
        size_t scheme = 0;
        while (isalnum((unsigned char)at[1 + scheme]) || at[1 + scheme] == '+')
            scheme++;
        if (scheme && strncmp(at + 1 + scheme, "://", 3) == 0)
            return at;
    }
    return NULL;
}

/* The first URL with a user, a database or parameters says these of the master. */
static void master_fill(struct redis_url *url, struct redis_url *part)
{
    char **to[] = {&url->user, &url->password, &url->ca_file, &url->cert_file, &url->key_file};
    char **from[] = {&part->user, &part->password, &part->ca_file, &part->cert_file,
                     &part->key_file};
    for (size_t i = 0; i < sizeof to / sizeof *to; i++)
        if (!*to[i]) {
            *to[i] = *from[i];
            *from[i] = NULL;
        }
    url->db = url->db ? url->db : part->db;
    url->tls = url->tls || part->tls;
    url->verify = part->verify != REDIS_VERIFY_REQUIRED ? part->verify : url->verify;
    url->check_hostname = url->check_hostname && part->check_hostname;
}

static int sentinel_add(struct redis_url *url, const char *text, struct error *err)
{
    struct redis_url part = {.port = 26379, .check_hostname = true};
    char *redis = mem_printf("redis://%s", text);
    int code = url_fill(redis, &part, err);
    free(redis);
    if (code == 0) {
        const char *query = strchr(text, '?');
        part.tls = query && strstr(query, "ssl_");
        master_fill(url, &part);
        url->sentinels = mem_realloc(url->sentinels,
                                     ((size_t)url->n_sentinels + 1) * sizeof *url->sentinels);
        url->sentinels[url->n_sentinels++] =
            (struct redis_url){.host = part.host, .port = part.port, .check_hostname = true};
        part.host = NULL;
    }
    redis_url_done(&part);
    return code;
}

static int sentinels_fill(const char *text, struct redis_url *url, struct error *err)
{
    static const char scheme[] = "sentinel://";
    int code = 0;
    while (code == 0 && text) {
        const char *next = next_url(text);
        char *part = next ? mem_ndup(text, (size_t)(next - text)) : mem_dup(text);
        if (strncasecmp(part, scheme, strlen(scheme)) != 0)
            code = error_set(err, ERROR_UNSUPPORTED,
                             "a list of sentinels holds sentinel:// URLs only");
        else
            code = sentinel_add(url, part + strlen(scheme), err);
        free(part);
        text = next ? next + 1 : NULL;
    }
    return code;
}

static int kwarg_apply(struct redis_url *sentinel, const cJSON *value, struct error *err)
{
    const char *name = value->string, *text = cJSON_GetStringValue(value);
    if (strcmp(name, "ssl") == 0)
        sentinel->tls = cJSON_IsTrue(value);
    else if (text && strcmp(name, "username") == 0)
        string_set(&sentinel->user, mem_dup(text));
    else if (text && strcmp(name, "password") == 0)
        string_set(&sentinel->password, mem_dup(text));
    else if (strncmp(name, "ssl_", 4) == 0 && (text || cJSON_IsBool(value)))
        return parameter_apply(sentinel, name, text ? text : cJSON_IsTrue(value) ? "true" : "false",
                               err);
    return 0; /* the rest tunes Python's connections */
}

int redis_url_set_master(struct redis_url *url, const char *name, const cJSON *kwargs,
                         struct error *err)
{
    if (!url->n_sentinels)
        return 0;
    if (!name || !*name)
        return error_set(err, ERROR_INVALID,
                         "a sentinel:// URL needs master_name in the transport options");
    string_set(&url->master, mem_dup(name));
    const cJSON *value;
    for (int i = 0; i < url->n_sentinels; i++)
        cJSON_ArrayForEach(value, kwargs)
        {
            int code = value->string ? kwarg_apply(&url->sentinels[i], value, err) : 0;
            if (code)
                return error_wrap(err, "sentinel_kwargs");
        }
    return 0;
}

/* --- whole URLs --- */

int redis_url_parse(const char *text, struct redis_url *ret_url, struct error *err)
{
    *ret_url = (struct redis_url){.port = 6379, .check_hostname = true};
    bool sentinel = strncasecmp(text, "sentinel://", 11) == 0;
    int code = sentinel ? sentinels_fill(text, ret_url, err) : url_fill(text, ret_url, err);
    if (code)
        redis_url_done(ret_url);
    return code;
}

struct redis_url redis_url_copy(const struct redis_url *url)
{
    struct redis_url copy = *url;
    char **strings[] = {&copy.host,    &copy.socket_path, &copy.user,     &copy.password,
                        &copy.ca_file, &copy.cert_file,   &copy.key_file, &copy.master};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        *strings[i] = mem_dup(*strings[i]);
    copy.sentinels = mem_zalloc(((size_t)url->n_sentinels + 1) * sizeof *copy.sentinels);
    for (int i = 0; i < url->n_sentinels; i++)
        copy.sentinels[i] = redis_url_copy(&url->sentinels[i]);
    return copy;
}

void redis_url_done(struct redis_url *url)
{
    char *strings[] = {url->host,    url->socket_path, url->user,     url->password,
                       url->ca_file, url->cert_file,   url->key_file, url->master};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        free(strings[i]);
    for (int i = 0; i < url->n_sentinels; i++)
        redis_url_done(&url->sentinels[i]);
    free(url->sentinels);
    *url = (struct redis_url){0};
}

/* Parameters such as tlsCertificateKeyFilePassword carry secrets too. */
static void query_mask(const char *text, size_t size, struct buf *out)
{
    while (size) {
        const char *separator = memchr(text, '&', size);
        size_t pair = separator ? (size_t)(separator - text) : size;
        const char *equals = memchr(text, '=', pair);
        size_t name = equals ? (size_t)(equals - text) : pair;
        if (equals && name >= 8 && strncasecmp(text + name - 8, "password", 8) == 0) {
            buf_add(out, text, name);
            buf_str(out, "=**");
        } else {
            buf_add(out, text, pair);
        }
        if (separator)
            buf_char(out, '&');
        text += pair + (separator != NULL);
        size -= pair + (separator != NULL);
    }
}

/* The last @ of the whole text counts, although a standard reader stops at the first slash: a
 * password that was not encoded must not show either, even where that costs the host's name. */
static void segment_mask(const char *text, size_t size, struct buf *out)
{
    const char *scheme = memmem(text, size, "://", 3);
    if (scheme) {
        size_t used = (size_t)(scheme + 3 - text);
        buf_add(out, text, used);
        text += used;
        size -= used;
        const char *at = memrchr(text, '@', size);
        const char *colon = at ? memchr(text, ':', (size_t)(at - text)) : NULL;
        if (colon) {
            buf_add(out, text, (size_t)(colon - text) + 1);
            buf_str(out, "**");
            size -= (size_t)(at - text);
            text = at;
        }
    }
    const char *query = memchr(text, '?', size);
    size_t plain = query ? (size_t)(query + 1 - text) : size;
    buf_add(out, text, plain);
    query_mask(text + plain, size - plain, out);
}

char *url_mask(const char *text)
{
    struct buf out = BUF_INIT(1 << 20);
    for (;;) {
        const char *next = next_url(text);
        segment_mask(text, next ? (size_t)(next - text) : strlen(text), &out);
        if (!next)
            return buf_take(&out);
        buf_char(&out, ';');
        text = next + 1;
    }
}
