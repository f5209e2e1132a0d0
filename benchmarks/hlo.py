"""Parses a compiled program (HLO text): its computations, operations and source locations.

    program = parse(compiled.as_text())

`benchmarks/hlo_runs.py` finds which operations run, and how often.
"""

import re
from typing import NamedTuple


class Instruction(NamedTuple):
    """One line of the program. `shape` has layouts; `attributes` is the text after the operands."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    literal: str  # the text in the parentheses, such as a constant's

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 without one."""
        return 0 if self.overflows else self._stated

    @property
    def overflows(self) -> bool:
        """Whether the estimate is the largest integer, as the compiler's is for some fusions."""
        return self._stated > 2**62

    @property
    def _stated(self) -> int:
        found = re.search(r'"estimated_cycles":"?(\d+)', self.attributes)
        return int(found[1]) if found else 0

    @property
    def op_name(self) -> str:
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ''

    def called(self, *roles: str) -> list[str]:
        """The computations that it references as one of `roles`: 'calls', 'body' and so on."""
        found = re.findall(rf'\b(?:{"|".join(roles)})=(%?[\w.\-]+|\{{[^}}]*\}})', self.attributes)
        return [name for text in found for name in re.findall(r'[\w.\-]+', text)]


class Computation(NamedTuple):
    instructions: dict[str, Instruction]
    root: str


class Frame(NamedTuple):
    """A location in the source code."""

    file: str
    line: int


class Program(NamedTuple):
    computations: dict[str, Computation]
    entry: str
    stacks: dict[int, list[Frame]]  # by number of the stack frame, innermost first


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`."""
    computations, entry, inside = {}, '', None
    for line in text.splitlines():
        head = re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{\s*$', line)
        if head:
            inside = head[2]
            computations[inside] = Computation({}, '')
            entry = inside if head[1] else entry
        elif line.startswith('}'):
            inside = None
        elif inside and (match := re.match(r'\s+(ROOT )?%?([\w.\-]+) = ', line)):
            instruction = _instruction(match[2], line[match.end() :])
            computations[inside].instructions[match[2]] = instruction
            if match[1]:
                computations[inside] = computations[inside]._replace(root=match[2])
    return Program(computations, entry, _stacks(text))


def _instruction(name: str, text: str) -> Instruction:
    """Parses `f32[2]{0} add(%a, %b), attributes`."""
    end = _closing(text, 0) if text.startswith('(') else text.index(' ')
    shape, text = text[:end], text[end:].lstrip()
    start = text.index('(')
    end = _closing(text, start)
    literal = text[start + 1 : end - 1]
    operands = tuple(re.findall(r'%([\w.\-]+)', literal))
    return Instruction(name, shape, text[:start], operands, text[end:], literal)


def _closing(text: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r'[()]', text[start:]):
        depth += 1 if match[0] == '(' else -1
        if not depth:
            return start + match.end()
    return len(text)


def _stacks(text: str) -> dict[int, list[Frame]]:
    """The tables of source locations before the computations."""
    files = dict(re.findall(r'^(\d+) "(.*)"$', _table(text, 'FileNames'), re.M))
    places = {
        number: Frame(files.get(file, ''), int(line))
        for number, file, line in re.findall(
            r'^(\d+) \{file_name_id=(\d+).*?\bline=(\d+)', _table(text, 'FileLocations'), re.M
        )
    }
    frames = re.findall(
        r'^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?',
        _table(text, 'StackFrames'),
        re.M,
    )
    # The first frame has no parent, so its entry shows whether parents are numbered from 0 or 1.
    none = int(frames[0][2] or 0) if frames else 0
    found: dict[int, list[Frame]] = {0: []}
    for number, place, parent in frames:
        above = found.get(int(parent or none) - none, [])
        found[int(number)] = [*([places[place]] if place in places else []), *above]
    return found


def _table(text: str, title: str) -> str:
    found = re.search(rf'^{title}\n((?:\d+ .*\n)*)', text, re.M)
    return found[1] if found else ''
