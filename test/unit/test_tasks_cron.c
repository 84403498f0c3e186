/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/cron.h"

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <time.h>

#include "test/unit/api_harness.h"

/* Cron expressions and time zones: when the next turns are, as UTC texts. */

/* turns(cron, zone, after, n) → "2026-11-21 10:00 …", or the problem. */
static cw_outcome turns(cw_task *t)
{
    struct cron cron;
    struct tm tm = {0};
    char text[32];
    const char *all = "";
    const struct zone *zone = zone_open(t, cw_str(t, "zone"));
    if (!zone || cron_read(t, cw_str(t, "cron"), &cron) < 0)
        return cw_fail(t);
    assert_non_null(strptime(cw_str(t, "after"), "%Y-%m-%d %H:%M", &tm));
    int64_t at = (int64_t)timegm(&tm) * 1000;
    for (int64_t i = cw_int(t, "n"); i > 0; i--) {
        at = cron_next(&cron, zone, at);
        time_t seconds = at / 1000;
        if (at < 0)
            return cw_return_str(t, "never");
        strftime(text, sizeof text, "%Y-%m-%d %H:%M", gmtime_r(&seconds, &tm));
        all = cw_printf(t, "%s%s%s", all, *all ? ", " : "", text);
    }
    return cw_return_str(t, all);
}

static const struct cw_arg turns_args[] = {
    {"cron", CW_STR}, {"zone", CW_STR}, {"after", CW_STR}, {"n", CW_INT, "1"}, {0}};
static const struct cw_def defs[] = {{.name = "t.turns", .run = turns, .args = turns_args}, {0}};
static const struct cw_table table = {.api = CW_API, .queue = "q", .defs = defs};

struct turns_row {
    const char *cron, *zone, *after;
    int n;
    const char *expected;
};

static void expect_turns(const struct turns_row *row)
{
    char *args = mem_printf("[\"%s\", \"%s\", \"%s\", %d], {}", row->cron, row->zone, row->after,
                            row->n);
    struct run *r = run_task("t.turns", args);
    if (!strstr(r->result, row->expected) && !strstr(r->traceback, row->expected))
        fail_msg("%s: %s%s, not %s", args, r->result, r->traceback, row->expected);
    free(args);
    end(r);
}

static void test_fields(void **state)
{
    static const struct turns_row rows[] = {
        {"*/15 * * * *", "UTC", "2026-11-21 10:07", 2, "\"2026-11-21 10:15, 2026-11-21 10:30\""},
        {"0 2 * * *", "UTC", "2026-11-21 02:00", 1, "\"2026-11-22 02:00\""},
        {"30 8-17/4 * * mon-fri", "UTC", "2026-11-20 12:30", 3,
         "\"2026-11-20 16:30, 2026-11-23 08:30, 2026-11-23 12:30\""},
        {"0 0 * * fri-mon", "UTC", "2026-11-21 10:00", 4,
         "\"2026-11-22 00:00, 2026-11-23 00:00, 2026-11-27 00:00, 2026-11-28 00:00\""},
        {"0 22-1 1 JAN,July *", "UTC", "2026-11-21 10:00", 3,
         "\"2027-01-01 00:00, 2027-01-01 01:00, 2027-01-01 22:00\""},
        {"5/20 12 * * *", "UTC", "2026-11-21 10:00", 3,
         "\"2026-11-21 12:05, 2026-11-21 12:25, 2026-11-21 12:45\""},
        {"0 0 * * 7", "UTC", "2026-11-21 10:00", 1, "\"2026-11-22 00:00\""},
        {"0 0 * * 5-7", "UTC", "2026-11-21 10:00", 3,
         "\"2026-11-22 00:00, 2026-11-27 00:00, 2026-11-28 00:00\""},
        /* Both days must match, as in Celery's crontab. */
        {"0 0 13 * fri", "UTC", "2026-11-14 00:00", 1, "\"2027-08-13 00:00\""},
        {"0 0 29 2 *", "UTC", "2026-11-21 10:00", 2, "\"2028-02-29 00:00, 2032-02-29 00:00\""},
        {"@weekly", "UTC", "2026-11-21 10:00", 1, "\"2026-11-22 00:00\""},
        {"0 0 31 2 *", "UTC", "2026-11-21 10:00", 1, "never"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_turns(&rows[i]);
}

static void test_wrong(void **state)
{
    static const char *const wrong[][2] = {
        {"60 * * * *", "is no minute (0-59)"}, {"* 24 * * *", "no hour"},
        {"* * 0 * *", "no day of month"},  {"* * * 13 *", "no month"},
        {"* * * * 8", "no day of week"},   {"* * * * mon-", "no day of week"},
        {"*/0 * * * *", "no minute"},      {"1,, * * * *", "no minute"},
        {", * * * *", "no minute"},        {"-1 * * * *", "no minute"},
        {"1-2-3 * * * *", "no minute"},    {"x * * * *", "no minute"},
        {"* * * * monda", "no day of week"}, {"1/ * * * *", "no minute"},
        {"* * * jan *x", "no day of week"}, {"** * * * *", "no minute"},
        {"0 0 L * *", "no day of month"},  {"99999999999 * * * *", "no minute"},
        {"* * * *", "is not minute, hour"}, {"* * * * * *", "is not minute, hour"},
        {"", "is not minute, hour"},       {"@reboot", "no minute"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_turns(&(struct turns_row){wrong[i][0], "UTC", "2026-11-21 10:00", 1, wrong[i][1]});
    static const char *const nowhere[] = {"Nowhere/City", "../../etc/passwd", "/etc/passwd",
                                          "Europe"};
    for (size_t i = 0; i < sizeof nowhere / sizeof *nowhere; i++)
        expect_turns(&(struct turns_row){"* * * * *", nowhere[i], "2026-11-21 10:00", 1,
                                         "no time zone"});
}

/* The clock of Madrid jumps from 02:00 to 03:00 on 29 March 2026 and back on 25 October. */
static void test_zones(void **state)
{
    static const struct turns_row rows[] = {
        {"0 9 * * *", "Europe/Madrid", "2026-03-27 10:00", 3,
         "\"2026-03-28 08:00, 2026-03-29 07:00, 2026-03-30 07:00\""},
        {"30 2 * * *", "Europe/Madrid", "2026-03-28 00:00", 3,
         "\"2026-03-28 01:30, 2026-03-29 01:00, 2026-03-30 00:30\""},
        {"0,30 2 * * *", "Europe/Madrid", "2026-03-28 12:00", 2,
         "\"2026-03-29 01:00, 2026-03-30 00:00\""},
        {"30 2 * * *", "Europe/Madrid", "2026-10-24 12:00", 2,
         "\"2026-10-25 00:30, 2026-10-26 01:30\""},
        {"30 * * * *", "Europe/Madrid", "2026-10-24 23:00", 4,
         "\"2026-10-24 23:30, 2026-10-25 00:30, 2026-10-25 01:30, 2026-10-25 02:30\""},
        {"30 * * * *", "Europe/Madrid", "2026-03-29 00:00", 3,
         "\"2026-03-29 00:30, 2026-03-29 01:30, 2026-03-29 02:30\""},
        /* Half an hour, on the other side of the world: 02:00 becomes 02:30. */
        {"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", 1, "\"2026-10-03 15:30\""},
        {"0 9 * * *", "Asia/Kolkata", "2026-11-21 00:00", 1, "\"2026-11-21 03:30\""},
        /* After the last change that the file lists, its rule counts. */
        {"0 9 * * *", "Europe/Madrid", "2050-07-01 10:00", 1, "\"2050-07-02 07:00\""},
        {"0 9 * * *", "America/New_York", "2060-01-01 15:00", 1, "\"2060-01-02 14:00\""},
        {"0 9 * * *", "Australia/Sydney", "2060-01-01 15:00", 1, "\"2060-01-01 22:00\""},
        {"0 9 * * *", "Europe/Dublin", "2060-07-01 15:00", 1, "\"2060-07-02 08:00\""},
        {"0 9 * * *", "America/Sao_Paulo", "2060-07-01 15:00", 1, "\"2060-07-02 12:00\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_turns(&rows[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_zones),
    };
    return cmocka_run_group_tests(tests, add_table, NULL);
}
