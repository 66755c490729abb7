"""Plans of the whole network for inference: where each map is, and which steps each thread takes.

A plan is made of blocks, whose maps are in memory; within a block, maps exist only a band of rows at a time. An ILBlock
is computed in such bands: the gOctConv's rows, the depthwise layers after it, and what later blocks read of the result
(pooled, averaged), all while the rows are in the cache. The last rows of a band are carried over to the next one.
"""

import collections
import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np

from .dense import bands
from .drafts import IMAGES, LOGITS, Draft, Map
from .operations import AVERAGE, DEPTHWISE, FILL, MAX_POOL, TRANSFER, UPSAMPLE_ADD
from .regions import UNFINISHED, Region


def _band_bytes():
    """How much of a core's level-2 cache the maps of a band may take; results do not depend on it."""
    try:
        kilobytes = pathlib.Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip().removesuffix("K")
        return max(int(kilobytes) << 9, 768 << 10)
    except (OSError, ValueError):  # not Linux
        return 768 << 10


BAND_BYTES = _band_bytes()
LEAST = 4  # bands of a gOctConv by itself have multiples of this many rows, to begin at whole rows of coarser inputs


def _band_rows(row_bytes, multiple):
    """How many rows a band has, a multiple of `multiple`, if each takes `row_bytes`."""
    return max(int(BAND_BYTES / row_bytes) // multiple, 1) * multiple


@dataclasses.dataclass(eq=False)
class _Block:
    """Layers that are computed together, and what the first of them reads: maps with their channels, or None.

    layers: of `octsod.inference.Frozen`. A gOctConv may be followed by depthwise layers, or by the classifier; each
    other layer is a block by itself. raw: per input branch, the map that another block makes. own: the same at the
    scale where it is convolved, averaged for stride 2. sources: per level, the finer inputs, pooled to it, and then its
    own.
    """

    layers: list[Any]

    def __post_init__(self):
        self.first, self.last = self.layers[0].layer, self.layers[-1].layer
        count = len(self.first.inputs)
        self.raw, self.own = [None] * count, [None] * count
        self.sources = [[] for _ in range(max(count, len(self.first.outputs)))]

    def margin(self, name):
        """How many zeros this block needs around the very maps that the layer of that name makes."""
        reads = any(read and read[0] == name for read in self.first.reads)
        if reads and self.first.kind == "dilated":
            return max(dilation for groups in self.layers[0].weights for dilation, _ in groups)
        return 0


class _Octave(NamedTuple):
    """A compiled gOctConv: the block that it begins and, per output level, what `_rows` needs."""

    block: _Block
    levels: list


def _blocks(layers):
    """Divide layers into blocks. A layer is only joined to the one before where nothing else reads that one."""
    readers = collections.Counter(name for part in layers for name in {read[0] for read in part.layer.reads if read})
    groups = []
    for part in layers:
        names = {read[0] for read in part.layer.reads if read}
        before = groups[-1] if groups else []
        joins = bool(before) and before[0].layer.kind == "octave"
        joins = joins and names == {before[-1].layer.name} and readers[before[-1].layer.name] == 1
        if joins and (part.layer.kind == "depthwise" or (part.layer.kind == "conv" and len(before) == 1)):
            before.append(part)
        else:
            groups.append([part])
    return [_Block(group) for group in groups]


def make_plan(frozen, height, width, threads):
    """The `Plan` of a network (`octsod.inference.Frozen`) for pictures of one size and `threads` threads."""
    return NetworkDraft(frozen, height, width, threads).finish()


class NetworkDraft(Draft):
    """layer: the `Layer` that steps belong to from now on, for whoever wants to know; None for the image."""

    def __init__(self, frozen, height, width, threads):
        super().__init__(frozen.dtype, threads)
        self.layer = None
        self._blocks = _blocks(frozen.layers)
        self._build(height, width)

    def _build(self, height, width):
        image = self._map(3, height, width)
        self._copy_image(image, *self._feed("image", [(image, 3)]))  # as `Layer.reads` calls it
        last = {read: block for block in self._blocks for read in block.first.reads}
        for block in self._blocks:
            layer = block.last
            size = height >> layer.scale, width >> layer.scale
            self.layer = layer
            if layer.kind == "conv":
                self._classifier(block, size, (height, width))
                continue
            outputs = self._outputs(layer, size)
            derived, multiples = self._feed(layer.name, outputs)
            if block.first.kind == "dilated":
                self._dilated(block, outputs, derived, multiples)
            elif len(block.layers) > 1:
                self._il_block(block, size, outputs, derived, multiples)
            else:
                self._octave(block, size, outputs, derived, multiples)
            self.layer = layer
            self._barrier()
            kept = [entry for read, entry in zip(block.first.reads, block.raw, strict=True) if last[read] is not block]
            self._retire(block, kept)

    def _copy_image(self, image, derived, multiples):
        height, width = image.height, image.width
        source = Map(Region(IMAGES, 0, height * width, width), height, width)
        for thread, begin, end in self._shares(height, multiples[0]):
            self._step(thread, TRANSFER, 3, end - begin, width, source.at(begin), image.at(begin), a=1)
            self._zeros_behind(thread, image.at(begin), 3, end - begin)
            self._derive(thread, derived, 0, begin, end - begin)
            self.layer = None
        self._barrier()

    def _outputs(self, layer, size):
        """Reserve a layer's maps: per branch (map, channels), or None for a missing one."""
        margin = max(block.margin(layer.name) for block in self._blocks)
        outputs = [None] * len(layer.outputs)
        for j, channels in enumerate(layer.outputs):
            if channels:
                map_ = self._map(channels, size[0] >> j, size[1] >> j, max(margin, 1))
                outputs[j] = map_, channels
                if margin:
                    self._zero_borders(map_, channels, margin)
        return outputs

    def _retire(self, block, kept):
        """Give back what a block has read, but for maps that another one will read."""
        entries = [*block.raw, *block.own, *(entry for here in block.sources for entry in here)]
        kept = {id(entry[0]) for entry in kept if entry is not None}
        self._drop(*{id(e[0]): e[0] for e in entries if e is not None and id(e[0]) not in kept}.values())

    # --- what blocks read ---------------------------------------------------------------------------------------------

    def _feed(self, name, outputs):
        """Reserve what all blocks read of a layer's outputs, (map, channels) or None per branch.

        Returns (derived, multiples). derived lists, in order, the (branch, operation, factor, from, to, channels,
        layer) that whoever writes the outputs has to carry out for its rows, for the layer that reads them. A branch's
        rows are written in multiples of its entry in `multiples`.
        """
        derived, multiples = [], [1] * len(outputs)
        for block in self._blocks:
            reads = enumerate(block.first.reads)
            here = {i: read[1] for i, read in reads if read and read[0] == name}
            for i, branch in here.items():
                block.raw[i] = outputs[branch]
            if block.first.kind == "octave":
                self._sources(block, here, derived, multiples)
        return derived, multiples

    def _sources(self, block, here, derived, multiples):
        """Reserve what a block's gOctConv reads of some input branches; here: which output each of them is."""
        layer, finer = block.first, {}
        for i, branch in here.items():
            block.own[i] = block.raw[i]
            if layer.stride == 2:
                whole, channels = block.raw[i]
                half = self._map(channels, whole.height // 2, whole.width // 2)
                derived.append((branch, AVERAGE, 2, whole, half, channels, layer))
                block.own[i] = half, channels
                multiples[branch] = max(multiples[branch], 2)
        fresh = []
        for level, sources in enumerate(block.sources):
            for i, branch in here.items():
                if i < level < len(layer.outputs) and layer.outputs[level]:
                    pooled = self._pooled(block.own[i], branch, level - i, layer, derived, multiples, finer)
                    fresh.append((pooled, block.own[i][1]))
                elif i == level:
                    fresh.append(block.own[i])
                else:
                    continue
                sources.append(fresh[-1])
        if layer.kernel_size > 1:
            for map_, channels in fresh:
                self._zero_borders(map_, channels)

    def _pooled(self, entry, branch, halvings, layer, derived, multiples, finer):
        """The map of `entry` (map, channels), halved `halvings` times by max-pooling for `layer`, starting from the
        most halved one made so far. finer: (branch, halvings) -> map."""
        whole, channels = entry
        before = max((h for b, h in finer if b == branch), default=0)
        source = finer.get((branch, before), whole)
        factor = 1 << (halvings - before)
        pooled = self._map(channels, source.height // factor, source.width // factor)
        derived.append((branch, MAX_POOL, factor, source, pooled, channels, layer))
        multiples[branch] = max(multiples[branch], (1 << halvings) * layer.stride)
        finer[branch, halvings] = pooled
        return pooled

    def _derive(self, thread, derived, branch, row, rows):
        """Pool and average rows of a branch's output; a step reads what an earlier one has written."""
        done = {}
        for i, operation, factor, source, target, channels, layer in derived:
            if i == branch:
                self.layer = layer
                first, count = done.get(id(source), (row, rows))
                done[id(target)] = first // factor, count // factor
                self._step(
                    thread, operation, channels, count // factor, target.width, source.at(first),
                    target.at(first // factor), a=factor,
                )  # fmt: skip
                self._zeros_behind(thread, target.at(first // factor), channels, count // factor)

    # --- gOctConv -----------------------------------------------------------------------------------------------------

    def _compile(self, block):
        """A block's gOctConv as `_Octave`; stores its parameters and tables."""
        layer, kernel_size = block.first, block.first.kernel_size
        (weight,), finish = block.layers[0].weights, block.layers[0].finish
        taps = [(y, x) for y in range(kernel_size) for x in range(kernel_size)]
        pad = kernel_size // 2

        def packed(rows, columns):
            part = weight[rows, columns]
            return part.reshape(*part.shape[:2], kernel_size**2).transpose(2, 1, 0)

        def table(entries):
            origin, _ = entries[0]
            return self._offsets([
                map_.region.start + i * map_.stride + (y - pad) * map_.pitch + (x - pad) - origin.region.start
                for y, x in taps for map_, channels in entries for i in range(channels)
            ])  # fmt: skip

        before = np.cumsum([0, *layer.inputs])
        levels = []
        for level, outs in enumerate(layer.outputs):
            if not outs:
                levels.append(None)
                continue
            first = sum(layer.outputs[:level])
            rows = slice(first, first + outs)
            ends = self._ends(finish[level])
            coarser = []
            for i in reversed(range(level + 1, len(layer.inputs))):
                if layer.inputs[i]:
                    columns = slice(before[i], before[i + 1])
                    entry = outs, self._parameter(packed(rows, columns)), UNFINISHED, table([block.own[i]])
                    coarser.append((i, entry, layer.inputs[i] * len(taps)))
            depth = before[min(level + 1, len(layer.inputs))]
            at = table(block.sources[level]) if depth else 0
            same = outs, self._parameter(packed(rows, slice(0, depth))), UNFINISHED if coarser else ends, at
            levels.append((coarser, same, depth * len(taps), ends))
        return _Octave(block, levels)

    def _rows(self, thread, octave, level, row, rows, y, height, scratch):
        """Rows row..row+rows of output `level` to y; `scratch` is where products of coarser inputs may go."""
        self.layer = octave.block.first
        coarser, same, depth, ends = octave.levels[level]
        source = octave.block.sources[level][0][0] if depth else y._replace(height=height)
        self._product(thread, y, source, rows, row if depth else 0, same, depth)
        for i, weights, deep in coarser:
            source, _ = octave.block.own[i]
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

    # --- the blocks ---------------------------------------------------------------------------------------------------

    def _il_block(self, block, size, outputs, derived, multiples):
        """A gOctConv and the depthwise layers after it."""
        layer, depthwise = block.first, block.layers[1:]
        octave = self._compile(block)
        filters = [
            [None if w is None else (part.layer, self._parameter(w), self._ends(f))
             for w, f in zip(part.weights, part.finish, strict=True)]
            for part in depthwise
        ]  # fmt: skip
        branches = [j for j, n in enumerate(layer.outputs) if n]
        multiple = max(max(m << j for j, m in enumerate(multiples)), 1 << (len(outputs) - 1))
        row_bytes = sum(
            ((1 + len(depthwise)) * layer.outputs[j] + sum(n for _, n in block.sources[j]))
            * (size[1] >> j) * self.itemsize / (1 << j)
            for j in branches
        )  # fmt: skip
        band = _band_rows(row_bytes, multiple)
        for thread, begin, end in self._shares(size[0], multiple):
            self.layer = layer
            place, buffers = 0, {}
            for j in branches:
                map_, channels = outputs[j]
                rows, buffers[j] = (band >> j) + 2 * len(depthwise), []
                for _ in depthwise:
                    buffers[j].append(self._buffer(place, channels, rows, map_.height, map_.width))
                    place += self._buffer_size(channels, rows, map_.width)
                for buffer in buffers[j]:  # the column before the first row
                    self._step(thread, FILL, channels, 1, 1, y=buffer.at(0, -1))
            for row, rows in bands(end - begin, band):
                for j in branches:
                    own = [part[j] for part in filters]
                    first, here, count = row == 0, (begin + row) >> j, rows >> j
                    self._band(thread, octave, j, here, count, first, band >> j, buffers[j], own, outputs[j], place)
                    self._derive(thread, derived, j, here, count)

    def _band(self, thread, octave, j, row, rows, first, band, buffers, filters, output, scratch):
        """Rows row..row+rows of branch j through gOctConv and depthwise layers.

        There is a buffer for the output of each layer but the last. For what the filters read beyond the band, buffers
        begin earlier: by one row in front of the last filter, by two in front of the one before, and so on.
        """
        target, channels = output
        end, height = row + rows, target.height
        for number, buffer in enumerate(buffers):
            reach = len(buffers) - number
            top = row - reach
            self.layer = octave.block.layers[number].layer
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
                source = buffers[number - 1].at(begin - (top - 1))
                self._filter(thread, filters[number - 1], source, here, channels, stop - begin)
            self._step(
                thread, FILL, channels, end + reach - max(stop, top), buffer.pitch, y=buffer.at(max(stop, top) - top)
            )
        self._filter(thread, filters[-1], buffers[-1].at(1), target.at(row), channels, rows)

    def _filter(self, thread, parameters, x, y, channels, rows):
        self.layer, weight, ends = parameters
        self._step(thread, DEPTHWISE, channels, rows, y.width, x, y, a=weight, b=ends)

    def _octave(self, block, size, outputs, derived, multiples):
        """A gOctConv by itself, one output level after the other."""
        octave = self._compile(block)
        multiple = max(max(m << j for j, m in enumerate(multiples)), 1 << (len(outputs) - 1), LEAST)
        for thread, begin, end in self._shares(size[0], multiple):
            for level, entry in enumerate(outputs):
                if entry is None:
                    continue
                map_, channels = entry
                band = _band_rows(4 * channels * map_.pitch * self.itemsize, max(multiples[level], LEAST))
                for row, rows in bands((end - begin) >> level, band):
                    row += begin >> level
                    self._rows(thread, octave, level, row, rows, map_.at(row), map_.height, 0)
                    self._zeros_behind(thread, map_.at(row), channels, rows)
                    self._derive(thread, derived, level, row, rows)

    def _dilated(self, block, outputs, derived, multiples):
        """Dilated convolutions side by side, level by level."""
        (part,) = block.layers
        for level, output in enumerate(outputs):
            if output is None:
                continue
            (source, ins), (target, _), finish = block.raw[level], output, part.finish[level]
            shares, first = self._shares(source.height, multiples[level]), 0
            for dilation, weight in part.weights[level]:
                count = weight.shape[0]
                table = self._offsets([
                    i * source.stride + (y - 1) * dilation * source.pitch + (x - 1) * dilation
                    for y in range(3) for x in range(3) for i in range(ins)
                ])  # fmt: skip
                rows = slice(first, first + count)
                ends = self._parameter(finish.scale[rows], finish.shift[rows], finish.slope[rows])
                packed = self._parameter(weight.reshape(count, ins, 9).transpose(2, 1, 0))
                self.layer = part.layer
                for thread, begin, end in shares:
                    y = target.at(begin, channel=first)
                    self._product(thread, y, source, end - begin, begin, (count, packed, ends, table), 9 * ins)
                first += count
            for thread, begin, end in shares:
                self._derive(thread, derived, level, begin, end - begin)

    def _classifier(self, block, size, whole):
        """The classifier, after the gOctConv in its block if there is one, whose output exists only a band at a time.
        Then the last upsampling, to the size `whole`.
        """
        octave = self._compile(block) if len(block.layers) > 1 else None
        weight, bias = block.layers[-1].weights
        channels, one, factor = weight.size, np.ones(1), 1 << block.last.scale
        final = self._parameter(weight), self._parameter(one, bias * one, one)
        logits = Map(Region(LOGITS, 0, 0, whole[1]), *whole)
        small = logits if factor == 1 else self._map(1, *size)
        band = _band_rows(3 * channels * size[1] * self.itemsize, LEAST)
        for thread, begin, end in self._shares(size[0], LEAST):
            for row, rows in bands(end - begin, band):
                row += begin
                if octave:
                    y = self._buffer(0, channels, rows, *size)
                    self._rows(thread, octave, 0, row, rows, y, size[0], self._buffer_size(channels, rows, size[1]))
                else:
                    y = block.raw[0][0].at(row)
                self.layer = block.last
                table = self._offsets([i * y.stride for i in range(channels)])
                self._product(thread, small.at(row), y, rows, 0, (1, *final, table), channels)
        self._barrier()
        if factor > 1:
            for thread, begin, end in self._shares(whole[0], factor):
                y, rows = logits.at(begin), end - begin
                self._step(thread, FILL, 1, rows, whole[1], y=y)
                self._step(thread, UPSAMPLE_ADD, 1, rows, size[1], small, y, a=factor, b=size[0], c=begin, d=-1)
            self._barrier()
