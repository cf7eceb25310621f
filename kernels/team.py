"""A team of threads for compiled code: a loop is divided without a word of Python.

    @njit(cache=True, nogil=True)
    def scale(x, factor, first, last):              # what one piece is: last of all its bounds
        for i in range(first, last):
            x[i] *= factor

    scaled = loop(scale)

    @njit(cache=True, nogil=True)
    def scale_all(team, pieces, n, *args):          # the whole: pieces of range(n), each to whoever is free
        run(team, pieces, n, scaled(args))

`threads.run(scale_all, n, x, factor)` calls it. Waking a thread that sleeps costs 40 µs on a virtual machine, half of
what many a layer takes; so the team's threads look for work for a while after the last before they go to sleep, and
yield the core to anybody else who wants it while they look. They never hold the interpreter, awake or asleep. Whoever
opens a region never waits for a thread that has not begun: it takes the pieces itself.

A thread begins with its own share of the pieces, the same from region to region, and goes on to those that others have
left: what a loop finds in its core's cache is what the loop before it put there.

The pieces depend on n and the number of threads alone, who computes one does not matter: results are the same from run
to run. A region opened inside another, or by a second Python thread, is computed by whoever opened it.

    team[OPEN]     bit 0: a region is open; from bit 1 on, how many threads are inside it
    team[TICKET]   counts the regions; a thread enters each once
    team[NEXT]     the next piece that nobody has taken, of the first share; those of the others 16 words apart each
    team[LOCK]     1 while a region is being computed
    team[LIMIT]    how many threads may be inside beside the one that opened it
    team[ASLEEP]   how many threads sleep, on the condition variable at team[MUTEX] and team[COND] (POSIX)
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinygen.kernels.jit import njit

# Words of 8 bytes; those that change hands lie in cache lines of their own.
OPEN, TICKET, LIMIT, BODY, CONTEXT, PIECES, N, LOCK, ASLEEP, LEAVE = 0, 16, 17, 18, 19, 20, 21, 32, 48, 49
MUTEX, COND, NEXT, LINE, MOST = 64, 80, 96, 16, 64
WORDS = NEXT + LINE * MOST

_WORD = ir.IntType(64)

_FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# LLVM's name and arguments of the instruction that says "this thread only waits"
_X86, _ARM = ("llvm.x86.sse2.pause", ()), ("llvm.aarch64.hint", (1,))
_RELAX = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}.get(platform.machine())


def _place(context, builder, kind, array, index):
    return builder.gep(context.make_helper(builder, kind, array).data, [index])


@intrinsic
def _load(typing, team, index):
    """team[index], and everything that was written before it."""

    def generate(context, builder, signature, args):
        return builder.load_atomic(_place(context, builder, signature.args[0], *args), "acquire", 8)

    return types.int64(team, types.intp), generate


@intrinsic
def _store(typing, team, index, value):
    """team[index] = value, after everything that was written before."""

    def generate(context, builder, signature, args):
        builder.store_atomic(args[2], _place(context, builder, signature.args[0], *args[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(team, types.intp, types.int64), generate


@intrinsic
def _add(typing, team, index, value):
    """team[index] += value in one go; returns what it was."""

    def generate(context, builder, signature, args):
        return builder.atomic_rmw("add", _place(context, builder, signature.args[0], *args[:2]), args[2], "seq_cst")

    return types.int64(team, types.intp, types.int64), generate


@intrinsic
def _swap(typing, team, index, old, new):
    """team[index] = new if it is `old`; whether it was."""

    def generate(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], *args[:2])
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "acq_rel", "acquire"), 1)

    return types.boolean(team, types.intp, types.int64, types.int64), generate


@intrinsic
def _relax(typing):
    """Tell the core that this thread is only waiting."""

    def generate(context, builder, signature, args):
        if _RELAX is not None:
            name, numbers = _RELAX
            word = ir.IntType(32)
            form = ir.FunctionType(ir.VoidType(), [word] * len(numbers))
            builder.call(cgutils.get_or_insert_function(builder.module, form, name), [word(k) for k in numbers])
        return context.get_dummy_value()

    return types.void(), generate


def _posix(name: str, *words: int, null: bool = False):
    """f(team): call the C library's function with the addresses of these words of the team, and NULL if asked."""

    @intrinsic
    def f(typing, team):
        def generate(context, builder, signature, args):
            values = [_place(context, builder, signature.args[0], args[0], _WORD(k)) for k in words]
            values += [ir.Constant(cgutils.voidptr_t, None)] * null
            form = ir.FunctionType(ir.IntType(32), [value.type for value in values])
            builder.call(cgutils.get_or_insert_function(builder.module, form, name), values)
            return context.get_dummy_value()

        return types.void(team), generate

    return f


_yield = _posix("sched_yield")
_make_mutex = _posix("pthread_mutex_init", MUTEX, null=True)
_make_condition = _posix("pthread_cond_init", COND, null=True)
_lock, _unlock = (_posix(f"pthread_mutex_{k}", MUTEX) for k in ("lock", "unlock"))
_wait, _wake = _posix("pthread_cond_wait", COND, MUTEX), _posix("pthread_cond_broadcast", COND)


def _lent(builder, kind: Any, value):
    """The arrays in a value without their reference counts: whoever opened the region keeps them alive. Threads that
    take slices of one array would otherwise count them in the same word, and wait for each other."""
    if isinstance(kind, types.Array):
        for field in (0, 1):  # who owns the memory, and its Python object
            value = builder.insert_value(value, ir.Constant(value.type.elements[field], None), field)
        return value
    if isinstance(kind, types.BaseTuple):
        for k, inner in enumerate(kind.types):  # type: ignore[attr-defined]
            value = builder.insert_value(value, _lent(builder, inner, builder.extract_value(value, k)), k)
    return value


def loop(body):
    """For use in compiled code: loop(body)((a, b, …)) is what `run` divides, calls of body(a, b, …, first, last).

    It is a pair of addresses, of a native function f(context, first, last) and of its context, the arguments, which lie
    on the stack of the function that makes the pair: it means nothing any more when that returns.
    """

    @intrinsic
    def bind(typing, args):
        inner = (*args.types, types.intp, types.intp)
        result = body.parts.result(inner)

        def generate(context, builder, signature, values):
            context.active_code_library.add_linking_library(result.library)
            form = ir.FunctionType(ir.VoidType(), [_WORD] * 3)
            piece = ir.Function(builder.module, form, builder.module.get_unique_name("piece"))
            piece.linkage = "internal"
            inside = ir.IRBuilder(piece.append_basic_block())
            where = inside.inttoptr(piece.args[0], context.get_value_type(args).as_pointer())
            values_ = inside.load(where)
            bound = [_lent(inside, kind, inside.extract_value(values_, k)) for k, kind in enumerate(args.types)]
            callee = context.declare_function(builder.module, result.fndesc)
            context.call_conv.call_function(inside, callee, types.none, inner, [*bound, *piece.args[1:]])
            inside.ret_void()
            pair = ir.Constant(ir.ArrayType(_WORD, 2), None)
            for k, pointer in enumerate((piece, cgutils.alloca_once_value(builder, values[0]))):
                pair = builder.insert_value(pair, builder.ptrtoint(pointer, _WORD), k)
            return pair

        return types.UniTuple(types.int64, 2)(args), generate

    return bind


@intrinsic
def _call(typing, function, context_, first, last):
    """function(context, first, last), for a pair that `loop` made."""

    def generate(context, builder, signature, args):
        form = ir.FunctionType(ir.VoidType(), [_WORD] * 3)
        builder.call(builder.inttoptr(args[0], form.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.intp, types.intp), generate


@njit(**_FLAGS)
def _take(team, me):
    """Compute pieces of the open region until none is left, those of share `me` first."""
    body, context, pieces, n, shares = team[BODY], team[CONTEXT], team[PIECES], team[N], team[LIMIT] + 1
    for s in range(shares):
        share = (me + s) % shares
        end = pieces * (share + 1) // shares
        while True:
            k: int = _add(team, NEXT + LINE * share, 1)
            if k >= end:
                break
            _call(body, context, n * k // pieces, n * (k + 1) // pieces)


@njit(**_FLAGS)
def _pause(team, turn):
    """Wait a moment; each 32nd time, let somebody else have the core."""
    if turn & 31 == 31:
        _yield(team)
    else:
        _relax()


@njit(**_FLAGS)
def run(team, pieces, n, pair):
    """Call what `loop` bound for `pieces` contiguous parts of range(n)."""
    function, context = pair
    if pieces <= 1 or not _swap(team, LOCK, 0, 1):
        for k in range(pieces):
            _call(function, context, n * k // pieces, n * (k + 1) // pieces)
        return
    team[BODY], team[CONTEXT], team[PIECES], team[N], shares = function, context, pieces, n, team[LIMIT] + 1
    for share in range(shares):
        team[NEXT + LINE * share] = pieces * share // shares
    _store(team, OPEN, 1)
    _add(team, TICKET, 1)
    if _load(team, ASLEEP):
        _lock(team)
        _wake(team)
        _unlock(team)
    _take(team, 0)
    _add(team, OPEN, -1)  # closed: nobody enters any more
    turn = 0
    while _load(team, OPEN):
        _pause(team, turn)
        turn += 1
    _store(team, LOCK, 0)


@njit(cache=True, **_FLAGS)
def found(team):
    """Make the mutex and the condition that the threads sleep on: once, before the first of them is there."""
    _make_mutex(team)
    _make_condition(team)


@njit(cache=True, **_FLAGS)
def dismiss(team):
    """Have `serve` return in all threads."""
    _store(team, LEAVE, 1)
    _lock(team)
    _wake(team)
    _unlock(team)


@njit(cache=True, **_FLAGS)
def serve(team, turns):
    """Help with every region that opens, until dismissed; sleep after so many turns without one."""
    seen, turn = -1, 0
    while not _load(team, LEAVE):
        state = _load(team, OPEN)
        if state & 1 and _load(team, TICKET) != seen and state >> 1 < team[LIMIT]:
            if _swap(team, OPEN, state, state + 2):
                seen = _load(team, TICKET)
                _take(team, (state >> 1) + 1)
                _add(team, OPEN, -2)
                turn = 0
        elif turn < turns:
            _pause(team, turn)
            turn += 1
        else:
            _lock(team)
            _add(team, ASLEEP, 1)
            ticket = _load(team, TICKET)
            if ticket == seen or not _load(team, OPEN) & 1:
                while _load(team, TICKET) == ticket and not _load(team, LEAVE):
                    _wait(team)
            _add(team, ASLEEP, -1)
            _unlock(team)
            turn = 0


@njit(cache=True, **_FLAGS)
def idle(team, turns):
    """What `serve` does for so many turns when nothing is to be done."""
    for turn in range(turns):
        if not _load(team, OPEN):
            _pause(team, turn)


def forget_stale(folder: Path) -> int:
    """Delete what Numba has cached of the kernels in this folder if any of their files has changed; returns how many.

    Numba compares a cached function with its own file alone, though functions of others are compiled into it, `run`
    above all: after an update of the one file, old and new code would work on one team.
    """
    files = sorted(folder.rglob("*.py"))
    facts = [(str(f.relative_to(folder)), f.stat().st_mtime_ns, f.stat().st_size) for f in files]
    digest, note = hashlib.sha256(repr(facts).encode()).hexdigest(), folder / "__pycache__" / "compiled_from"
    with contextlib.suppress(OSError):  # a folder that may not be written to holds no cache either
        if not note.exists() or note.read_text() != digest:
            stale = list(folder.rglob("__pycache__/*.nbi"))
            for index in stale:
                index.unlink(missing_ok=True)
            note.parent.mkdir(exist_ok=True)
            note.write_text(digest)
            return len(stale)
    return 0


forget_stale(Path(__file__).parent)  # all kernels import this file before they run
