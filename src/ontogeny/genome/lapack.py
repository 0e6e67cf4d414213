"""Gram matrices and some of their eigenvectors, by SciPy's own BLAS and LAPACK; other threads run meanwhile.

SciPy publishes these routines for callers in C. Its Python functions hold the interpreter's lock.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import cython_blas, cython_lapack

Array = np.ndarray[Any, np.dtype[np.float64]]


def gram(A: Array) -> Array:
    """A Aᵀ, float64; only its diagonal and upper triangle are there (``dsyrk``)."""
    n, m = A.shape
    G, one, zero = np.zeros((n, n)), np.ones(1), np.zeros(1)
    rows = A.flags.c_contiguous  # to Fortran a matrix stored by rows is its transpose
    A = A if rows or A.flags.f_contiguous else np.asfortranarray(A)
    _call("dsyrk", b"L", b"T" if rows else b"N", n, m, one, A, m if rows else n, zero, G, n)
    return G


def eigenpairs(G: Array, low: int, high: int) -> tuple[Array, Array]:
    """Eigenvalues [low, high), ascending, and their eigenvectors as columns, of what ``gram`` returns (overwritten).

    Tridiagonal form, the wanted eigenvectors of that by multiple relatively robust representations (Dhillon & Parlett
    2004), and back. LAPACK's ``dsyevr``, where not all are wanted, takes bisection and inverse iteration, which cost
    half as much again. Raises LinAlgError where LAPACK gives up.
    """
    n, count = len(G), high - low
    diagonal, beside, reflectors = np.empty(n), np.empty(n), np.empty(n)
    values, vectors, support = np.empty(n), np.empty((count, n)), np.empty(2 * count, np.int32)
    work, integers = np.empty(64 * n), np.empty(10 * n, np.int32)  # 18 n at least; the rest is for blocks of 64
    found, info, bound = np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1)
    _call("dsytrd", b"L", n, G, n, diagonal, beside, reflectors, work, len(work), info)
    wanted = (b"V", b"I", n, diagonal, beside, bound, bound, low + 1, high)
    result = (found, values, vectors, n, count, support)
    _call("dstemr", *wanted, *result, 1, work, len(work), integers, len(integers), info)
    if info[0] or found[0] != count:
        raise np.linalg.LinAlgError(f"LAPACK's dstemr found {found[0]} of {count} eigenvectors (info {info[0]})")
    _call("dormtr", b"L", b"L", b"N", n, count, G, n, reflectors, vectors, n, work, len(work), info)
    return values[:count], vectors.T


def _call(name: str, *arguments: Any) -> None:
    """Call a routine with text, whole numbers and arrays; Fortran takes every argument by address."""
    numbers = [np.array([a], np.int32) if isinstance(a, int) else a for a in arguments]
    _routine(name, len(numbers))(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in numbers))


@cache
def _routine(name: str, count: int) -> Callable[..., None]:
    """The address that SciPy publishes, as a function of this many pointers."""
    module = cython_blas if name in cython_blas.__pyx_capi__ else cython_lapack
    capsule = ctypes.py_object(module.__pyx_capi__[name])
    named, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    named.restype, pointer.restype = ctypes.c_char_p, ctypes.c_void_p
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count)(pointer(capsule, ctypes.c_char_p(named(capsule))))
