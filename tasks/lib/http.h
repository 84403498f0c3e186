/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_HTTP_H
#define TASKS_LIB_HTTP_H

#include "tasks/cworker.h"

/* cw_http for services that ask for patience. A 429 or 503 whose Retry-After is short (at most a
 * minute in all, and within the task's limits) is waited for here; a longer one fails, and cw_fail
 * then gives the task back with that time as its ETA instead of holding a child. */
int http_patient(cw_task *t, const struct cw_http *request, struct cw_reply *ret_reply);

/* Pages: next() looks at a page and makes the request of the next one. */
struct http_pages {
    /* 1: *request is the next page's (texts live as long as the delivery), 0: that was the last
     * one, < 0: cw_problem. */
    int (*next)(cw_task *t, const struct cw_reply *page, struct cw_http *request, void *arg);
    void *arg;
    int max_pages; /* 0: 10000; more is ValueError: services have been seen to page in circles */
};
int http_each_page(cw_task *t, struct cw_http request, const struct http_pages *pages);

#endif
