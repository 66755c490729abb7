"""What launches ask of memory, counted by the simulator: each distinct one is run once."""


from octsod.testing import cusim

# Kernels by how they read: the others' traffic is small, or is theirs alone.
CLASSES = {
    "pointwise": ("pointwise.cu", "pointwise_back.cu"),
    "depthwise": ("depthwise.cu", "depthwise_any.cu"),
    "dense": ("convolution.cu", "octave.cu"),
}


def class_of(file):
    """The name in CLASSES of a .cu file's kernels, or None."""
    return next((name for name, files in CLASSES.items() if file in files), None)


class Counter:
    """Counts launches, and remembers what it has counted."""

    def __init__(self):
        self._modules, self._counts = {}, {}

    def count(self, launch):
        """A simulator's `Count` of a recorded launch."""
        known = self._counts.get(launch.key)
        if known is None:
            compiled = launch.code, launch.options
            if compiled not in self._modules:
                code, options = compiled
                self._modules[compiled] = cusim.RawModule(code=code, options=options, mode="count")
            module = self._modules[compiled]
            function = module.get_function(launch.kernel)
            function.max_dynamic_shared_size_bytes = max(launch.shared, 48 << 10)
            function(launch.grid, launch.block, launch.given(), shared_mem=launch.shared)
            known = self._counts[launch.key] = module.counts.pop()
        return known
