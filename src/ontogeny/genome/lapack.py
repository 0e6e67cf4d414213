"""All eigenvalues and some eigenvectors of a symmetric matrix, by SciPy's own LAPACK; other threads run meanwhile.

SciPy publishes these routines for callers in C. Its Python functions hold the interpreter's lock.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import cython_lapack

Array = np.ndarray[Any, np.dtype[np.float64]]


def eigenpairs(G: Array, low: int, high: int) -> tuple[Array, Array]:
    """All eigenvalues, ascending, and the eigenvectors [low, high) as columns, of a symmetric matrix
    (overwritten).

    Tridiagonal form (``dsytrd``), its eigenvalues by QL (``dsterf``), the wanted eigenvectors by inverse iteration
    (``dstein``), and back (``dormtr``). LAPACK's ``dsyevr``, where not all are wanted, finds eigenvalues by bisection,
    which takes twice as long. Raises LinAlgError where an iteration doesn't converge.
    """
    n, count = len(G), high - low
    diagonal, beside, reflectors, work = np.empty(n), np.empty(n), np.empty(n), np.empty(64 * n)
    vectors, integers, failed, info = np.empty((count, n)), *(np.zeros(size, np.int32) for size in (n, count, 1))
    _call("dsytrd", b"U", n, G, n, diagonal, beside, reflectors, work, len(work), info)
    values = diagonal.copy()
    _call("dsterf", n, values, beside.copy(), info)
    if not info[0]:
        block, end = np.ones(n, np.int32), np.full(n, n, np.int32)  # one block, that ends at the end
        wanted = (count, values[low:high].copy(), block, end)
        _call("dstein", n, diagonal, beside, *wanted, vectors, n, work, integers, failed, info)
    if info[0]:
        raise np.linalg.LinAlgError(f"{info[0]} eigenvalues or eigenvectors did not converge")
    _call("dormtr", b"L", b"U", b"N", n, count, G, n, reflectors, vectors, n, work, len(work), info)
    return values, vectors.T


def _call(name: str, *arguments: Any) -> None:
    """Call a routine with text, whole numbers and arrays; Fortran takes every argument by address."""
    numbers = [np.array([a], np.int32) if isinstance(a, int) else a for a in arguments]
    _routine(name, len(numbers))(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in numbers))


@cache
def _routine(name: str, count: int) -> Callable[..., None]:
    """The address that SciPy publishes, as a function of this many pointers."""
    capsule = ctypes.py_object(cython_lapack.__pyx_capi__[name])
    named, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    named.restype, pointer.restype = ctypes.c_char_p, ctypes.c_void_p
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count)(pointer(capsule, ctypes.c_char_p(named(capsule))))
