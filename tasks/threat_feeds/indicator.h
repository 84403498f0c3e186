/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_THREAT_FEEDS_INDICATOR_H
#define TASKS_THREAT_FEEDS_INDICATOR_H

#include <stddef.h>

/* One indicator in its canonical form, so that the same thing told by two feeds is one document. */

enum { INDICATOR_MAX = 2048 }; /* bytes of a value */

struct indicator {
    const char *type;              /* ip, cidr, domain, url or hash */
    const char *algorithm;         /* of a hash: md5, sha1, sha256, sha512; else NULL */
    char value[INDICATOR_MAX + 1]; /* canonical */
};

enum indicator_verdict {
    INDICATOR_GOOD,
    INDICATOR_BAD,    /* it claims to be of a known type, and is not; or it names our own walls */
    INDICATOR_OTHER,  /* of a type that is not kept (a mutex, a CVE, a rule …) */
};

/* `kind` is the feed's own word for the type (ipv4, ip-dst, FileHash-SHA256, ip:port …); NULL: it
 * is told by the looks of the text. */
enum indicator_verdict indicator_read(const char *text, size_t size, const char *kind,
                                      struct indicator *ret);

#endif
