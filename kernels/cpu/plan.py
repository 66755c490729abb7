"""Plans of the whole network for inference: where each map is, and which steps each thread takes.

An ILBlock is computed in bands of rows: the gOctConv's rows, both depthwise layers after it, and what the next layer
reads of the result (pooled, averaged), all while the rows are in the cache. Only a band of the maps between its layers
exists; its last rows are carried over to the next band.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from .dense import bands
from .operations import (
    AVERAGE,
    BARRIER,
    DEPTHWISE,
    FIELDS,
    FILL,
    MAX_POOL,
    PRODUCT,
    TRANSFER,
    UPSAMPLE_ADD,
    encoded,
)
from .regions import NOWHERE, UNFINISHED, Region
from .simd import VECTOR_BYTES
from .tiles import MULTIPLY_VECTORS

MEMORY, SCRATCH, IMAGES, LOGITS = range(4)  # where regions are: per picture, per thread, the call's arrays


def _band_bytes():
    """How much of a core's level-2 cache the maps of a band may take; results do not depend on it."""
    try:
        kilobytes = pathlib.Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip().removesuffix("K")
        return max(int(kilobytes) << 9, 768 << 10)
    except (OSError, ValueError):  # not Linux
        return 768 << 10


BAND_BYTES = _band_bytes()


class Map(NamedTuple):
    """A map of height x width pixels, and the region that holds it."""

    region: Region
    height: int
    width: int

    def at(self, row=0, col=0, channel=0):
        """The same map seen from another pixel."""
        return self._replace(region=self.region.at(row, col, channel))

    @property
    def stride(self):
        return self.region.stride

    @property
    def pitch(self):
        return self.region.pitch


NO_MAP = Map(NOWHERE, 0, 0)


class _Octave(NamedTuple):
    """A compiled gOctConv: what `_rows` needs, per output level, and the maps that it reads, see `_sources`."""

    levels: list
    sources: list
    own: list


class _Heap:
    """Hands out ranges of an array that grows as needed; what is given back is used again."""

    def __init__(self):
        self.size, self._free = 0, []

    def take(self, size):
        size = -(-size // 64) * 64
        for k, (start, room) in enumerate(self._free):
            if room >= size:
                self._free[k : k + 1] = [(start + size, room - size)] if room > size else []
                return start, size
        start, self.size = self.size, self.size + size
        return start, size

    def give_back(self, start, size):
        merged = []
        for s, n in sorted([*self._free, (start, size)]):
            if merged and sum(merged[-1]) == s:
                merged[-1] = (merged[-1][0], merged[-1][1] + n)
            else:
                merged.append((s, n))
        self._free = merged


class Plan:
    """The steps of a network (`octsod.inference.Frozen`) for pictures of one size, taken by `threads` threads."""

    def __init__(self, frozen, height, width, threads):
        self.frozen, self.threads, self.itemsize = frozen, threads, frozen.dtype.itemsize
        self.lanes = VECTOR_BYTES // self.itemsize
        self._steps = [[] for _ in range(threads)]
        self._table, self._parameters, self._parameters_size = [], [], 0
        self._heap, self._blocks = _Heap(), {}
        self.slack = (MULTIPLY_VECTORS + 1) * self.lanes  # how far products read beyond the end of their source
        self.scratch_size = 0
        self._build(height, width)
        program = [step for steps in self._steps for step in steps]
        self.program = np.array(program, np.int64).reshape(-1, FIELDS)
        self.bounds = np.cumsum([0, *map(len, self._steps)])
        self.table = np.array(self._table, np.int64)
        self.parameters = np.concatenate(self._parameters).astype(frozen.dtype)
        self.memory_size = self._heap.size + self.slack
        self.scratch_size += self.slack

    # --- memory -------------------------------------------------------------------------------------------------------

    def _map(self, channels, height, width, margin=1):
        """A map in a picture's memory with room for `margin` rows and columns of zeros around it.

        Its rows begin at whole vectors. The `margin` or more pixels after a row are also the ones before the next.
        """
        pitch, before = self._whole(width + margin), self._whole(margin)
        stride = before + (height + 2 * margin) * pitch + before
        start, size = self._heap.take(channels * stride)
        map_ = Map(Region(MEMORY, start + before + margin * pitch, stride, pitch), height, width)
        self._blocks[id(map_)] = map_, start, size
        return map_

    def _whole(self, size):
        """`size`, rounded up to whole vectors."""
        return -(-size // self.lanes) * self.lanes

    def _drop(self, *maps):
        """Free maps that are not read any more after the next barrier."""
        for map_ in maps:
            _, start, size = self._blocks.pop(id(map_))
            self._heap.give_back(start, size)

    def _zero_borders(self, map_, channels, margin=1):
        """Let the first thread zero what surrounds a map, except for what follows its rows."""
        self._step(0, FILL, channels, 1, margin * map_.pitch + margin, y=map_.at(-margin, -margin))
        self._step(0, FILL, channels, 1, margin * map_.pitch, y=map_.at(map_.height))

    def _parameter(self, *arrays):
        """Where these numbers are among the parameters."""
        start = self._parameters_size
        for array in arrays:
            self._parameters.append(np.asarray(array, np.float64).reshape(-1))
            self._parameters_size += array.size
        return start

    def _ends(self, finish):
        return self._parameter(finish.scale, finish.shift, finish.slope)

    def _offsets(self, offsets):
        start = len(self._table)
        self._table += offsets
        return start

    # --- steps --------------------------------------------------------------------------------------------------------

    def _step(self, thread, operation, channels, rows, cols, x=NO_MAP, y=NO_MAP, **more):
        if channels and rows > 0 and cols > 0:
            self._steps[thread].append(encoded(operation, channels, rows, cols, x.region, y.region, **more))

    def _barrier(self):
        for steps_ in self._steps:
            steps_.append((BARRIER, *[0] * (FIELDS - 1)))

    def _shares(self, height, multiple):
        """Each thread's rows, in multiples of `multiple`."""
        units = -(-height // multiple)
        ends = [min(units * t // self.threads * multiple, height) for t in range(self.threads + 1)]
        return [(t, ends[t], ends[t + 1]) for t in range(self.threads) if ends[t] < ends[t + 1]]

    def _product(self, thread, y, x, rows, row_of_x, weights, depth):
        """`rows` rows of y from x's row `row_of_x` on; weights: (channels, weight, ends or UNFINISHED, table).

        What follows the rows is undefined afterwards.
        """
        channels, a, b, table = weights
        source = x.at(row_of_x)
        if y.pitch == x.pitch:  # rows and what is between them as one run
            runs, count = 1, (rows - 1) * x.pitch + x.width
        else:
            runs, count = rows, x.width
        self._step(thread, PRODUCT, channels, runs, count, source, y, a=a, b=b, c=table, d=depth)

    def _zeros_behind(self, thread, map_, channels, rows):
        """Zero what follows each of `rows` rows of a map."""
        self._step(thread, FILL, channels, rows, map_.pitch - map_.width, y=map_.at(0, map_.width))

    # --- gOctConv -----------------------------------------------------------------------------------------------------

    def _sources(self, octave, maps, multiples):
        """What a gOctConv reads: per level, [(map, channels)] of the finer inputs, pooled, and then its own.

        maps: per branch (map, channels) or None, as the block before writes them. Returns (sources, own, derived). own:
        per branch, what the gOctConv reads at that branch's scale. derived lists, in order, the (branch, operation,
        factor, from, to, channels) that whoever writes the maps has to carry out for its rows. multiples is raised so
        that a branch's rows are written in multiples of its entry.
        """
        derived, own = [], []
        for i, entry in enumerate(maps):
            if entry is None or octave.stride == 1:
                own.append(entry)
                continue
            whole, channels = entry
            half = self._map(channels, whole.height // 2, whole.width // 2)
            derived.append((i, AVERAGE, 2, whole, half, channels))
            own.append((half, channels))
            multiples[i] = max(multiples[i], 2)
        sources, finer = [], {}
        for level in range(max(len(octave.ins), len(octave.outs))):
            here = []
            for i, entry in enumerate(own[:level]):
                if entry is not None and level < len(octave.outs) and octave.outs[level]:
                    pooled = self._pooled(entry, i, level - i, octave.stride, derived, multiples, finer)
                    here.append((pooled, entry[1]))
            if level < len(own) and own[level] is not None:
                here.append(own[level])
            sources.append(here)
        if octave.weight.shape[2] > 1:
            for map_, channels in {id(m): (m, n) for here in sources for m, n in here}.values():
                self._zero_borders(map_, channels)
        return sources, own, derived

    def _pooled(self, entry, branch, halvings, stride, derived, multiples, finer):
        """The map of `entry` (map, channels), halved `halvings` times by max-pooling, starting from the most halved one
        made so far. finer: (branch, halvings) -> map."""
        whole, channels = entry
        before = max((h for b, h in finer if b == branch), default=0)
        source = finer.get((branch, before), whole)
        factor = 1 << (halvings - before)
        pooled = self._map(channels, source.height // factor, source.width // factor)
        derived.append((branch, MAX_POOL, factor, source, pooled, channels))
        multiples[branch] = max(multiples[branch], (1 << halvings) * stride)
        finer[branch, halvings] = pooled
        return pooled

    def _derive(self, thread, derived, branch, row, rows):
        """Pool and average rows of a branch's output; a step reads what an earlier one has written."""
        done = {}
        for i, operation, factor, source, target, channels in derived:
            if i == branch:
                first, count = done.get(id(source), (row, rows))
                done[id(target)] = first // factor, count // factor
                self._step(
                    thread, operation, channels, count // factor, target.width, source.at(first),
                    target.at(first // factor), a=factor,
                )  # fmt: skip
                self._zeros_behind(thread, target.at(first // factor), channels, count // factor)

    def _compile(self, octave, sources, own):
        """A gOctConv as `_Octave`; stores its parameters and tables."""
        weight, kernel_size = octave.weight, octave.weight.shape[2]
        taps = [(y, x) for y in range(kernel_size) for x in range(kernel_size)]
        pad = kernel_size // 2

        def block(rows, columns):
            part = weight[rows, columns]
            return part.reshape(*part.shape[:2], kernel_size**2).transpose(2, 1, 0)

        def table(entries):
            origin, _ = entries[0]
            return self._offsets([
                map_.region.start + i * map_.stride + (y - pad) * map_.pitch + (x - pad) - origin.region.start
                for y, x in taps for map_, channels in entries for i in range(channels)
            ])  # fmt: skip

        before = np.cumsum([0, *octave.ins])
        levels = []
        for level, outs in enumerate(octave.outs):
            if not outs:
                levels.append(None)
                continue
            first = sum(octave.outs[:level])
            rows = slice(first, first + outs)
            ends = self._ends(octave.finish[level])
            coarser = []
            for i in reversed(range(level + 1, len(octave.ins))):
                if octave.ins[i]:
                    columns = slice(before[i], before[i + 1])
                    entry = outs, self._parameter(block(rows, columns)), UNFINISHED, table([own[i]])
                    coarser.append((i, entry, octave.ins[i] * len(taps)))
            depth = before[min(level + 1, len(octave.ins))]
            at = table(sources[level]) if depth else 0
            same = outs, self._parameter(block(rows, slice(0, depth))), UNFINISHED if coarser else ends, at
            levels.append((coarser, same, depth * len(taps), ends))
        return _Octave(levels, sources, own)

    def _rows(self, thread, octave, level, row, rows, y, height, scratch):
        """Rows row..row+rows of output `level` to y; `scratch` is where products of coarser inputs may go."""
        coarser, same, depth, ends = octave.levels[level]
        source = octave.sources[level][0][0] if depth else y._replace(height=height)
        self._product(thread, y, source, rows, row if depth else 0, same, depth)
        for i, weights, deep in coarser:
            source, _ = octave.own[i]
            factor = 1 << (i - level)
            # The coarse rows that these rows lie between, with half-pixel centres.
            low = max((2 * row + 1 - factor) // (2 * factor), 0)
            high = min((2 * (row + rows - 1) + 1 - factor) // (2 * factor) + 1, source.height - 1)
            products = self._buffer(scratch, weights[0], high + 1 - low, source.height, source.width)
            self._product(thread, products, source, high + 1 - low, low, weights, deep)
            self._step(
                thread, UPSAMPLE_ADD, weights[0], rows, source.width, products.at(-low), y, a=factor, b=source.height,
                c=row, d=ends if i == coarser[-1][0] else -1,
            )  # fmt: skip

    def _buffer(self, start, channels, rows, height, width):
        """A map in scratch for `rows` rows, from `start` on, with a vector of room before them."""
        pitch = self._whole(width + 1)
        self.scratch_size = max(self.scratch_size, start + self._buffer_size(channels, rows, width))
        return Map(Region(SCRATCH, start + self.lanes, rows * pitch + self.lanes, pitch), height, width)

    def _buffer_size(self, channels, rows, width):
        return self.lanes + channels * (rows * self._whole(width + 1) + self.lanes)

    # --- the layers ---------------------------------------------------------------------------------------------------

    def _il_block(self, block, sources, own, size, outputs, derived, multiples):
        """outputs: per branch (map, channels) or None; size: of branch 0."""
        octave, *layers = block
        compiled = self._compile(octave, sources, own)
        filters = [
            [None if w is None else (self._parameter(w), self._ends(f))
             for w, f in zip(layer.weights, layer.finish, strict=True)]
            for layer in layers
        ]  # fmt: skip
        branches = [j for j, n in enumerate(octave.outs) if n]
        multiple = max(max(m << j for j, m in enumerate(multiples)), 1 << (len(octave.outs) - 1))
        row_bytes = sum(
            (3 * octave.outs[j] + sum(n for _, n in sources[j])) * (size[1] >> j) * self.itemsize / (1 << j)
            for j in branches
        )
        band = max(int(BAND_BYTES / row_bytes) // multiple, 1) * multiple
        for thread, begin, end in self._shares(size[0], multiple):
            place = 0
            stages = {}
            for j in branches:
                rows = (band >> j) + 4
                stages[j] = [self._buffer(place, octave.outs[j], rows, size[0] >> j, size[1] >> j)]
                place += self._buffer_size(octave.outs[j], rows, size[1] >> j)
                stages[j].append(self._buffer(place, octave.outs[j], rows, size[0] >> j, size[1] >> j))
                place += self._buffer_size(octave.outs[j], rows, size[1] >> j)
                for buffer in stages[j]:  # the column before the first row
                    self._step(thread, FILL, octave.outs[j], 1, 1, y=buffer.at(0, -1))
            for row, rows in bands(end - begin, band):
                for j in branches:
                    self._band(
                        thread, compiled, j, (begin + row) >> j, rows >> j, row == 0, band >> j, stages[j], filters,
                        outputs[j], place,
                    )  # fmt: skip
                    self._derive(thread, derived, j, (begin + row) >> j, rows >> j)

    def _band(self, thread, octave, j, row, rows, first, band, stages, filters, output, scratch):
        """Rows row..row+rows of branch j through gOctConv and both depthwise layers.

        The buffers begin two rows and one row earlier, for what the filters read beyond the band.
        """
        target, channels = output
        end, height = row + rows, target.height
        for number, buffer in enumerate(stages):
            reach = 2 - number
            top = row - reach
            if first:
                begin = max(top, 0)
                self._step(thread, FILL, channels, begin - top, buffer.pitch, y=buffer)
            else:
                begin = row + reach
                self._step(thread, TRANSFER, channels, 2 * reach, buffer.pitch, buffer.at(band), buffer, a=1)
            stop = min(end + reach, height)
            begin = min(begin, stop)
            here = buffer.at(begin - top)
            if number == 0:
                if stop > begin:
                    self._rows(thread, octave, j, begin, stop - begin, here, height, scratch)
                    self._zeros_behind(thread, here, channels, stop - begin)
            else:
                self._filter(thread, filters[0][j], stages[0].at(begin - (row - 2)), here, channels, stop - begin)
            self._step(
                thread, FILL, channels, end + reach - max(stop, top), buffer.pitch, y=buffer.at(max(stop, top) - top)
            )
        self._filter(thread, filters[1][j], stages[1].at(1), target.at(row), channels, rows)

    def _filter(self, thread, parameters, x, y, channels, rows):
        weight, ends = parameters
        self._step(thread, DEPTHWISE, channels, rows, y.width, x, y, a=weight, b=ends)

    def _build(self, height, width):
        f = self.frozen
        image = self._map(3, height, width)
        maps, size = [(image, 3)], (height, width)
        source = Map(Region(IMAGES, 0, height * width, width), height, width)
        blocks = [(s, block) for s, stage in enumerate(f.stages) for block in stage]
        multiples = [1]
        sources, own, derived = self._sources(blocks[0][1][0], maps, multiples)
        for thread, begin, end in self._shares(height, multiples[0]):
            self._step(thread, TRANSFER, 3, end - begin, width, source.at(begin), image.at(begin), a=1)
            self._zeros_behind(thread, image.at(begin), 3, end - begin)
            self._derive(thread, derived, 0, begin, end - begin)
        self._barrier()
        fused = []  # (map, channels) of the last outputs of stages 2, 3 and 4
        kept = {id(image)}
        for number, (stage, block) in enumerate(blocks):
            octave = block[0]
            size = tuple(n // octave.stride for n in size)
            outputs = [
                (self._map(n, size[0] >> j, size[1] >> j), n) if n else None for j, n in enumerate(octave.outs)
            ]
            multiples = [1] * len(outputs)
            last = number + 1 == len(blocks) or blocks[number + 1][0] != stage
            following, next_own, derived = [], [], []
            if number + 1 < len(blocks):
                following, next_own, derived = self._sources(blocks[number + 1][1][0], outputs, multiples)
            if last and stage in (2, 3, 4):
                fused.append(outputs[0])
                derived = derived + self._fusion_sources(len(fused) - 1, outputs[0], multiples)
            self._il_block(block, sources, own, size, outputs, derived, multiples)
            self._barrier()
            self._retire([*[e for here in sources for e in here], *own, *maps], kept, fused)
            kept = set()
            maps, sources, own = outputs, following, next_own
        self._fusion(fused, (height // 2, width // 2))

    def _retire(self, entries, kept, fused):
        """Give back the maps that have been read for the last time."""
        needed = {id(entry[0]) for entry in fused}
        for map_ in {id(e[0]): e[0] for e in entries if e is not None}.values():
            if id(map_) in self._blocks and id(map_) not in needed:
                self._drop(map_)

    def _fusion_sources(self, level, entry, multiples):
        """Reserve pooled copies of a stage's last output for the fusion's coarser levels; returns how to make them."""
        fuse = self.frozen.fuse
        if level == 0:
            self._fused_sources = [[] for _ in fuse.outs]
        derived, finer = [], {}
        for coarse in range(level + 1, len(fuse.outs)):
            if fuse.outs[coarse]:
                pooled = self._pooled(entry, 0, coarse - level, 1, derived, multiples, finer)
                self._fused_sources[coarse].append((pooled, entry[1]))
        self._fused_sources[level].append(entry)
        return derived

    def _fusion(self, fused, size):
        """gOctConv over three scales, dilated convolutions, gOctConv to the finest scale, classifier, upsampling."""
        f = self.frozen
        compiled = self._compile(f.fuse, self._fused_sources, fused)
        margin = max((d for groups in f.dilated.groups for d, _ in groups), default=1)
        inputs = []
        for level, outs in enumerate(f.fuse.outs):
            inputs.append((self._map(outs, size[0] >> level, size[1] >> level, margin), outs) if outs else None)
            if outs:
                self._zero_borders(inputs[level][0], outs, margin)
        top = 1 << (len(f.fuse.outs) - 1)
        for thread, begin, end in self._shares(size[0], top):
            for level, entry in enumerate(inputs):
                if entry is None:
                    continue
                rows_bytes = 4 * entry[1] * entry[0].pitch * self.itemsize
                band = max(BAND_BYTES // rows_bytes // 4, 1) * 4
                for row, rows in bands((end - begin) >> level, band):
                    row += begin >> level
                    self._rows(
                        thread, compiled, level, row, rows, entry[0].at(row), size[0] >> level, 0
                    )  # fmt: skip
                    self._zeros_behind(thread, entry[0].at(row), entry[1], rows)
        self._barrier()
        dilated = []
        for level, (groups, finish) in enumerate(zip(f.dilated.groups, f.dilated.finish, strict=True)):
            if finish is None:
                dilated.append(None)
                continue
            source, ins = inputs[level]
            outs = finish.scale.size
            target = self._map(outs, source.height, source.width)
            dilated.append((target, outs))
            first = 0
            for dilation, weight in groups:
                count = weight.shape[0]
                table = self._offsets([
                    i * source.stride + (y - 1) * dilation * source.pitch + (x - 1) * dilation
                    for y in range(3) for x in range(3) for i in range(ins)
                ])  # fmt: skip
                rows = slice(first, first + count)
                ends = self._parameter(finish.scale[rows], finish.shift[rows], finish.slope[rows])
                packed = self._parameter(weight.reshape(count, ins, 9).transpose(2, 1, 0))
                for thread, begin, end in self._shares(source.height, 1):
                    self._product(
                        thread, target.at(begin, channel=first), source, end - begin, begin,
                        (count, packed, ends, table), 9 * ins,
                    )  # fmt: skip
                first += count
        self._barrier()
        merged = [[entry for entry in dilated[:1] if entry is not None]]
        compiled = self._compile(f.merge, merged, dilated)
        weight, bias = f.classifier
        channels = weight.size
        small = self._map(1, *size)
        row_bytes = 3 * channels * size[1] * self.itemsize
        band = max(BAND_BYTES // row_bytes // top, 1) * top
        one = np.ones(1)
        final = self._parameter(weight), self._parameter(one, bias * one, one)
        for thread, begin, end in self._shares(size[0], top):
            for row, rows in bands(end - begin, band):
                row += begin
                y = self._buffer(0, channels, rows, *size)
                place = self._buffer_size(channels, rows, size[1])
                self._rows(thread, compiled, 0, row, rows, y, size[0], place)
                table = self._offsets([i * y.stride for i in range(channels)])
                self._product(thread, small.at(row), y, rows, 0, (1, *final, table), channels)
        self._barrier()
        whole = Map(Region(LOGITS, 0, 0, 2 * size[1]), 2 * size[0], 2 * size[1])
        for thread, begin, end in self._shares(2 * size[0], 2):
            self._step(thread, FILL, 1, end - begin, whole.width, y=whole.at(begin))
            self._step(
                thread, UPSAMPLE_ADD, 1, end - begin, size[1], small, whole.at(begin), a=2, b=size[0], c=begin, d=-1
            )
        self._barrier()
