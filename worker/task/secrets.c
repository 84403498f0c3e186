/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include <string.h>

/* What cw_secret gave to a delivery is blotted out of its errors and log lines, because tools and
 * libraries repeat what they were given. It costs nothing where no secret was asked for. */

enum { SHORTEST = 6, STARS = 8 };

struct secret {
    struct secret *next;
    const char *text;
};

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), n = strlen(end);
    return size >= n && strcmp(text + size - n, end) == 0;
}

/* Folders, regions, profiles and ids are read from the same places, and say where it went wrong. */
static bool is_place(const char *name)
{
    static const char *const ends[] = {"_DIR",    "_FILE",    "_BUNDLE",    "_CREDENTIALS",
                                       "CONFIG",  "_PROFILE", "_PROJECT",   "_CLIENT_ID",
                                       "_REGION", "_ARN",     "_TENANT_ID", "_SUBSCRIPTION_ID",
                                       "_ENDPOINT_URL"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i]))
            return true;
    return false;
}

void secret_keep(struct cw_task *t, const char *name, const char *text)
{
    if (strlen(text) < SHORTEST || is_place(name))
        return;
    for (const struct secret *s = t->secrets; s; s = s->next)
        if (strcmp(s->text, text) == 0)
            return;
    struct secret *s = cw_alloc(t, sizeof *s);
    *s = (struct secret){t->secrets, text};
    t->secrets = s;
}

/* Where the text goes on. */
static char *blot(char *at, size_t size)
{
    size_t n = size < STARS ? size : STARS;
    memset(at, '*', n);
    memmove(at + n, at + size, strlen(at + size) + 1);
    return at + n;
}

/* A text that was cut may end with the beginning of one. */
static void blot_end(char *text, const char *secret)
{
    size_t length = strlen(text), size = strlen(secret);
    for (size_t n = size < length ? size : length; n >= SHORTEST; n--)
        if (memcmp(text + length - n, secret, n) == 0) {
            blot(text + length - n, n);
            return;
        }
}

void secrets_blot(const struct cw_task *t, char *text)
{
    for (const struct secret *s = t->secrets; s; s = s->next) {
        size_t size = strlen(s->text); /* 0: wiped, the delivery ends */
        for (char *at = text; size && (at = strstr(at, s->text));)
            at = blot(at, size); /* one may be made of stars itself */
        blot_end(text, s->text);
    }
}
