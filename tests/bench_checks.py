"""What tests of the benchmarks share."""

from octsod.models import Configuration

TINY = Configuration.standard(0.25)


def a_row(case="train/x1/b24", impl="octsod", threads=2, median=1.0, **more):
    return {"case": case, "impl": impl, "threads": threads, "median_ms": median, "iqr_ms": 0.1, **more}
