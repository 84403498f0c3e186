/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/event.h"

#include "proto/time.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* Events as text: byte for byte what Celery 5.6 published for the same values. */

static const struct event base = {"task-succeeded", "w1@golden", 1691, 7, 1795254890669662};

static void as_celery_writes_it(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(4096);
    event_begin(&base, &out);
    event_text(&out, "uuid", "fa524cf2-c033-4c64-af1d-97845eb671b3");
    event_text(&out, "result", "5");
    event_real(&out, "runtime", 0.005570779999743536);
    event_end(&base, &out);
    assert_string_equal(
        out.data,
        "{\"hostname\": \"w1@golden\", \"utcoffset\": 0, \"pid\": 1691, \"clock\": 7, \"uuid\": "
        "\"fa524cf2-c033-4c64-af1d-97845eb671b3\", \"result\": \"5\", \"runtime\": "
        "0.005570779999743536, \"timestamp\": 1795254890.669662, \"type\": \"task-succeeded\"}");
    buf_done(&out);
}

static void every_kind_of_field(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(4096);
    event_text(&out, "none", NULL);
    event_text(&out, "text", "a\"\xc3\xa9");
    event_int(&out, "int", -3);
    event_real(&out, "whole", 2);
    event_flag(&out, "flag", true);
    event_time(&out, "never", TIME_NONE);
    event_time(&out, "then", 1795254890669662);
    assert_string_equal(out.data,
                        ", \"none\": null, \"text\": \"a\\\"\\u00e9\", \"int\": -3, \"whole\": 2.0, "
                        "\"flag\": true, \"never\": null, \"then\": "
                        "\"2026-11-21T09:54:50.669662+00:00\"");
    buf_done(&out);
}

/* Hours west of UTC, rounded down. */
static void offsets(void **state)
{
    (void)state;
    static const struct {
        const char *zone;
        int hours;
    } zones[] = {{"UTC0", 0}, {"EST5", 5}, {"IST-5:30", -6}, {"NST3:30", 3}};
    for (size_t i = 0; i < sizeof zones / sizeof *zones; i++) {
        setenv("TZ", zones[i].zone, 1);
        tzset();
        int64_t another_quarter = (int64_t)(i + 1) * 3600 * 1000000;
        assert_int_equal(event_utcoffset(base.timestamp + another_quarter), zones[i].hours);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_celery_writes_it),
        cmocka_unit_test(every_kind_of_field),
        cmocka_unit_test(offsets),
    };
    setenv("TZ", "UTC0", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
