#!/usr/bin/env bash
# On a machine with a GPU and CuPy: the tests of devices, NVIDIA's checkers on two training steps, the benchmark.
# tests/on_gpu.sh [FOLDER]: writes suite.txt, memcheck.txt, racecheck.txt, bench.txt and bench.json there; 10 minutes.
set -u
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-gpu-results}")
mkdir -p "$out"
export CI=true OCTSOD_TEST_BACKEND=cuda OCTSOD_TEST_EXAMPLES="${OCTSOD_TEST_EXAMPLES:-10}"
python3 -m octsod doctor --device cuda 2>&1 | tee "$out/doctor.txt"
timeout 180 python3 -m pytest -p no:cacheprovider tests 2>&1 | tee "$out/suite.txt" | tail -20
for tool in memcheck racecheck; do
    command -v compute-sanitizer > /dev/null || break
    timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        python3 -m pytest -p no:cacheprovider tests/test_device_steps.py > "$out/$tool.txt" 2>&1
    echo "$tool: exit code $?"
    tail -3 "$out/$tool.txt"
done
unset OCTSOD_TEST_BACKEND
timeout 290 python3 -m bench gpu --json "$out/bench.json" 2>&1 | tee "$out/bench.txt"
