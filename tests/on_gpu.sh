#!/usr/bin/env bash
# On a machine with a GPU and CuPy: the tests of devices, NVIDIA's checkers on two training steps, the benchmark.
# tests/on_gpu.sh [FOLDER [PART ...]]: writes doctor.txt, suite.txt, memcheck.txt, racecheck.txt, bench.txt and bench.json
# there. Parts are suite (3 minutes), check (2) and bench (5); all of them by default.
# Rehearse without a GPU what has changed, on the stand-in for CuPy; it needs g++, and takes ten minutes for all of it:
# OCTSOD_TEST_BACKEND=cuda OCTSOD_TEST_CUPY=fake OCTSOD_TEST_EXAMPLES=2 python3 -m pytest tests
set -u
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-gpu-results}")
parts=" ${*:2} "
mkdir -p "$out"
export CI=true OCTSOD_TEST_EXAMPLES="${OCTSOD_TEST_EXAMPLES:-10}"

wanted() { [[ $parts =~ ^\ *$ || $parts == *" $1 "* ]]; }

python3 -m octsod doctor --device cuda 2>&1 | tee "$out/doctor.txt"
if wanted suite; then  # interrupted, once (--foreground; else twice), pytest still tells what has failed
    OCTSOD_TEST_BACKEND=cuda timeout --foreground -s INT -k 10 170 python3 -m pytest -p no:cacheprovider --tb=short tests 2>&1 \
        | tee "$out/suite.txt" | tail -20
fi
if wanted check && command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck; do
        OCTSOD_TEST_BACKEND=cuda timeout -k 10 55 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            python3 -m pytest -p no:cacheprovider tests/test_device_steps.py > "$out/$tool.txt" 2>&1
        echo "$tool: exit code $?"
        tail -3 "$out/$tool.txt"
    done
fi
if wanted bench; then  # it writes its results at its end, so it must not be cut off at its own limit
    timeout -k 10 340 python3 -m bench gpu --json "$out/bench.json" 2>&1 | tee "$out/bench.txt"
fi
