"""Settings of all tests: a test of a claim may neither be malformed nor be skipped."""

import pytest
from hypothesis import settings

from tools.claims import TESTED_KINDS

# The same examples in every run, so that a red run means a change; a loaded machine is no failure.
settings.register_profile("gates", derandomize=True, deadline=None)
settings.load_profile("gates")


def pytest_collection_modifyitems(items):
    for item in items:
        for marker in item.iter_markers("claim"):
            if len(marker.args) != 1 or marker.kwargs.get("kind") not in TESTED_KINDS:
                raise pytest.UsageError(
                    f"{item.nodeid}: write claim('label', kind=...) with kind one of {TESTED_KINDS}"
                )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    # A skipped test stands behind no claim, whatever the page says.
    report = yield
    if report.skipped and item.get_closest_marker("claim"):
        report.outcome, report.longrepr = "failed", "the test of a claim was skipped"
    return report
