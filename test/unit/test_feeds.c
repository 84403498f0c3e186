/* SPDX-License-Identifier: Apache-2.0 */

/* The parsers of threat feeds: indicators, rows, STIX patterns, dates, digests. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tasks/lib/date.h"
#include "tasks/lib/digest.h"
#include "tasks/threat_feeds/indicator.h"
#include "tasks/threat_feeds/rows.h"
#include "tasks/threat_feeds/stix.h"

#include <stdio.h>
#include <string.h>

/* --- indicators --- */

static const char *read_one(const char *text, const char *kind)
{
    static char told[INDICATOR_MAX + 100];
    struct indicator i;
    switch (indicator_read(text, strlen(text), kind, &i)) {
    case INDICATOR_GOOD:
        snprintf(told, sizeof told, "%s %s", i.algorithm ? i.algorithm : i.type, i.value);
        return told;
    case INDICATOR_BAD:
        return "bad";
    default:
        return "other";
    }
}

static void test_indicators(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"203.0.113.7", NULL, "ip 203.0.113.7"},
        {"  203.0.113.7\t", NULL, "ip 203.0.113.7"},
        {"203.0.113.07", NULL, "bad"},
        {"203.0.113.7:8443", NULL, "ip 203.0.113.7"},
        {"203.0.113.10:8443", "ip:port", "ip 203.0.113.10"},
        {"203.0.113.10|443", "ip-dst|port", "ip 203.0.113.10"},
        {"2001:DB8:0:0::BAD:1", NULL, "ip 2001:db8::bad:1"},
        {"[2001:db8::1]:443", "ip:port", "ip 2001:db8::1"},
        {"::ffff:203.0.113.7", "ipv6", "ip 203.0.113.7"},
        {"127.0.0.1", NULL, "bad"},
        {"10.1.2.3", "ipv4", "bad"},
        {"192.168.0.0/24", NULL, "bad"},
        {"169.254.169.254", NULL, "bad"},
        {"::1", NULL, "bad"},
        {"0.0.0.0/0", NULL, "bad"},
        {"0.0.0.0", NULL, "bad"},
        {"172.0.0.0/8", NULL, "bad"},
        {"198.16.0.0/12", NULL, "bad"},
        {"198.51.100.77/24", NULL, "cidr 198.51.100.0/24"},
        {"198.51.100.77/32", NULL, "ip 198.51.100.77"},
        {"198.51.100.77/33", NULL, "bad"},
        {"198.51.100.77/-1", NULL, "bad"},
        {"198.51.100.77/ 24", NULL, "bad"},
        {"2001:db8:1::/48", "cidr", "cidr 2001:db8:1::/48"},
        {"::ffff:198.51.100.0/120", "cidr", "cidr 198.51.100.0/24"},
        {"Evil.EXAMPLE.", NULL, "domain evil.example"},
        {"*.evil.example", "domain", "domain evil.example"},
        {"evil[.]example", NULL, "domain evil.example"},
        {"xn--bcher-kva.example", NULL, "domain xn--bcher-kva.example"},
        {"b\xC3\xBC" "cher.example", NULL, "domain xn--bcher-kva.example"},
        {"B\xC3\x9C" "CHER.Example.", "hostname", "domain xn--bcher-kva.example"},
        {"bu\xCC\x88" "cher.example", NULL, "domain xn--bcher-kva.example"},
        {"*.b\xC3\xBC" "cher[.]example", NULL, "domain xn--bcher-kva.example"},
        {"xn--BCHER-kva.example", NULL, "domain xn--bcher-kva.example"},
        {"stra\xC3\x9F" "e.example", NULL, "domain xn--strae-oqa.example"},
        {"\xE4\xBE\x8B\xE3\x80\x82" "example", NULL, "domain xn--fsq.example"},
        {"b\xFC" "cher.example", NULL, "bad"},
        {"\xE2\x98\x83\xCC\x88\xED\xA0\x80.example", NULL, "bad"},
        {"hxxp://B\xC3\xBC" "cher[.]example:80/\xC3\xA4?q=\xC3\xB6#x", NULL,
         "url http://xn--bcher-kva.example/%C3%A4?q=%C3%B6"},
        {"d41d8cd98f00b204e9800998ecf8427\xC3\xA9", "md5", "bad"},
        {"203.0.113.\xD9\xA1", "ip", "bad"},
        {"localhost", NULL, "bad"},
        {"printer.local", NULL, "bad"},
        {"nodots", NULL, "bad"},
        {"-a.example", NULL, "bad"},
        {"a..example", NULL, "bad"},
        {"1.2.3", "domain", "bad"},
        {"evil.example|203.0.113.9", "domain|ip", "domain evil.example"},
        {"HTTP://Evil.Example:80/A.exe?x=1#top", NULL, "url http://evil.example/A.exe?x=1"},
        {"hxxps://evil[.]example", NULL, "url https://evil.example/"},
        {"https://user:pw@evil.example:8443?q", NULL, "url https://evil.example:8443/?q"},
        {"http://[2001:db8::1]:80/x", NULL, "url http://[2001:db8::1]/x"},
        {"http://127.0.0.1/x", NULL, "bad"},
        {"http://169.254.169.254/latest", NULL, "bad"},
        {"http://evil.example:99999/", NULL, "bad"},
        {"javascript://evil.example/", NULL, "bad"},
        {"file:///etc/passwd", NULL, "bad"},
        {"http:///x", NULL, "bad"},
        {"http://evil.example/a b", "url", "bad"},
        {"D41D8CD98F00B204E9800998ECF8427E", NULL, "md5 d41d8cd98f00b204e9800998ecf8427e"},
        {"da39a3ee5e6b4b0d3255bfef95601890afd80709", "FileHash-SHA1",
         "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709"},
        {"a b.exe|d41d8cd98f00b204e9800998ecf8427e", "filename|md5",
         "md5 d41d8cd98f00b204e9800998ecf8427e"},
        {"d41d8cd98f00b204e9800998ecf8427", "md5", "bad"},
        {"CVE-2021-44228", "CVE", "other"},
        {"anything", "Mutex", "other"},
        {"", NULL, "bad"},
        {"   ", NULL, "bad"},
        {"--help", NULL, "bad"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(read_one(rows[i][0], rows[i][1]), rows[i][2]);
    char longest[INDICATOR_MAX + 200];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_string_equal(read_one(longest, NULL), "bad");
    memcpy(longest, "http://e.example/", 17);
    longest[INDICATOR_MAX] = '\0';
    assert_memory_equal(read_one(longest, NULL), "url http://e.example/aaa", 24);
}

/* --- rows --- */

static char seen[4096], comment[ROWS_SIZE];

static int on_row(char *const *fields, int n, void *arg)
{
    (void)arg;
    for (int i = 0; i < n; i++) {
        strncat(seen, fields[i], 100);
        strncat(seen, i + 1 < n ? "|" : "\n", 2);
    }
    return strcmp(fields[0], "stop") == 0 ? -1 : 0;
}

static void on_comment(const char *line, void *arg)
{
    (void)arg;
    snprintf(comment, sizeof comment, "%s", line);
}

/* The same rows come out wherever the pieces of the text end. */
static void expect_rows(char delimiter, const char *text, const char *rows, size_t bad)
{
    struct rows_options options = {delimiter, on_row, on_comment, NULL};
    for (size_t piece = 1; piece < 8; piece++) {
        struct rows *r = rows_open(&options);
        seen[0] = '\0';
        for (size_t at = 0; at < strlen(text); at += piece) {
            size_t left = strlen(text) - at;
            assert_int_equal(rows_feed(r, text + at, left < piece ? left : piece), 0);
        }
        assert_int_equal(rows_end(r), 0);
        assert_string_equal(seen, rows);
        assert_int_equal(rows_bad(r), bad);
        rows_close(r);
    }
}

static void test_rows(void **state)
{
    (void)state;
    expect_rows(',', "a,b\nc,d", "a|b\nc|d\n", 0);
    expect_rows(',', "\xEF\xBB\xBF" "a,b\r\n\r\nc,,\r\n", "a|b\nc||\n", 0);
    expect_rows(',', "\"a\", \"b \"\"x\"\" y\",c\n", "a|b \"x\" y|c\n", 0);
    expect_rows(',', "\"two\nlines\",b\n", "two\nlines|b\n", 0);
    expect_rows(',', "\"a\"x,b\nc,d\n", "c|d\n", 1);
    expect_rows(',', "a,\"never closed\nc,d\n", "", 1);
    expect_rows('\t', "a\tb,c\n", "a|b,c\n", 0);
    expect_rows('\0', "a,\"b\n\n# no\n  c d\n", "a,\"b\n  c d\n", 0);
    assert_string_equal(comment, " no");
    expect_rows('\0', "", "", 0);
    char fields_text[] = " \"ioc\", \"type\" ,x\r", *fields[4];
    assert_int_equal(rows_split(fields_text, ',', fields, 4), 3);
    assert_string_equal(fields[0], "ioc");
    assert_string_equal(fields[1], "type");
    assert_string_equal(fields[2], "x");
}

static void test_rows_limits(void **state)
{
    (void)state;
    struct rows_options options = {',', on_row, NULL, NULL};
    struct rows *r = rows_open(&options);
    seen[0] = '\0';
    for (int i = 0; i < 3 * ROWS_SIZE / 4; i++)
        rows_feed(r, "aaaa", 4);
    rows_feed(r, "\nok\n", 4);
    for (int i = 0; i < ROWS_FIELDS + 5; i++)
        rows_feed(r, "x,", 2);
    rows_feed(r, "\nlast\n", 6);
    assert_string_equal(seen, "ok\nlast\n");
    assert_int_equal(rows_bad(r), 2);
    assert_int_equal(rows_feed(r, "stop\nmore\n", 10), -1);
    rows_close(r);
}

/* --- STIX --- */

static void on_value(const char *kind, const char *value, size_t size, void *arg)
{
    (void)arg;
    assert_int_equal(strlen(value), size);
    snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s=%s;", kind, value);
}

static void test_stix(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"[ipv4-addr:value = '203.0.113.0']", "ip=203.0.113.0;"},
        {"[ipv4-addr:value='203.0.113.0' OR domain-name:value = 'evil.example']",
         "ip=203.0.113.0;domain=evil.example;"},
        {"[url:value = 'http://e.example/\\'x\\\\'] OR [ipv6-addr:value = '2001:db8::1']",
         "url=http://e.example/'x\\;ip=2001:db8::1;"},
        {"[file:hashes.'SHA-256' = 'ab' OR file:hashes.MD5 = 'cd']", "hash=ab;hash=cd;"},
        {"[ipv4-addr:value ISSUBSET '198.51.100.0/24']", "ip=198.51.100.0/24;"},
        {"[domain-name:value IN ('a.example', 'b.example')]",
         "domain=a.example;domain=b.example;"},
        {"([ipv4-addr:value = '203.0.113.1'])", "ip=203.0.113.1;"},
        {"[ipv4-addr:value = '203.0.113.0' AND domain-name:value = 'e.example']", ""},
        {"[ipv4-addr:value != '203.0.113.0']", ""},
        {"[NOT ipv4-addr:value = '203.0.113.0']", ""},
        {"[ipv4-addr:value = '203.0.113.0'] FOLLOWEDBY [url:value = 'http://e.example']", ""},
        {"[ipv4-addr:value = '203.0.113.0'] WITHIN 5 MINUTES", ""},
        {"[domain-name:value LIKE '%.example']", ""},
        {"[process:name = 'x']", ""},
        {"[ipv4-addr:value = '203.0.113.0", ""},
        {"[ipv4-addr:value = ", ""},
        {"[", ""},
        {"", ""},
        {"rule x { condition: true }", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        seen[0] = '\0';
        stix_pattern_read(rows[i][0], on_value, NULL);
        assert_string_equal(seen, rows[i][1]);
    }
}

/* --- dates and digests --- */

static void test_dates(void **state)
{
    (void)state;
    assert_int_equal(date_read("2026-11-21T10:00:00Z"), 1795255200000);
    assert_int_equal(date_read("2026-11-21T10:00:00"), 1795255200000);
    assert_int_equal(date_read("2026-11-21 10:00:00 UTC"), 1795255200000);
    assert_int_equal(date_read("2026-11-21T11:00:00.250999+01:00"), 1795255200250);
    assert_int_equal(date_read("2026-11-21T05:30:00-0430"), 1795255200000);
    assert_int_equal(date_read("2026-11-21 11:00:00 +0100"), 1795255200000);
    assert_int_equal(date_read("2026-11-21"), 1795219200000);
    assert_int_equal(date_read("1795255200"), 1795255200000);
    static const char *const bad[] = {"",      "x",          "2026",        "2026-13-01",
                                      "12:00", "2026-11-21x10:00:00", NULL};
    for (size_t i = 0; bad[i]; i++)
        assert_true(date_read(bad[i]) == DATE_NONE);
    assert_true(date_read(NULL) == DATE_NONE);
}

static void test_digests(void **state)
{
    (void)state;
    char one[DIGEST_SIZE], two[DIGEST_SIZE], id[CW_ID_SIZE];
    const char *a[] = {"a", "bc", NULL}, *b[] = {"ab", "c", NULL}, *c[] = {"a\nbc", NULL};
    digest_hex(a, one);
    digest_hex(b, two);
    assert_string_not_equal(one, two);
    digest_hex(c, two);
    assert_string_not_equal(one, two);
    /* printf 'a\nbc\n' | sha256sum */
    assert_string_equal(one, "4b8d1dd1e2b97bee100f449a998ac84a292fb223d969296c4737b44459e545de");
    digest_id(a, id);
    assert_int_equal(strlen(id), 36);
    assert_int_equal(id[14], '8');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_indicators), cmocka_unit_test(test_rows),
        cmocka_unit_test(test_rows_limits), cmocka_unit_test(test_stix),
        cmocka_unit_test(test_dates),      cmocka_unit_test(test_digests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
