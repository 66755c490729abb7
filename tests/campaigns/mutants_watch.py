"""A plugin of pytest's that notes what runs and what fails, even if the process dies: for campaigns/mutants.py.

Examples are the same in every run, and no time is spent on making failing ones smaller.
"""

import json
import os
import signal
import threading
import time

from hypothesis import Phase, settings

NOTES = os.environ["OCTSOD_MUTANT_NOTES"]

settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None, report_multiple_bugs=False)
settings.load_profile("mutants")  # what conftest.py adds its own to


def _note(**facts):
    with open(NOTES, "a") as file:
        file.write(json.dumps(facts) + "\n")


def pytest_configure():
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(0, signal.SIGKILL)  # whoever started this is gone

    threading.Thread(target=watch, daemon=True).start()


def pytest_runtest_logstart(nodeid):
    _note(begun=nodeid)


def _message(report):
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr))[:600]


def pytest_runtest_logreport(report):
    if report.failed:
        _note(failed=report.nodeid, message=_message(report))


def pytest_collectreport(report):
    if report.failed:
        _note(broken=report.nodeid, message=str(report.longrepr)[-600:])


def pytest_sessionfinish(exitstatus):
    _note(ended=int(exitstatus))
