"""Seeded bugs in CUDA C, found by its tokens: for kernels as this project writes them, with spaces around operators
that have two sides, and none inside the brackets of templates."""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from .mutants_text import Edit

TOKEN = re.compile(
    r"""(?P<space>(?:\s|\\\n|//[^\n]*|/\*.*?\*/)+)
      | (?P<directive>\#[ ]*(?:pragma|include|if|ifdef|ifndef|else|elif|endif|undef|line|error)\b(?:[^\n\\]|\\\n|\\.)*)
      | (?P<define>\#[ ]*define[ ]+\w+(?:\([^)]*\))?)
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>(?:0[xX][0-9a-fA-F]+|\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+|\d+(?:[eE][-+]?\d+)?)[uUlLfF]*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<sign><<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\#\#|::|.)""",
    re.VERBOSE | re.DOTALL,
)
TYPES = {"int", "int64", "uint64", "unsigned", "real", "double", "float", "bool", "char", "auto", "const", "void", "T",
         "size_t", "short", "typename", "struct", "template", "static", "inline", "extern", "return"}  # fmt: skip
ORDER = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
OPPOSITE = {"min": "max", "max": "min", "fmin": "fmax", "fmax": "fmin", "fminf": "fmaxf", "fmaxf": "fminf"}
BY_ONE = (("border", re.compile(r"^(padding|pad(_[yx])?)$")), ("dilation", re.compile(r"dilation$")),
          ("stride", re.compile(r"(stride|pitch|step)$")))  # fmt: skip
SIDES = {"height": "width", "width": "height", "out_height": "out_width", "out_width": "out_height", "kh": "kw",
         "kw": "kh", "rows": "columns", "columns": "rows"}  # fmt: skip
PLACES = {"blockIdx", "threadIdx", "blockDim", "gridDim"}
# What an expression may begin after.
BEFORE = {"(", "[", "{", ",", "=", "?", ":", "return", "+", "-", "*", "/", "<", ">", "<=", ">=", "&&", "||"}
# What is on either side of a name that stands for its value.
AROUND = BEFORE | {")", "]", "%", "==", "!=", ";", "+=", "-=", ".", "|"}
NO_CALLS = {"if", "for", "while", "switch", "return", "sizeof", "min", "max", "defined", "__launch_bounds__", "fmin",
            "fmax", "AT", "CHOSEN"}  # fmt: skip
CHOICE = re.compile(
    r"([\w.]+(?:\[[^]]*\])?) [<>]=? ([\w.]+(?:\[[^]]*\])?) \? ([^:?]+?) : ([\w.\[\]]+)"
)  # a < b ? a : b
OPEN, CLOSE = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def tokens(source: str) -> list[Token]:
    """All but spaces and comments."""
    return [Token(m.lastgroup, m[0], m.start(), m.end()) for m in TOKEN.finditer(source) if m.lastgroup != "space"]


def edits(source: str) -> Iterator[Edit]:
    """All edits of a file."""
    finder = _Finder(source)
    for _, first, last in finder.scopes:
        inside = [k for k, token in enumerate(finder.tokens) if first <= token.start and token.end <= last]
        finder.names = {finder.tokens[k].text for k in inside}
        for k in inside:
            finder.at(k)
    return iter(finder.found)


class _Finder:
    def __init__(self, source):
        self.source, self.tokens = source, tokens(source)
        self.partner = _partners(self.tokens)
        self.opener = {close: open_ for open_, close in self.partner.items()}
        self.scopes = _scopes(self.tokens, self.partner, source)
        self.names = set()  # those of the scope that is looked at
        self.found: list[Edit] = []
        self.loops = {}  # tokens inside the parentheses of a `for`: the index of the first
        for k, token in enumerate(self.tokens):
            if token.text == "for" and k + 1 in self.partner:
                self.loops.update(dict.fromkeys(range(k + 2, self.partner[k + 1]), k + 2))

    def _text(self, k):
        return self.tokens[k].text if 0 <= k < len(self.tokens) else ""

    def _add(self, operator, first, last, text):
        """Tokens `first` to `last`, both included, become `text`."""
        self._add_span(operator, self.tokens[first].start, self.tokens[last].end, text)

    def _add_span(self, operator, start, end, text):
        for name, first, last in self.scopes:
            if first <= start and end <= last:
                self.found.append(Edit(operator, start, end, text, name, first, last))
                return

    def at(self, k):
        """All edits that begin with token k."""
        kind, text, start, end = self.tokens[k]
        if kind == "number":
            self._number(k)
        elif kind == "name":
            self._name(k)
        elif kind == "sign":
            spaced = self.source[start - 1 : start].isspace() and self.source[end : end + 1].isspace()
            if text in ORDER and spaced and self._text(k - 1) not in ("template", "operator"):
                self._comparison(k)
            elif text in "+-" and spaced:
                self._add("sign", k, k, "-" if text == "+" else "+")
            elif text == "*" and spaced:
                self._add("factor", k, k, "+")
            elif text == "-" and not self.source[end : end + 1].isspace() and self._begins(k):
                self._add("sign", k, k, "")
            elif text == "+=" and k not in self.loops:
                self._add("accumulate lost", k, k, "=")
                self._add("sign", k, k, "-=")
            elif text == "=" and k not in self.loops and self._text(k - 1) == "]" and self._text(k + 1) != "{":
                self._assignment(k)
            elif text == "/" and self._text(k - 1) == ")":
                self._tile(k)
            elif text == "?":
                self._choice(k)
            elif text == "[":
                self._indices(k)

    def _begins(self, k):
        """Whether an expression begins with token k."""
        return self._text(k - 1) in BEFORE

    def _number(self, k):
        text = self._text(k)
        if text[:2].lower() == "0x" or "__launch_bounds__" in (self._text(k - 2), self._text(k - 4)):
            return
        if re.search(r"[.eE]", text):
            value, tail = re.fullmatch(r"([^fFlL]*)([fFlL]*)", text).groups()
            self._add("constant", k, k, f"{2 * float(value)}{tail}" if float(value) else f"1.0{tail}")
        else:
            value, tail = re.fullmatch(r"(\d+)(\D*)", text).groups()
            self._add("constant", k, k, f"{int(value) + 1}{tail}")

    def _name(self, k):
        text, before, after = self._text(k), self._text(k - 1), self._text(k + 1)
        if text in ("__syncthreads", "__syncwarp") and after == "(":
            end = self.partner[k + 1]
            self._add("barrier", k, end, "")
        elif text == "double" and after != "operator" and before not in ("typedef",):
            self._add("dtype", k, k, "real")
        elif text in OPPOSITE and after == "(":
            self._add("min/max", k, k, OPPOSITE[text])
        elif text == "if" and after == "(":
            self._condition(k + 1)
        elif text == "for" and after == "(":
            self._loop(k + 1)
        elif text in ("return", "continue", "break") and after == ";":
            self._add("statement", k, k, "")
        elif text in ("x", "y") and before == "." and self._text(k - 2) in PLACES:
            self._add("axis", k, k, "y" if text == "x" else "x")
        declared = before in TYPES or before in ("&", ">") or (before == "*" and self._text(k - 2) in TYPES)
        if after == "(" and text not in NO_CALLS and (not declared or before == "return"):
            self._call(k)
        if before in TYPES - {"return"} or (before in ("*", ",") and self._text(k - 2) in TYPES) or after == "(":
            return
        assigned = after in {"=", "+=", "-=", "*=", "/=", "++", "--", ">>=", "<<="} or before in ("++", "--", "&")
        if not assigned and self._is_used(k):
            if SIDES.get(text) in self.names:
                self._add("axis", k, k, SIDES[text])
            for operator, pattern in BY_ONE:
                if pattern.search(text):
                    first = k - 2 if before in (".", "->") else k
                    self._add_span(operator, self.tokens[first].start, self.tokens[k].end,
                                   f"({self.source[self.tokens[first].start : self.tokens[k].end]} + 1)")  # fmt: skip

    def _is_used(self, k):
        """Whether a name stands for its value: it is not declared, nor a parameter of a macro or a function."""
        return {self._text(k - 1), self._text(k + 1)} <= AROUND and not self._is_declared(k)

    def _is_declared(self, k):
        """Whether the part between commas or brackets around token k names a type, as a declaration does."""
        first = k
        while self._text(first - 1) not in {",", "(", ";", "{", "}", ""}:
            first -= 1
        return self._text(first) in TYPES - {"return"} and self._text(first + 1) not in ("(", "=")

    def _comparison(self, k):
        text = self._text(k)
        if k in self.loops and self._text(k + 1) == "0":
            return
        choice = CHOICE.match(self.source, self._word(k - 1))
        if choice and {choice[1], choice[2]} == {choice[3], choice[4]}:
            # A minimum or a maximum: its border makes no difference.
            self._add("min/max", k, k, {"<": ">", ">": "<"}[text[0]] + text[1:])
        else:
            self._add("border", k, k, ORDER[text])

    def _word(self, k):
        """Where the name begins that ends with token k, with what it is a part of."""
        while self._text(k - 1) in (".", "->"):
            k -= 2
        return self.tokens[k].start

    def _condition(self, open_):
        close = self.partner[open_]
        inside = self.source[self.tokens[open_].end : self.tokens[close].start]
        self._add("negate", open_, close, f"(!({inside}))")
        if close == open_ + 2 and self.tokens[open_ + 1].kind == "name":
            self._add("branch", open_ + 1, open_ + 1, "true")

    def _choice(self, k):
        """`pointer ? a : b`: what is done without one is dropped."""
        if self.tokens[k - 1].kind == "name" and self._text(k - 2) in BEFORE - {"<", ">", "<=", ">=", "&&", "||"}:
            self._add("branch", k - 1, k - 1, "true")
            self._add("negate", k - 1, k - 1, f"!{self._text(k - 1)}")

    def _loop(self, open_):
        close = self.partner[open_]
        depth_one = [k for k in range(open_ + 1, close) if self._depth(open_, k) == 0]
        ends = [k for k in depth_one if self._text(k) == ";"]
        if len(ends) != 2:
            return
        begin = [k for k in depth_one if self._text(k) == "=" and k < ends[0]]
        if begin:
            stop = next(k for k in depth_one if k > begin[-1] and self._text(k) in (";", ","))
            if self._text(begin[-1] + 1) == "0" and stop == begin[-1] + 2:
                self._add("bounds", begin[-1] + 1, begin[-1] + 1, "1")
            elif self.tokens[begin[-1] + 1].start > 0:
                self._add_span("bounds", self.tokens[stop].start, self.tokens[stop].start, " + 1")
        tests = [k for k in depth_one if ends[0] < k < ends[1] and self._text(k) in ("<", "<=")]
        if tests:
            self._add_span("bounds", self.tokens[ends[1]].start, self.tokens[ends[1]].start, " - 1")

    def _depth(self, open_, k):
        return sum(1 for a, b in self.partner.items() if open_ < a < k < b)

    def _parts(self, open_):
        """(first, last) token of each part between the commas inside brackets."""
        parts, first, k, close = [], open_ + 1, open_ + 1, self.partner[open_]
        while k < close:
            if self._text(k) == ",":
                parts.append((first, k - 1))
                first = k + 1
            k = self.partner[k] + 1 if k in self.partner else k + 1
        return [*parts, (first, close - 1)]

    def _call(self, k):
        parts = self._parts(k + 1) if k + 1 in self.partner else []
        for first, last in parts:
            declared = self._text(first) in TYPES and self._text(first + 1) != "("
            if last < first or declared or self.tokens[first].kind == self.tokens[first + 1].kind == "name":
                return  # parameters
        self._swap(parts)
        alone = self._text(k - 1) in (";", "{", "}") and self._text(self.partner[k + 1] + 1) == ";"
        if alone and self._text(k) not in ("__syncthreads", "__syncwarp"):
            self._add("statement", k, self.partner[k + 1], "")

    def _swap(self, parts):
        for (a, b), (c, d) in itertools.pairwise(parts):
            first, second = (self.source[self.tokens[i].start : self.tokens[j].end] for i, j in ((a, b), (c, d)))
            if first != second:
                between = self.source[self.tokens[b].end : self.tokens[c].start]
                self._add("swap", a, d, f"{second}{between}{first}")

    def _indices(self, k):
        close = self.partner.get(k, -2)
        if self._text(close + 1) == "[" and self.tokens[k - 1].kind == "name" and not self._is_declared(k - 1):
            pairs = (k, close), (close + 1, self.partner[close + 1])
            a, b = (self.source[self.tokens[i].start : self.tokens[j].end] for i, j in pairs)
            if a != b:
                self._add("swap", k, self.partner[close + 1], b + a)

    def _assignment(self, k):
        """An element is written."""
        first = k - 1
        while self._text(first) in CLOSE:
            first = self.opener[first]
            if self._text(first) == "[" or self.tokens[first - 1].kind == "name":
                first -= 1
            while self._text(first - 1) in (".", "->"):
                first -= 2
        last = k
        while self._text(last) not in {";", ",", ""}:
            last = self.partner.get(last, last) + 1
        if self._text(last) not in (";", ",") or self._text(first) in TYPES:
            return
        value = self.source[self.tokens[k + 1].start : self.tokens[last - 1].end]
        nothing = "0" if self._text(first - 1) == "," else ""
        if re.fullmatch(r"(real\()?0\)?", value):
            self._add("stale", first, last - 1, nothing)
        else:
            self._add("accumulate added", k, k, "+=")
            if self._text(last) == ";":
                self._add("statement", first, last - 1, nothing)

    def _tile(self, k):
        """`(a + b - 1) / b`"""
        close = k - 1
        open_ = self.opener.get(close)
        if open_ is None or self._text(close - 1) != "1" or self._text(close - 2) != "-":
            return
        plus = [i for i in range(open_ + 1, close - 2) if self._text(i) == "+" and self._depth(open_, i) == 0]
        if plus:
            self._add("tile", plus[-1], close - 1, "")


def _partners(tokens):
    """The index of the closing bracket of each opening one."""
    partners, stack = {}, []
    for k, token in enumerate(tokens):
        if token.kind == "sign" and token.text in OPEN:
            stack.append(k)
        elif token.kind == "sign" and token.text in CLOSE and stack:
            partners[stack.pop()] = k
    return partners


def _scopes(tokens, partner, source):
    """(name, first, last) of each function, each struct and each macro that has a body of its own."""
    scopes, k, first = [], 0, 0
    while k < len(tokens):
        token = tokens[k]
        if token.kind == "define":
            end = _end_of_directive(source, token.end)
            name = re.search(r"define +(\w+)", token.text)[1]
            body = source[token.end : end].replace("\\\n", " ").strip()
            if "(" in token.text or not re.fullmatch(r"\(?[\w. +*/-]*\)?( *//.*)?", body):
                scopes.append((name, token.start, end))
            while k < len(tokens) and tokens[k].start < end:
                k += 1
            first = k
        elif token.kind == "directive":
            k += 1
            first = k
        elif token.text == "{" and k in partner:
            if tokens[k - 1].text in ("=",) or any(t.text == "=" for t in tokens[first:k]):
                k = partner[k] + 1  # a table
                continue
            scopes.append((_name_of(tokens[first:k]), tokens[first].start, tokens[partner[k]].end))
            k = partner[k] + 1
            first = k
        else:
            if token.text == ";":
                first = k + 1
            k += 1
    return scopes


def _end_of_directive(source, start):
    end = start
    while True:
        end = source.find("\n", end)
        if end < 0:
            return len(source)
        if not source[start:end].endswith("\\"):
            return end
        end += 1


def _name_of(head):
    """The name of the function or struct whose text begins with these tokens."""
    for a, b in itertools.pairwise(head):
        if a.text in ("struct", "namespace"):
            return b.text
        if b.text == "(" and a.kind == "name" and a.text not in ("__launch_bounds__", "__align__"):
            return a.text
    return head[0].text if head else "?"
