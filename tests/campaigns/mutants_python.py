"""Seeded bugs in Python, found in the syntax tree.

What checks arguments or makes messages is left alone, and so are annotations, defaults, decorators and what a module
says outside of functions: constants there are mostly sizes that steer speed.
"""

import itertools
import re
from collections.abc import Iterator

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, ExpressionContext, ExpressionContextProvider, MetadataWrapper

from .mutants_text import Edit

ORDER = {cst.LessThan: "<=", cst.LessThanEqual: "<", cst.GreaterThan: ">=", cst.GreaterThanEqual: ">"}
OPPOSITE = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "argmax": "argmin",
            "argmin": "argmax", "fmin": "fmax", "fmax": "fmin", "amax": "amin", "nanmax": "nanmin"}  # fmt: skip
WIDTHS = {"float32": "float64", "float64": "float32"}
STALE = {"zeros": "empty", "zeros_like": "empty_like"}
# Arguments whose order does not matter, or not to the result.
SYMMETRIC = {"min", "max", "minimum", "maximum", "add", "multiply", "isinstance", "getattr", "hasattr", "zip", "print",
             "elements"}  # fmt: skip
# What cannot be taken for a number or an array: swapped, it is found out at once, by anybody.
OF_ITS_OWN = re.compile(r"^_[a-z]|dtype$|^[\"'\[(]|^SOURCE$|^ctx$")
BY_ONE = (("border", re.compile(r"^(padding|pad(_[yx])?)$")), ("dilation", re.compile(r"dilation$")),
          ("stride", re.compile(r"(stride|pitch|step)$")))  # fmt: skip
SIDES = {0: 1, 1: 0, 2: 3, 3: 2}
LEFT_ALONE = (cst.Annotation, cst.Decorator, cst.Raise, cst.Assert, cst.Import, cst.ImportFrom, cst.FormattedString,
              cst.Param, cst.Global, cst.Del, cst.ExceptHandler)  # fmt: skip
NO_NUMBERS = (cst.SimpleString, cst.FormattedString, cst.ConcatenatedString, cst.List, cst.Tuple, cst.ListComp)
QUIET = re.compile(r"^(_?require\w*|warn|_mistake|TypeError|ValueError)$")


def edits(source: str) -> Iterator[Edit]:
    """All edits of a module."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    finder = _Finder(source, wrapper.resolve(ByteSpanPositionProvider), wrapper.resolve(ExpressionContextProvider))
    finder.visit(wrapper.module, [])
    return iter(finder.found)


class _Finder:
    def __init__(self, source, spans, contexts):
        self.data, self.spans, self.contexts = source.encode(), spans, contexts
        self.found: list[Edit] = []
        self.scopes: list[tuple[str, int, int]] = []
        self.around: list[cst.CSTNode] = []
        self.imported = set(re.findall(r"\bempty\b|\bempty_like\b", source))

    # --- the walk -----------------------------------------------------------------------------------------------------

    def visit(self, node, around):
        if isinstance(node, LEFT_ALONE) or _is_text(node) or _is_quiet(node):
            return
        scoped = isinstance(node, (cst.FunctionDef, cst.ClassDef))
        if scoped:
            self.scopes.append((node.name.value, *self._span(node)))
        if any(isinstance(a, cst.FunctionDef) for a in around):
            self.around = around
            method = getattr(self, f"on_{type(node).__name__.lower()}", None)
            if method:
                method(node)
        parts = [node.body] if scoped else node.children
        for child in parts:
            self.visit(child, [*around, node])
        if scoped:
            self.scopes.pop()

    def _span(self, node):
        span = self.spans[node]
        return span.start, span.start + span.length

    def _text(self, node, whole=True):
        """A node's source, with its parentheses if it has some."""
        start, end = self._span(node)
        text = self.data[start:end].decode()
        return f"({text})" if whole and getattr(node, "lpar", ()) else text

    def _add(self, operator, node, text):
        """`node` becomes `text`."""
        self._add_span(operator, *self._span(node), text)

    def _add_span(self, operator, start, end, text):
        _, first, last = self.scopes[-1]
        name = ".".join(scope[0] for scope in self.scopes)
        # Positions in the text, not in its bytes.
        places = (len(self.data[:place].decode()) for place in (start, end, first, last))
        at, to, first, last = places
        self.found.append(Edit(operator, at, to, text, name, first, last))

    # --- expressions --------------------------------------------------------------------------------------------------

    def on_binaryoperation(self, node):
        left, right, kind = node.left, node.right, type(node.operator)
        if isinstance(left, NO_NUMBERS) or isinstance(right, NO_NUMBERS):
            return
        a, b = self._text(left), self._text(right)
        if kind is cst.Add:
            self._add("sign", node, f"{a} - {b}")
        elif kind is cst.Subtract:
            self._add("sign", node, f"{a} + {b}")
        elif kind is cst.Multiply:
            self._add("factor", node, f"{a} + {b}" if self._is_whole(node) else f"({a} + {b})")
        elif kind is cst.FloorDivide and (tiles := self._rounded_up(left, right)):
            self._add("tile", node, f"{tiles} // {b}")

    def _is_whole(self, node):
        """Whether no operator is next to an expression."""
        return bool(node.lpar) or not isinstance(self.around[-1], (cst.BinaryOperation, cst.UnaryOperation))

    def _rounded_up(self, left, right):
        """What is divided in `(a + b - 1) // b`, or ""."""
        if not (_is_binary(left, cst.Subtract) and left.lpar and self._text(left.right) == "1"):
            return ""
        inner = left.left
        fits = _is_binary(inner, cst.Add) and self._text(inner.right) == self._text(right)
        return self._text(inner.left) if fits else ""

    def on_unaryoperation(self, node):
        if not isinstance(node.operator, cst.Minus):
            return
        inner = node.expression
        divided = inner.left if _is_binary(inner, cst.FloorDivide) and inner.lpar else None
        if isinstance(divided, cst.UnaryOperation) and isinstance(divided.operator, cst.Minus):
            self._add("tile", node, f"({self._text(divided.expression)} // {self._text(inner.right)})")
        elif not isinstance(inner, cst.Integer) or not isinstance(self.around[-1], (cst.Index, cst.Slice)):
            self._add("sign", node, self._text(inner))

    def on_comparison(self, node):
        if len(node.comparisons) != 1:
            return
        (target,) = node.comparisons
        kind, left, right = type(target.operator), self._text(node.left), self._text(target.comparator)
        parent = self.around[-1]
        if kind in ORDER and not (isinstance(parent, cst.IfExp) and self._chooses(parent, left, right)):
            self._add("border", node, f"{left} {ORDER[kind]} {right}")
        elif kind is cst.Is and right == "None":
            self._add("branch", node, "False")
        elif kind is cst.IsNot and right == "None":
            self._add("branch", node, "True")
        if right == "0" and kind in (cst.Equal, cst.GreaterThan, cst.NotEqual):
            self._add("branch", node, "False" if kind is cst.Equal else "True")

    def _chooses(self, parent, left, right):
        """Whether it is `a if a < b else b`, where the border makes no difference."""
        return {left, right} == {self._text(parent.body), self._text(parent.orelse)}

    def on_if(self, node):
        self._condition(node.test)

    def on_ifexp(self, node):
        self._condition(node.test)

    def _condition(self, test):
        text = self._text(test)
        self._add("negate", test, text[4:] if text.startswith("not ") and " and " not in text and " or " not in text
                  else f"not ({self._text(test, whole=False)})")  # fmt: skip
        if re.search(r"\.size$|^len\(|channels$|^not \w*(channels|size)\b", text):
            self._add("branch", test, str(not text.startswith("not ")))

    def on_call(self, node):
        name = _last_name(node.func)
        part = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
        if name in OPPOSITE:
            self._add("min/max", part, OPPOSITE[name])
        if name in STALE and (isinstance(node.func, cst.Attribute) or STALE[name] in self.imported):
            self._add("stale", part, STALE[name])
        if name == "range":
            self._range(node)
        plain = [arg for arg in node.args if arg.keyword is None and not arg.star]
        if name not in SYMMETRIC and name != "range":
            values = [arg.value for arg in plain]
            self._swap(values[1:] if name == "fma" else values)
        if name == "save_for_backward":
            self._saved(plain)

    def _range(self, node):
        values = [arg.value for arg in node.args]
        end = values[0] if len(values) == 1 else values[1]
        self._add("bounds", end, f"{self._text(end)} - 1")
        if len(values) > 1:
            self._add("bounds", values[0], f"{self._text(values[0])} + 1")
        else:
            self._add("bounds", end, f"1, {self._text(end)}")

    def _swap(self, values):
        """Two neighbours in a list of expressions are swapped."""
        for a, b in itertools.pairwise(values):
            first, second = self._text(a), self._text(b)
            if first != second and not OF_ITS_OWN.search(first) and not OF_ITS_OWN.search(second):
                (start, after), (before, end) = self._span(a), self._span(b)
                start, end = start - bool(a.lpar), end + bool(b.lpar)
                between = self.data[after + bool(a.lpar) : before - bool(b.lpar)].decode()
                self._add_span("swap", start, end, f"{second}{between}{first}")

    def _saved(self, args):
        names = [self._text(arg.value) for arg in args]
        function = next(a for a in reversed(self.around) if isinstance(a, cst.FunctionDef))
        parameters = [p.name.value for p in function.params.params[1:]]
        out = ["out"] if re.search(r"\bout\b", self._text(function)) else []
        others = [*out, *parameters, *names]
        for arg, name in zip(args, names, strict=True):
            other = next((o for o in others if o not in names), None) or next((o for o in names if o != name), None)
            if other:
                self._add("saved", arg.value, other)

    def on_subscript(self, node):
        indices = [e.slice.value for e in node.slice if isinstance(e.slice, cst.Index)]
        if len(indices) == len(node.slice):
            self._swap(indices)
        if _last_name(node.value) == "shape" and len(indices) == 1 and isinstance(indices[0], cst.Integer):
            axis = int(indices[0].value)
            if axis in SIDES:
                self._add("axis", indices[0], str(SIDES[axis]))

    def on_slice(self, node):
        if node.lower is not None:
            self._add("bounds", node.lower, f"{self._text(node.lower)} + 1")
        if node.upper is not None:
            self._add("bounds", node.upper, f"{self._text(node.upper)} - 1")

    def on_arg(self, node):
        if node.keyword is not None and node.keyword.value == "axis":
            if isinstance(node.value, cst.Integer):
                axis = int(node.value.value)
                self._add("axis", node.value, str(axis - 1 if axis else 1))
            elif isinstance(node.value, cst.Tuple) and len(node.value.elements) > 1:
                kept = ", ".join(self._text(e.value) for e in node.value.elements[:-1])
                self._add("axis", node.value, f"{kept}," if node.value.lpar else f"({kept},)")

    def on_name(self, node):
        if self.contexts.get(node) is ExpressionContext.LOAD and not _is_called(node, self.around[-1]):
            parent = self.around[-1]
            if isinstance(parent, cst.Attribute) or (isinstance(parent, cst.Arg) and parent.keyword is node):
                return
            for operator, pattern in BY_ONE:
                if pattern.search(node.value):
                    self._add(operator, node, f"({node.value} + 1)")

    def on_attribute(self, node):
        name = node.attr.value
        if name in WIDTHS and self._text(node.value) == "np":
            self._add("dtype", node.attr, WIDTHS[name])
        if self.contexts.get(node) is ExpressionContext.LOAD and not _is_called(node, self.around[-1]):
            for operator, pattern in BY_ONE:
                if pattern.search(name):
                    self._add(operator, node, f"({self._text(node)} + 1)")

    def on_simplestring(self, node):
        if node.value[1:-1] in WIDTHS:
            self._add("dtype", node, f'"{WIDTHS[node.value[1:-1]]}"')

    def on_integer(self, node):
        self._add("constant", node, str(int(node.value, 0) + 1))

    def on_float(self, node):
        value = float(node.value)
        self._add("constant", node, repr(2 * value) if value else "1.0")

    # --- statements ---------------------------------------------------------------------------------------------------

    def on_augassign(self, node):
        target, value = self._text(node.target), self._text(node.value)
        if isinstance(node.operator, cst.AddAssign):
            self._add("accumulate lost", node, f"{target} = {value}")
            self._add("sign", node, f"{target} -= {value}")
        elif isinstance(node.operator, cst.SubtractAssign):
            self._add("sign", node, f"{target} += {value}")
        self._add("statement", node, "pass")

    def on_assign(self, node):
        target = node.targets[0].target
        if len(node.targets) != 1:
            return
        if isinstance(target, cst.Subscript):
            value = self._text(node.value)
            if re.fullmatch(r"(np\.float\d\d\()?0(\.0)?\)?", value):
                self._add("stale", node, "pass")
            else:
                self._add("accumulate added", node, f"{self._text(target)} += {value}")
                self._add("statement", node, "pass")
        elif isinstance(target, cst.Attribute):
            self._add("statement", node, "pass")
        if isinstance(target, cst.Tuple):
            self._swap([e.value for e in target.elements if isinstance(e, cst.Element)])
        elif isinstance(node.value, cst.Tuple):
            self._swap([e.value for e in node.value.elements if isinstance(e, cst.Element)])

    def on_return(self, node):
        if isinstance(node.value, cst.Tuple):
            self._swap([e.value for e in node.value.elements if isinstance(e, cst.Element)])

    def on_expr(self, node):
        # A function that does nothing else would do nothing at all.
        alone = isinstance(self.around[-2], cst.IndentedBlock) and len(_without_docstring(self.around[-2].body)) == 1
        if isinstance(node.value, cst.Call) and not QUIET.match(_last_name(node.value.func)) and not alone:
            self._add("stale" if _last_name(node.value.func) == "fill" else "statement", node, "pass")


def _is_text(node):
    """Whether it is a docstring, or a comment's."""
    return isinstance(node, cst.Expr) and isinstance(node.value, (cst.SimpleString, cst.ConcatenatedString))


def _without_docstring(statements):
    return [s for s in statements if not (isinstance(s, cst.SimpleStatementLine) and _is_text(s.body[0]))]


def _is_quiet(node):
    """Whether it checks arguments."""
    return isinstance(node, cst.Call) and bool(QUIET.match(_last_name(node.func)))


def _last_name(node):
    """`c` of `a.b.c`."""
    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else ""


def _is_binary(node, operator):
    return isinstance(node, cst.BinaryOperation) and isinstance(node.operator, operator)


def _is_called(node, parent):
    return isinstance(parent, cst.Call) and parent.func is node
