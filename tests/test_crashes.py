"""A crash of a server that a test started is found in its log, whatever its clients have seen."""

import pytest

from tests.crashes import crashes, refuse_crashes

LOG = """\
2026-11-26 19:58:40.525 UTC [18049] LOG:  checkpoint complete: wrote 0 buffers
2026-11-26 19:58:41.684 UTC [18045] LOG:  client backend (PID 21201) was terminated by signal {}
2026-11-26 19:58:41.684 UTC [18045] DETAIL:  Failed process was running: -- a comment
\tSELECT 1 FROM agents.state
\tFOR UPDATE
2026-11-26 19:58:41.684 UTC [18045] LOG:  terminating any other active server processes
"""


def test_a_crash_is_told_with_its_statement(tmp_path):
    log = tmp_path / "postgres.log"
    log.write_text(LOG.format("11: Segmentation fault"))
    with pytest.raises(AssertionError, match=r"(?s)signal 11.*FROM agents\.state\n\tFOR UPDATE\n$"):
        refuse_crashes(log)


@pytest.mark.parametrize("signal", ["9: Killed", "6: Aborted"])
def test_what_tests_do_to_a_server_is_no_crash(tmp_path, signal):
    log = tmp_path / "postgres.log"
    log.write_text(LOG.format(signal))
    assert crashes(log) == crashes(tmp_path / "none.log") == []
