/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_made_of(const char *text, const char *more, size_t max)
{
    size_t size = strlen(text);
    for (const char *at = text; *at; at++)
        if (!isascii(*at) || (!isalnum((unsigned char)*at) && !strchr(more, *at)))
            return false;
    return size && size <= max && isalnum((unsigned char)text[0]);
}

bool check_region(const char *text)
{
    if (!is_made_of(text, "-", 32))
        return false;
    size_t size = strlen(text), dashes = 0;
    for (const char *at = text; *at; at++) {
        if (isupper((unsigned char)*at) || (*at == '-' && (at[1] == '-' || !at[1])))
            return false;
        dashes += *at == '-';
    }
    return dashes >= 2 && isdigit((unsigned char)text[size - 1]);
}

bool check_framework(const char *text)
{
    return is_made_of(text, "_.", 100);
}

bool check_name(const char *text)
{
    return is_made_of(text, "._-", 200);
}

bool check_account(const char *text)
{
    return is_made_of(text, "._-/:@", 200);
}

bool check_image(const char *text)
{
    return is_made_of(text, "._-/:@", 512) && !strstr(text, "..") && !strstr(text, "//");
}

/* Where the host begins; NULL: not a URL that we would follow. */
static const char *host_of(const char *url)
{
    const char *host = strncasecmp(url, "http://", 7) == 0    ? url + 7
                       : strncasecmp(url, "https://", 8) == 0 ? url + 8
                                                              : NULL;
    return host && (isalnum((unsigned char)*host) || *host == '[') ? host : NULL;
}

/* "", or a colon and a port. */
static bool is_port(const char *text, size_t size)
{
    int port = 0;
    if (!size)
        return true;
    for (size_t i = 1; i < size && port <= 65535; i++) {
        if (!isdigit((unsigned char)text[i]))
            return false;
        port = 10 * port + text[i] - '0';
    }
    return *text == ':' && port >= 1 && port <= 65535;
}

bool check_url(const char *text)
{
    const char *host = host_of(text);
    if (!host || strlen(text) > 2048)
        return false;
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at <= ' ' || (unsigned char)*at >= 0x7F || strchr("\"<>\\^`{|}", *at))
            return false;
    size_t size = strcspn(host, "/?#"), name = *host == '[' ? strcspn(host, "]") + 1 : 0;
    name = name ? name : strcspn(host, ":/?#");
    return name <= size && !memchr(host, '@', size) && is_port(host + name, size - name);
}

char *url_host(cw_task *t, const char *url)
{
    const char *host = host_of(url);
    if (!host)
        return cw_printf(t, "%s", "");
    size_t size = *host == '[' ? strcspn(++host, "]") : strcspn(host, ":/?#");
    return cw_printf(t, "%.*s", (int)size, host);
}

char *url_escape(cw_task *t, const char *text)
{
    char *out = cw_alloc(t, 3 * strlen(text) + 1), *at = out;
    for (; *text; text++)
        if (isascii(*text) && (isalnum((unsigned char)*text) || strchr("-._~", *text)))
            *at++ = *text;
        else
            at += snprintf(at, 4, "%%%02X", (unsigned char)*text);
    return out;
}

int64_t setting_int(cw_task *t, const char *name, int64_t fallback, int64_t min, int64_t max)
{
    const char *text = cw_setting(t, name);
    char *end;
    if (!text || !*text)
        return fallback;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end || value < min || value > max)
        return cw_problem(t, false, "ValueError",
                          "setting CWORKER_%s must be a number from %lld to %lld", name,
                          (long long)min, (long long)max);
    return value;
}
