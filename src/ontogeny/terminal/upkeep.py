"""store verify and store gc."""

from pathlib import Path

from ontogeny.canonical import plain
from ontogeny.lab.store import in_use
from ontogeny.terminal.output import console, print_json, table
from ontogeny.terminal.store import existing_store

UNITS = ("B", "kB", "MB", "GB", "TB")


def verify_store(root: Path, *, repair: bool, as_json: bool) -> bool:
    """Show what is wrong with a store; with ``repair`` move it aside. Returns whether all is well (by now).

    InputError for a repair while something is running.
    """
    from ontogeny.lab.verify import repair as move_aside
    from ontogeny.lab.verify import verify

    store = existing_store(root)
    with in_use(store, alone=repair):
        found = verify(store)
        moved = repair and bool(found.broken or found.left)
        if moved:
            move_aside(store, found)
    if as_json:
        print_json(plain(found) | {"moved": moved})
        return moved or not found.broken
    rows = [("broken", str(one.path), one.what) for one in found.broken]
    rows += [("left over", str(one.path), one.what) for one in found.left]
    if rows:
        console().print(table(str(root), ("state", "path", "what"), rows))
    counts = ", ".join(f"{number} {name}" for name, number in found.counts.items() if number)
    console().print(f"{root}: {counts or 'nothing in it'}; {len(found.broken)} broken", highlight=False)
    if moved:
        console().print(f"moved to {root / 'broken'}; a rerun makes what is missing", highlight=False)
    return moved or not found.broken


def collect_garbage(root: Path, *, dry_run: bool) -> None:
    """Remove what no declaration refers to, or list it. InputError while something is running."""
    from ontogeny.lab.garbage import remove, size, unreferred

    store = existing_store(root)
    with in_use(store, alone=not dry_run):
        paths = unreferred(store)
        freed = sum(map(size, paths))
        if not dry_run:
            remove(store, paths)
    for path in paths:
        print(path.relative_to(store.root))
    verb = "would be removed" if dry_run else "removed"
    print(f"{root}: {len(paths)} {verb}, {in_bytes(freed)} freed")


def in_bytes(count: int | float) -> str:
    """A number of bytes, shortened: 1.2 MB."""
    for unit in UNITS:
        if count < 1000 or unit == UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
