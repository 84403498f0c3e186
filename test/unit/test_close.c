/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/channel_rig.h"

/* Closing while Redis does not answer: whoever waits hears of it once, and may still settle. */

static void settle_after(int code, void *arg)
{
    struct worker *w = arg;
    assert_int_equal(code, ERROR_UNAVAILABLE);
    channel_settle(w->c, &w->items[0].d, NULL, 0, settled, w);
}

static void settling_from_within_close(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    push("q", "one");
    channel_set_window(w->c, 1);
    WAIT_FOR(w->n == 1);
    kill(server, SIGSTOP);
    channel_outbox_write(w->c, &w->items[0].d, "id", "tag", slice_of("[]"), settle_after, w);
    channel_close(w->c);
    kill(server, SIGCONT);
    assert_int_equal(w->n_settled, 1);
    assert_int_equal(w->last_code, ERROR_UNAVAILABLE);
    free(w->items[0].text);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(settling_from_within_close, test_setup, test_teardown),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
