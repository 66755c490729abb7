"""What tests of the benchmarks share."""

from octsod.models import Configuration

TINY = Configuration.standard(0.25)


def a_row(case="train/x1/b24", impl="octsod", threads=2, median=1.0, **more):
    return {"case": case, "impl": impl, "threads": threads, "median_ms": median, "iqr_ms": 0.1, **more}


def product(size=1000):
    """What a product of two arrays launches, as bench.gpu records it."""
    import octsod
    from bench.gpu import recorded

    with recorded.recording(227 << 10) as recorder:
        x = octsod.Tensor(recorded.device.full((size,), 1, "float32"))
        a, b = x * 2, x * 3  # computed, so that their numbers are not known
        recorder.forget()
        octsod.functional.multiply(a, b)
    return recorder.recording()
