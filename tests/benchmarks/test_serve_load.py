"""The load test sends what it says, and finds a service that keeps its promises."""

import pytest

from benchmarks.serve_load import measure


@pytest.mark.compile
@pytest.mark.process
def test_a_short_load():
    result = measure(count=60, connections=4)
    assert result["wrong"] == [] and result["alive"] and sum(result["statuses"].values()) == 60
    assert {status.split()[0] for status in result["statuses"]} == {"good", "malformed"}
    assert set(result["burst_of_40"]) == {"200", "503"}  # 16 may run or wait
