"""Numba's njit, that turns a function into machine code once: with what Python calls.

Numba compiles each function by itself, with an entrance for Python and one for C, before another calls it, and then
once more as a part of that other. Most functions here are only ever parts. So a function that compiled code calls is
taken as far as LLVM's intermediate code, which the outermost caller's compilation takes in and optimises; it becomes
machine code of its own only if Python calls it. A first training step would wait twice as long otherwise.
"""

from __future__ import annotations

from typing import Any, cast

import numba
from numba.core import compiler, typing
from numba.core.compiler_lock import global_compiler_lock


def _library(context, name: str):
    """A code library that is neither optimised nor loaded: for linking into others."""
    library = context.codegen().create_library(name)

    def keep() -> None:
        library._finalize_dynamic_globals()
        library._finalized = True

    library._optimize_final_module, library._finalize_final_module = lambda: None, keep
    return library


class _Parts:
    """What compiled code has asked of one function: its results by the types of its arguments."""

    def __init__(self, function):
        self.function, self.results, self.signatures = function, {}, []

    def result(self, args: tuple) -> Any:
        """Numba's CompileResult for these types, without machine code."""
        if args not in self.results:
            with global_compiler_lock:
                function, flags = self.function, cast(Any, compiler.Flags())
                function.targetdescr.options.parse_as_flags(flags, function.targetoptions)
                flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
                context = function.targetdescr.target_context
                made = compiler.compile_extra(function.targetdescr.typing_context, context, function.py_func, args=args,
                                              return_type=None, flags=flags, locals={},
                                              library=_library(context, function.py_func.__name__))
                key = object()  # by which a call finds what to link
                context.insert_user_function(key, made.fndesc, [made.library])
                self.results[args] = made._replace(entry_point=key)
                self.signatures.append(made.signature)
        return self.results[args]

    def get_call_template(self, args, kws):
        """Numba's question, when it meets a call: which signatures are there?"""
        pysig, args = self.function._compiler.fold_argument_types(args, kws)
        self.result(tuple(args))
        name = self.function.py_func.__name__
        template = typing.make_concrete_template(f"CallTemplate({name})", key=name, signatures=self.signatures)
        return template, pysig, args, {}

    def get_overload(self, signature):
        return self.results[tuple(signature)].entry_point


def njit(function=None, **options):
    """numba.njit; see above. Results of `loop` in team.py are made of `function.parts.result(types).`"""
    if function is None:
        return lambda f: njit(f, **options)
    made = numba.njit(**options)(function)
    made.parts = parts = _Parts(made)
    made.get_call_template, made.get_overload = parts.get_call_template, parts.get_overload
    return made
