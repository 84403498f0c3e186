/* SPDX-License-Identifier: Apache-2.0 */
/* Frames between main and its children: whole, in pieces, and from a child gone mad. */

#include "worker/pool/frame.h"

#include "proto/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_frames(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(FRAME_MAX);
    struct task_frame f = {.job = 7,
                           .def = 3,
                           .soft_limit = 1.5,
                           .id = {"abc", 3},
                           .body = {"[]", 2},
                           .parent_id = {"", 0}},
                      got;
    struct outcome_frame o = {.job = 9,
                              .kind = RESULT_RETRY,
                              .countdown = 2,
                              .result = {"{}", 2},
                              .sends = {"[1]", 3}},
                         outcome;
    frame_put_task(&b, &f);
    size_t size = b.size;
    for (size_t i = 0; i < size; i++)
        assert_int_equal(frame_complete(b.data, i), 0);
    assert_int_equal(frame_complete(b.data, size), size);
    assert_int_equal(frame_get_task(b.data, size, &got), 0);
    assert_true(got.job == 7 && got.def == 3 && got.soft_limit == 1.5);
    assert_true(got.id.size == 3 && memcmp(got.id.at, "abc", 3) == 0);
    assert_null(got.group_id.at);
    assert_non_null(got.parent_id.at);
    assert_int_equal(frame_get_outcome(b.data, size, &outcome), ERROR_INVALID);
    buf_reset(&b);
    frame_put_outcome(&b, &o);
    assert_int_equal(frame_kind_of(b.data), FRAME_OUTCOME);
    assert_int_equal(frame_get_outcome(b.data, b.size, &outcome), 0);
    assert_true(outcome.kind == RESULT_RETRY && memcmp(outcome.sends.at, "[1]", 3) == 0);
    srand(1);
    for (int i = 0; i < 20000; i++) {
        char *copy = mem_ndup(b.data, b.size);
        for (int k = 0; k < 4; k++)
            copy[(size_t)rand() % b.size] = (char)rand();
        if (frame_complete(copy, b.size) > 0 && frame_get_outcome(copy, b.size, &outcome) == 0)
            assert_true(outcome.result.size + outcome.traceback.size + outcome.repr.size +
                            outcome.sends.size ==
                        5);
        free(copy);
    }
    memset(b.data + sizeof(struct frame_head) + offsetof(struct outcome_frame, sends.at), 0,
           sizeof outcome.sends.at);
    assert_int_equal(frame_get_outcome(b.data, b.size, &outcome), ERROR_INVALID);
    struct buf small = BUF_INIT(100);
    frame_put_task(&small, &f);
    assert_true(small.failed && small.size == 0);
    buf_done(&small);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
