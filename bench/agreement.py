"""Whether two implementations computed the same."""

import numpy as np


class DisagreementError(Exception):
    """Results that differ; the message says which and by how much."""


def relative_error(a, b):
    """|a - b| / |b| in the Euclidean norm; infinite if anything is not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    error = np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(np.float64).tiny)
    return float(error) if np.isfinite(error) else np.inf


def agreement(results, expected, typical, worst=None):
    """The largest `relative_error` among arrays of the same names.

    Raises DisagreementError if names or shapes differ, if the median of the errors is above `typical`, or if one of
    them is above `worst` (`typical` if that is not given).
    """
    if results.keys() != expected.keys():
        names = sorted(results.keys() ^ expected.keys())
        raise DisagreementError(f"there is no pair of {', '.join(names[:3])}")
    errors = {}
    for name, b in expected.items():
        if results[name].shape != b.shape:
            raise DisagreementError(f"{name} has shape {results[name].shape} instead of {b.shape}")
        errors[name] = relative_error(results[name], b)
    limit, name = typical if worst is None else worst, max(errors, key=errors.get)
    if not errors[name] <= limit:
        raise DisagreementError(f"{name} is off by {errors[name]:.1e}, allowed is {limit:.0e}")
    median = float(np.median(list(errors.values())))
    if not median <= typical:
        raise DisagreementError(f"{len(errors)} results are off by {median:.1e} (median), allowed is {typical:.0e}")
    return errors[name]
