"""Benchmarks: every kernel and the whole of CSNet, verified before they are timed, against peers in the same run."""
