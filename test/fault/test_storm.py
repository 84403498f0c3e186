# SPDX-License-Identifier: Apache-2.0
"""The short form of the fault kit; `make fault` is the long one."""
import shutil

import pytest
import storm


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mongo", [False, True], ids=["redis", "mongo"])
def test_nothing_is_lost_in_a_storm(mongo):
    account, folder = storm.blow(seed=20 + mongo, seconds=12, mongo=mongo, chords=True)
    print(account.report(), folder)
    assert account.ok, account.report()
    assert len(account.faults) > 5
    shutil.rmtree(folder)
