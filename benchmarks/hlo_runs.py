"""The operations that a compiled TPU program runs: counts, cycles, kinds and source locations.

The TPU compiler annotates each operation with an estimate of its cycles for one run. Operations are
counted at the top level: a fusion, not its contents. The body of a loop counts once per iteration,
a conditional as its most expensive branch, a pair like copy-start and copy-done once. Copies that
run concurrently with the computation have no estimate.
"""

import math
import re
from typing import NamedTuple

from benchmarks.hlo import Computation, Frame, Instruction, Program

# Without cost: names for arrays, or for parts of tuples.
FREE = {
    *('parameter', 'constant', 'bitcast', 'tuple', 'get-tuple-element', 'after-all'),
    'partition-id',
}
MOVES = {
    *('copy', 'copy-start', 'copy-done', 'transpose', 'reshape', 'broadcast', 'iota', 'convert'),
    *('bitcast-convert', 'pad', 'slice', 'concatenate', 'dynamic-slice', 'dynamic-update-slice'),
    *('reverse', 'slice-start', 'slice-done'),
}
SAME = {'copy', 'bitcast', 'copy-start', 'copy-done', 'reshape', 'convert'}  # pass a scalar on


class Run(NamedTuple):
    """An operation and the number of times the program runs it."""

    instruction: Instruction
    computation: str
    times: int
    loop: str = ''  # an enclosing loop of unknown length, counted as 1
    assumed: int = 0  # cycles of an operation whose estimate overflows

    @property
    def cycles(self) -> int:
        return self.times * (self.instruction.cycles or self.assumed)


# The computations around an instruction, outermost first, each with the instruction that calls the
# next one.
Callers = list[tuple[Computation, Instruction]]


def runs(program: Program, bytes_per_cycle: float | None = None) -> list[Run]:
    """The operations that are run, in program order, without those that cost nothing.

    With `bytes_per_cycle`, the memory's bandwidth, an operation whose estimate overflows is assumed
    to take as long as reading its operands and writing its result.
    """
    found = _runs(program, program.entry, 1, [])
    if bytes_per_cycle is None:
        return found
    return [
        run._replace(assumed=int(_bytes(program, run) / bytes_per_cycle))
        if run.instruction.overflows
        else run
        for run in found
    ]


def _bytes(program, run):
    operands = program.computations[run.computation].instructions
    shapes = [operands[name].shape for name in run.instruction.operands if name in operands]
    return sum(map(size_in_bytes, (*shapes, run.instruction.shape)))


def size_in_bytes(shape: str) -> int:
    """Of an array or a tuple of arrays, from its text, such as 'bf16[8,2688]{1,0}'."""
    total = 0
    for kind, sizes in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', shape):
        bits = int(re.sub(r'\D', '', kind) or 8) if kind != 'bf16' else 16
        total += bits // 8 * math.prod(map(int, filter(None, sizes.split(','))))
    return total


def _runs(program: Program, name: str, times: int, callers: Callers) -> list[Run]:
    computation, found = program.computations[name], []
    for instruction in computation.instructions.values():
        opcode = instruction.opcode
        if opcode in FREE or _ends_a_pair(instruction, computation):
            continue
        here = [*callers, (computation, instruction)]
        if opcode == 'while':
            often = trip_count(program, here)
            for inner in instruction.called('body', 'condition'):
                inside = _runs(program, inner, times * (1 if often is None else often), here)
                unknown = instruction.name if often is None else ''
                found += [run._replace(loop=run.loop or unknown) for run in inside]
        elif opcode == 'conditional':
            roles = ('branch_computations', 'true_computation', 'false_computation')
            branches = [_runs(program, b, times, here) for b in instruction.called(*roles)]
            found += max(branches, key=lambda branch: sum(run.cycles for run in branch))
        elif opcode == 'call' or (opcode == 'async-start' and not instruction.cycles):
            for inner in instruction.called('to_apply', 'calls', 'called_computation'):
                found += _runs(program, inner, times, here)
        else:
            found.append(Run(instruction, name, times))
    return found


def trip_count(program: Program, callers: Callers) -> int | None:
    """The trip count of a loop, the last of `callers`; None if unknown.

    If the compiler does not state it, the loop must count up to a constant, as those of `lax.scan`
    and `lax.fori_loop` do.
    """
    outer, loop = callers[-1]
    if said := re.search(r'"?known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes):
        return int(said[1])
    body, condition = (program.computations[loop.called(x)[0]] for x in ('body', 'condition'))
    test = _scalar(condition, condition.root)
    if test is None or test.opcode != 'compare':
        return None
    counter = _scalar(condition, test.operands[0])
    index = None if counter is None else _of_the_state(condition, counter)
    if index is None or not re.search('direction=L[TE]', test.attributes):
        return None
    added = _scalar(body, _element(body, body.root, index))
    if added is None or added.opcode != 'add':
        return None
    parts = [_scalar(body, operand) for operand in added.operands]
    counters = [part is not None and _of_the_state(body, part) == index for part in parts]
    if sum(counters) != 1:
        return None
    first = _constant(program, outer, _element(outer, loop.operands[0], index), callers[:-1])
    last = _constant(program, condition, test.operands[1], callers)
    step = _constant(program, body, added.operands[counters.index(False)], callers)
    if first is None or last is None or step is None or step <= 0:
        return None
    last += 'direction=LE' in test.attributes
    return max(0, -(-(last - first) // step))


def _scalar(computation: Computation, name: str | None) -> Instruction | None:
    """The instruction that computes a scalar, looking through copies."""
    instruction = computation.instructions.get(name or '')
    while instruction is not None and instruction.opcode in SAME:
        instruction = computation.instructions.get(instruction.operands[0])
    return instruction


def _of_the_state(computation: Computation, instruction: Instruction) -> int | None:
    """The index of an element of a loop's state, in the loop's body or condition."""
    if instruction.opcode != 'get-tuple-element':
        return None
    if computation.instructions[instruction.operands[0]].opcode != 'parameter':
        return None
    found = re.search(r'index=(\d+)', instruction.attributes)
    return int(found[1]) if found else None


def _element(computation: Computation, name: str, index: int) -> str | None:
    """The name of a tuple's element."""
    instruction = computation.instructions[name]
    return instruction.operands[index] if instruction.opcode == 'tuple' else None


def _constant(program, computation, name: str | None, callers: Callers) -> int | None:
    """The value of an integer: a constant, here or passed into the loop and unchanged."""
    value = _scalar(computation, name)
    if value is None:
        return None
    if value.opcode == 'constant':
        return int(value.literal) if re.fullmatch(r'-?\d+', value.literal) else None
    index = _of_the_state(computation, value)
    if index is None or not callers or callers[-1][1].opcode != 'while':
        return None
    outer, loop = callers[-1]
    body = program.computations[loop.called('body')[0]]
    kept = _scalar(body, _element(body, body.root, index))
    if kept is None or _of_the_state(body, kept) != index:
        return None
    return _constant(program, outer, _element(outer, loop.operands[0], index), callers[:-1])


def _ends_a_pair(instruction: Instruction, computation: Computation) -> bool:
    """Whether it is the -done or -update of an operation already counted."""
    if not instruction.opcode.endswith(('-done', '-update')):
        return False
    start = computation.instructions.get(instruction.operands[0])
    return start is not None and (
        start.opcode.endswith('-start') or _ends_a_pair(start, computation)
    )


def opcodes(program: Program, instruction: Instruction) -> set[str]:
    """An operation's opcode, or those in a fusion; and 'window' for a kernel of many pixels."""
    if instruction.opcode != 'fusion':
        found = {instruction.opcode}
        size = re.search(r'window=\{size=([\dx]+)', instruction.attributes)
        return found | {'window'} if size and set(size[1]) - set('1x') else found
    found = set()
    for name in instruction.called('calls'):
        for inner in program.computations[name].instructions.values():
            found |= opcodes(program, inner)
    return found - FREE


def kind(program: Program, instruction: Instruction) -> str:
    """In words: 'convolution', 'matrix product', 'copy' for pure data movement, ..."""
    found = opcodes(program, instruction)
    if 'convolution' in found:  # TPUs write matrix products as convolutions too
        return 'convolution' if 'window' in found else 'matrix product'
    if 'dot' in found:
        return 'matrix product'
    named = ('custom-call', 'select-and-scatter', 'reduce-window', 'scatter', 'gather', 'sort')
    for name in (*named, 'reduce', 'all-reduce', 'all-gather', 'reduce-scatter'):
        if found & {name, f'{name}-start'}:
            return name
    return 'copy' if found <= MOVES else 'elementwise'


def stack(program: Program, run: Run) -> list[Frame]:
    """The source location of an operation, innermost first; [] if unknown.

    A copy added by the compiler has the location of its operand.
    """
    computation = program.computations[run.computation]
    instruction: Instruction | None = run.instruction
    for _ in range(20):
        if instruction is None:
            break
        inner = [instruction]
        for name in instruction.called('calls') if instruction.opcode == 'fusion' else []:
            called = program.computations[name]
            inner += [called.instructions[called.root], *called.instructions.values()]
        for each in inner:
            if found := _own_stack(program, each):
                return found
        if not instruction.operands:
            break
        instruction = computation.instructions.get(instruction.operands[0])
    return []


def _own_stack(program: Program, instruction: Instruction) -> list[Frame]:
    if number := re.search(r'stack_frame_id=(\d+)', instruction.attributes):
        return program.stacks.get(int(number[1]), [])
    found = re.search(r'source_file="([^"]*)"(?: source_line=(\d+))?', instruction.attributes)
    return [Frame(found[1], int(found[2] or 0))] if found else []


def weights(program: Program, run: Run) -> list[str]:
    """The parameters of the model that an operation reads, also by way of others that read nothing
    else: 'backbone.base1.spatial.kernel'. By the names that JAX gives to a program's arguments."""
    instructions = program.computations[run.computation].instructions
    found = [_only_weights(instructions, operand, {}) for operand in run.instruction.operands]
    return sorted(set().union(*(names for names in found if names)))


def _only_weights(instructions, name: str, known: dict) -> set[str] | None:
    """The parameters that an array is made of; None if it is made of other things too."""
    if name not in known:
        known[name] = None
        instruction = instructions.get(name)
        if instruction is None:
            return None
        if instruction.opcode == 'parameter':
            keys = re.findall(r"\[\\?'(\w+)\\?'\]", instruction.op_name)
            argument = instruction.op_name.split('[')[0].split('.')[-1]
            of_the_model = argument in ('params', 'batch_stats')
            known[name] = {'.'.join(keys)} if of_the_model else None
        elif instruction.opcode == 'constant' or instruction.operands:
            parts = [_only_weights(instructions, each, known) for each in instruction.operands]
            sure = [part for part in parts if part is not None]
            known[name] = set[str]().union(*sure) if len(sure) == len(parts) else None
    return known[name]
