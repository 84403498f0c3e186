# SPDX-License-Identifier: Apache-2.0
"""The short form of the fault kit; `make fault` is the long one."""
import shutil

import pytest
import storm

FORMS = {"redis": {}, "mongo": {"mongo": True}, "python": {"python": True}}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_lost_in_a_storm(form):
    account, folder = storm.blow(seed=20, seconds=12, **FORMS[form])
    print(account.report(), folder)
    assert account.ok, account.report()
    assert len(account.faults) >= storm.LEAST_FAULTS
    shutil.rmtree(folder)
