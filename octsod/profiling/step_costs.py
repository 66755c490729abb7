"""What each step of a plan for inference does, for which layer, and what that costs."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ..kernels.cpu.drafts import IMAGES, LOGITS, MEMORY, NO_MAP
from ..kernels.cpu.operations import AVERAGE, BARRIER, DEPTHWISE, FILL, MAX_POOL, PRODUCT, TRANSFER, UPSAMPLE_ADD
from ..kernels.cpu.plan import NetworkDraft
from ..kernels.cpu.regions import UNFINISHED
from .machine import cache_bytes

if TYPE_CHECKING:
    from ..inference import Frozen
    from ..models import Layer

KERNELS = {
    FILL: "fill", TRANSFER: "transfer", MAX_POOL: "max_pool", UPSAMPLE_ADD: "upsample_add", PRODUCT: "product",
    DEPTHWISE: "depthwise", AVERAGE: "average", BARRIER: "",
}  # fmt: skip
AT_BARRIERS = "waiting at barriers"
NORMED, INTERPOLATED, BIASED = 4, 8, 1  # operations per element: batch norm with PReLU; between four others; one more


@dataclasses.dataclass(frozen=True)
class Part:
    """Steps of a layer that do the same, over all bands and threads.

    kernel, title, op, layer: see `Row`. flops, bytes: per picture. weight_bytes: per call, however many pictures.
    """

    kernel: str
    title: str = ""
    op: str = ""
    layer: str = ""
    flops: int = 0
    bytes: int = 0
    weight_bytes: int = 0


@dataclasses.dataclass
class _Kind:
    """What equal steps are. flops: per output. outputs: of all together; None if they make each output once, so that
    they can be counted. moved: how many elements per output are read from memory or written there; read: how many
    besides. weights: how many they use."""

    title: str = ""
    flops: int = 0
    outputs: int | None = None
    moved: int = 0
    read: int = 0
    weights: int = 0


class Steps(NetworkDraft):
    """A plan in the making, the same as `make_plan` would make, that notes what its steps are.

    pictures: of a call. at_once: how many of them have maps in memory at a time. cache: bytes that stay in the caches.
    parts: what the steps do. part, work: of each step, the number of its part, and how many outputs it makes.

    FLOPs are those of the layers: a multiply-add is two, batch norm with PReLU four per element, an interpolation
    eight, averaging one per element averaged, a maximum one per element compared, a bias one. A coarser map is pooled
    from the next finer one that there is, as the plan does it. What is computed twice, since threads and bands need
    rows around their own, counts once. So the parts of a layer add up to its cost for any bands and number of threads.

    Bytes are traffic between processor and memory that the plan cannot avoid. What stays in the caches by construction
    is none: bands of rows inside a block of layers; what is pooled from rows that have just been written; and whatever
    fits into the last-level caches: all maps, images and weights of a small network. Larger arrays are written once,
    and read once by each block. Zeros around maps, and rows that a band leaves to the next, are the plan's own affair;
    they have neither FLOPs nor bytes.
    """

    def __init__(
        self, frozen: "Frozen", height: int, width: int, threads: int, pictures: int = 1, at_once: int = 1,
        cache: int | None = None,
    ):  # fmt: skip
        self._pictures, self._at_once = pictures, at_once
        self._cache = cache_bytes() if cache is None else cache
        self._kinds: dict[tuple, _Kind] = {}
        self._numbers: dict[tuple, int] = {}
        self._noted: list[list[tuple[int, int]]] = [[] for _ in range(threads)]
        self._reads: dict[tuple[int, int], int] = {}  # by products of gOctConvs: elements that come from memory
        self._read: set[tuple[str, int]] = set()  # by other products: (layer, width of the map)
        super().__init__(frozen, height, width, threads)
        noted = np.array([note for notes in self._noted for note in notes], np.int64)
        self.part, self.work = noted[:, 0], noted[:, 1]
        self.parts = [self._finished(*item) for item in self._kinds.items()]

    def _finished(self, key, kind):
        layer, operation, *_ = key
        outputs = kind.outputs
        if outputs is None:
            outputs = int(self.work[self.part == self._numbers[key]].sum())
        size = self.itemsize * (kind.moved * outputs + kind.read)
        fits = self._parameters_size * self.itemsize <= self._cache
        return Part(
            KERNELS[operation], kind.title, _op(layer), layer.name if layer else "", kind.flops * outputs, size,
            0 if fits else self.itemsize * kind.weights,
        )  # fmt: skip

    def _is_large(self, place, elements):
        """Whether arrays of so many elements per picture do not stay in the caches; scratch always does."""
        copies = {MEMORY: self._at_once, IMAGES: self._pictures, LOGITS: self._pictures}.get(place, 0)
        return copies * elements * self.itemsize > self._cache

    def _traffic(self, map_, channels):
        """Elements that are read from a map in memory."""
        elements = _elements(map_, channels)
        return elements if self._is_large(map_.region.array, elements) else 0

    # --- what the plan does -------------------------------------------------------------------------------------------

    def _compile(self, block):
        """As the plan does; notes who is the first to read which of the block's maps."""
        octave = super()._compile(block)
        seen = set()
        for sources, level in zip(block.sources, octave.levels, strict=False):
            if level:
                _, (_, weights, _, _), depth, _ = level
                self._reads[weights, depth] = sum(self._traffic(*entry) for entry in sources)
                seen.update(id(map_) for map_, _ in sources)
        for coarser, *_ in filter(None, octave.levels):
            for i, (_, weights, _, _), depth in coarser:
                map_, channels = block.own[i]
                self._reads[weights, depth] = 0 if id(map_) in seen else self._traffic(map_, channels)
                seen.add(id(map_))
        return octave

    def _step(self, thread, operation, channels, rows, cols, x=NO_MAP, y=NO_MAP, **more):
        before = len(self._steps[thread])
        super()._step(thread, operation, channels, rows, cols, x, y, **more)
        if len(self._steps[thread]) > before:  # there was something to do
            self._note(thread, operation, channels * rows * cols, channels, x, y, **more)

    def _barrier(self):
        super()._barrier()
        for thread in range(self.threads):
            self._note(thread, BARRIER, 0, 0, NO_MAP, NO_MAP)

    def _note(self, thread, operation, work, channels, x, y, a=0, b=0, c=0, d=0):
        key = self.layer, operation
        if operation in (PRODUCT, DEPTHWISE):
            key += a, d  # its weights
        elif operation in (MAX_POOL, AVERAGE, UPSAMPLE_ADD):
            key += channels, x.width, y.width
        elif operation == TRANSFER:
            key += (x.region.array,)
        if key not in self._kinds:
            self._numbers[key] = len(self._kinds)
            self._kinds[key] = self._kind(operation, channels, x, y, a, b, d)
        self._noted[thread].append((self._numbers[key], work))

    def _kind(self, operation, channels, x, y, a, b, d):
        """What a step is, the first of its kind."""
        outputs, out = _elements(y, channels), f"{channels}@{y.height}"
        between, stored = f"{channels}@{x.height} -> {out}", int(self._is_large(y.region.array, outputs))
        if operation == PRODUCT:
            return self._product_kind(channels, x, y, a, b, d, outputs, stored)
        if operation == DEPTHWISE:
            taps, size = self.layer.kernel_size**2, self.layer.kernel_size
            return _Kind(f"{out}, {size}x{size}", 2 * taps + NORMED, outputs, stored, 0, channels * (taps + 3))
        if operation == UPSAMPLE_ADD:
            normed, last = d != -1, y.region.array == LOGITS  # any other map has been written by a product just now
            read = self._traffic(x, channels) if last else 0
            return _Kind(between, INTERPOLATED + NORMED * normed, outputs, stored * last, read, 3 * channels * normed)
        if operation in (MAX_POOL, AVERAGE):
            return _Kind(between, a * a, moved=stored)
        if operation == TRANSFER and x.region.array == IMAGES:
            return _Kind(out, moved=stored + int(self._is_large(IMAGES, outputs)))
        return _Kind({TRANSFER: "rows of a band", BARRIER: AT_BARRIERS}.get(operation, ""))

    def _product_kind(self, channels, x, y, a, b, d, outputs, stored):
        size, normed, head = self.layer.kernel_size, b != UNFINISHED, self.layer.kind == "conv"
        ins, ends = d // size**2, BIASED if head else NORMED * normed
        read = self._reads.get((a, d))
        if read is None:  # of no gOctConv
            seen = self.layer.name, x.width
            read = 0 if seen in self._read else self._traffic(x, ins)
            self._read.add(seen)
        title = f"{ins}@{x.height} -> {channels}@{y.height}, {size}x{size}"
        return _Kind(title, 2 * d + ends, outputs, stored, read, channels * (d + (1 if head else 3 * normed)))


def _elements(map_, channels):
    return channels * map_.height * map_.width


def _op(layer: "Layer | None") -> str:
    """What a layer is, in the words of the paper."""
    if layer is None:
        return "input"
    if layer.kind == "conv":
        return "head"
    if layer.name.startswith("fusion."):
        return "fusion"
    return "depthwise chain" if layer.kind == "depthwise" else "gOctConv"
