/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/url.h"

#include <curl/curl.h>
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* libcurl parses, resolves and (with libidn2 behind it) encodes; nothing here connects. */

char *url_resolve(cw_task *t, const char *base, const char *reference)
{
    CURLU *url = curl_url();
    char *text = NULL, *found = NULL;
    if (curl_url_set(url, CURLUPART_URL, base, 0) == CURLUE_OK &&
        curl_url_set(url, CURLUPART_URL, reference, 0) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_URL, &text, 0) == CURLUE_OK)
        found = cw_printf(t, "%s", text);
    curl_free(text);
    curl_url_cleanup(url);
    return found;
}

static bool is_ascii(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text >= 0x80)
            return false;
    return true;
}

/* Letters, digits, `-`, `_`, dots and what lies beyond ASCII: nothing that a URL's parser reads. */
static bool is_name(const char *text)
{
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at < 0x80 && !strchr("-_.", *at) && !(*at >= '0' && *at <= '9') &&
            !((*at | 32) >= 'a' && (*at | 32) <= 'z'))
            return false;
    return *text;
}

static bool copy_name(const char *name, char ret[254])
{
    return name && is_ascii(name) && snprintf(ret, 254, "%s", name) < 254;
}

#if LIBCURL_VERSION_NUM >= 0x075800
/* libidn2 takes names in the encoding of the thread's locale, and a daemon's is none. */
static locale_t utf8;

static void make_locale(void)
{
    utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
}

static bool encode(const char *host, char ret[254])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_locale);
    if (!utf8)
        return false;
    locale_t before = uselocale(utf8);
    CURLU *url = curl_url();
    char *name = NULL;
    bool good = curl_url_set(url, CURLUPART_HOST, host, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_HOST, &name, CURLU_PUNYCODE) == CURLUE_OK &&
                copy_name(name, ret);
    curl_free(name);
    curl_url_cleanup(url);
    uselocale(before);
    return good;
}
#else
static bool encode(const char *host, char ret[254])
{
    (void)host, (void)ret;
    return false; /* this libcurl cannot */
}
#endif

bool host_to_ascii(const char *host, char ret[254])
{
    if (!is_name(host))
        return false;
    return is_ascii(host) ? copy_name(host, ret) : encode(host, ret);
}
