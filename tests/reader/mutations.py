"""Damage to an output: of the kinds that disks and networks make, and of the kinds that a hostile author would."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from predecode.transforms.manifest import manifest_bytes

Undo = Callable[[], None]

NUMBERS = (0, 1, -1, 2, 7, 255, 1 << 16, 1 << 31, (1 << 40) + 1, (1 << 63) - 1, -(1 << 63), 10**30, 0.5, 1e308)
WORDS = ("", "json", "x" * 3000, "../../../etc/passwd", "/dev/zero", "\x1b]0;x\x07", "\ud800", "\0", "float64", "O")
KINDS = ("bit", "bits", "bytes", "zeros", "cut", "insert", "remove", "repeat", "other", "gone")
DEEP: Any = json.loads("[" * 900 + "]" * 900)


def damage(output: Path, generator: np.random.Generator) -> tuple[Undo, str]:
    """Damages one file of an output: bits, bytes, cuts, insertions, another file in its place, no file.

    Returns:
        What makes it good again, and what was done.
    """
    files = sorted(path for path in output.rglob("*") if path.is_file())
    # Small files as often as tars, which are most of the bytes and have one checksum each.
    path = files[generator.integers(len(files))]
    content = path.read_bytes()
    kind = str(generator.choice(KINDS))
    start, stop = sorted(generator.integers(0, len(content) + 1, 2).tolist())
    run = content[start : min(stop, start + int(generator.integers(1, 2000)))]
    if kind == "gone":
        changed = None
    elif kind in ("bit", "bits"):
        changed = _flipped(content, generator, 1 if kind == "bit" else 20)
    elif kind == "other":
        others = [other for other in files if other.suffix == path.suffix]
        changed = others[generator.integers(len(others))].read_bytes()
    else:
        changed = {
            "bytes": content[:start] + generator.bytes(len(run)) + content[start + len(run) :],
            "zeros": content[:start] + bytes(len(run)) + content[start + len(run) :],
            "cut": content[:start],
            "insert": content[:start] + generator.bytes(int(generator.integers(1, 600))) + content[start:],
            "remove": content[:start] + content[start + len(run) :],
            "repeat": content[:start] + run + content[start:],
        }[kind]
    aside = output.parent / "aside"
    path.rename(aside)
    if changed is not None:
        path.write_bytes(changed)

    def undo() -> None:
        aside.replace(path)

    return undo, f"{kind} of {path.relative_to(output)} from {start}"


def _flipped(content: bytes, generator: np.random.Generator, count: int) -> bytes:
    changed = bytearray(content)
    for place in generator.integers(0, max(1, len(content)), count if content else 0).tolist():
        changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def damage_with_sense(output: Path, generator: np.random.Generator) -> tuple[Undo, str]:
    """Changes what an output says, and all checksums with it, so that they fit.

    Returns:
        What makes it good again, and what was done.
    """
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file() and path.suffix != ".tar"}
    tar_sizes = {path: path.stat().st_size for path in output.rglob("*.tar")}

    def put_anew() -> None:
        for path, content in before.items():
            path.unlink(missing_ok=True)  # A reader that was left in the middle may have it mapped: SIGBUS.
            path.write_bytes(content)

    def undo() -> None:
        put_anew()
        for path, size_bytes in tar_sizes.items():
            with path.open("r+b") as file:
                file.truncate(size_bytes)

    put_anew()  # What follows writes in place.
    kinds = (_change_json, _change_table, _change_parquet, _change_member, _change_member)
    what = kinds[generator.integers(len(kinds))](output, generator)
    seal(output)
    return undo, what


def _change_json(output: Path, generator: np.random.Generator) -> str:
    name = str(generator.choice(["manifest.json", "manifest.json", "plan.json", "meta/info.json", "meta/stats.json"]))
    value, what = changed_json(json.loads((output / name).read_text()), generator)
    (output / name).write_text(json.dumps(value))
    return f"{name}: {what}"


def changed_json(value: Any, generator: np.random.Generator) -> tuple[Any, str]:
    """Puts something else somewhere in a JSON value, in place."""
    path: list[str] = []
    here, parent, key = value, cast(Any, None), cast(Any, None)
    while isinstance(here, dict | list) and here and (parent is None or generator.random() < 0.8):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        parent, key = here, keys[generator.integers(len(keys))]
        path.append(str(key))
        here = parent[key]
    other = any_value(generator, here)
    if parent is None:
        return other, "all of it"
    if generator.random() < 0.1:
        del parent[key]
        return value, f"{'.'.join(path)} gone"
    if generator.random() < 0.1 and isinstance(parent, dict):
        parent[str(any_word(generator))] = parent.pop(key)
        return value, f"{'.'.join(path)} renamed"
    parent[key] = other
    return value, f"{'.'.join(path)} = {str(other)[:60]}"


def any_word(generator: np.random.Generator) -> str:
    return WORDS[generator.integers(len(WORDS))]


def any_value(generator: np.random.Generator, old: Any) -> Any:
    """Something of the same type, half of the time, or of another."""
    kind = generator.integers(8)
    if kind < 4 and isinstance(old, str):
        return any_word(generator)
    if kind < 4 and isinstance(old, list):
        return [old * 3, old[::-1], old[1:], [*old, *old[:1]], old * 3000][generator.integers(5)]
    if kind < 6:
        return NUMBERS[generator.integers(len(NUMBERS))]
    return (None, True, [], {}, any_word(generator), DEEP, [old], {"x": old})[generator.integers(8)]


def _change_table(output: Path, generator: np.random.Generator) -> str:
    tables = sorted(output.glob("train/*.arrow"))
    path = tables[generator.integers(len(tables))]
    table, what = changed_table(pa.ipc.open_file(path.read_bytes()).read_all(), generator)
    path.write_bytes(table_bytes(table))
    return f"{path.name}: {what}"


def _change_parquet(output: Path, generator: np.random.Generator) -> str:
    paths = sorted(output.glob("meta/**/*.parquet"))
    path = paths[generator.integers(len(paths))]
    if generator.random() < 0.4:
        content = path.read_bytes()
        path.write_bytes(_flipped(content, generator, 3))
        return f"{path.name}: bits"
    table, what = changed_table(pq.read_table(path), generator)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    path.write_bytes(sink.getvalue())
    return f"{path.name}: {what}"


def table_bytes(table: pa.Table) -> bytes:
    """An Arrow IPC file."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def changed_table(table: pa.Table, generator: np.random.Generator) -> tuple[pa.Table, str]:
    """Changes a value, a type, the rows or the columns of a table."""
    place = int(generator.integers(table.num_columns))
    name, values = table.column_names[place], table.column(place).to_pylist()
    if generator.random() < 0.6 and values:
        return _changed_value(table, place, values, generator)
    as_text = table.set_column(place, name, pa.array([str(value) for value in values]))
    changes = {
        f"no {name}": table.drop_columns([name]),
        "rows gone": table.slice(int(generator.integers(1, 3))),
        "rows doubled": pa.concat_tables([table, table]),
        f"{name} as text": as_text,
    }
    what = str(generator.choice(list(changes)))
    return changes[what], what


def _changed_value(
    table: pa.Table, place: int, values: list[Any], generator: np.random.Generator
) -> tuple[pa.Table, str]:
    row = int(generator.integers(len(values)))
    old = values[row]
    if isinstance(old, list) and old and generator.random() < 0.8:
        within = int(generator.integers(len(old)))
        values[row] = [*old[:within], any_value(generator, old[within]), *old[within + 1 :]]
    else:
        values[row] = any_value(generator, old)
    field = table.schema.field(place)
    try:
        other = pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, TypeError, ValueError, RecursionError):
        return table, "nothing"
    return table.set_column(place, field, other), f"{field.name}[{row}] = {str(values[row])[:60]}"


def _change_member(output: Path, generator: np.random.Generator) -> str:
    """Gives a member of a sample another content, at the end of the tar, where the index points to then."""
    paths = sorted(output.glob("train/*.index.arrow"))
    path = paths[generator.integers(len(paths))]
    tar = path.with_name(path.name.replace(".index.arrow", ".tar"))
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    if not table.num_rows:
        return "nothing"
    members = [name.removesuffix("/offset") for name in table.column_names if name.endswith("/offset")]
    member, row = str(generator.choice(members)), int(generator.integers(table.num_rows))
    rows = table.to_pylist()
    start, size_bytes = rows[row][f"{member}/offset"], rows[row][f"{member}/size"]
    whole = tar.read_bytes()
    content, what = changed_member(whole[start : start + size_bytes], member, generator)
    rows[row] |= {f"{member}/offset": len(whole), f"{member}/size": len(content)}
    if f"{member}/frame_offset" in rows[row]:
        offsets = rows[row][f"{member}/frame_offset"]
        rows[row][f"{member}/frame_offset"] = [*(min(offset, len(content)) for offset in offsets[:-1]), len(content)]
    with tar.open("ab") as file:
        file.write(content + bytes(-len(content) % 512))
    path.write_bytes(table_bytes(pa.Table.from_pylist(rows, table.schema)))
    return f"{member} of {tar.name}, sample {row}: {what}"


def changed_member(content: bytes, member: str, generator: np.random.Generator) -> tuple[bytes, str]:
    if generator.random() < 0.3:
        return _flipped(content, generator, 5), "bits"
    if member == "json":
        value, what = changed_json(json.loads(content), generator)
        return json.dumps(value).encode(), what
    if member == "data.safetensors":
        (length,) = struct.unpack_from("<Q", content)
        header, what = changed_json(json.loads(content[8 : 8 + length]), generator)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :], what
    place = int(generator.integers(min(len(content), 200)))
    return content[:place] + generator.bytes(int(generator.integers(1, 9))) + content[place + 4 :], f"bytes at {place}"


def seal(output: Path) -> None:
    """Makes all checksums fit what is there, as far as that can be understood; sizes too."""
    for path in output.glob("train/*.index.arrow"):
        _seal_index(path)
    shards = output / "train/shards.arrow"
    try:
        table = pa.ipc.open_file(shards.read_bytes()).read_all()
        rows = table.to_pylist()
        for number, row in enumerate(rows):
            for kind in ("tar", "index"):
                content = (output / f"train/shard-{number:05d}.{kind.replace('index', 'index.arrow')}").read_bytes()
                sealed = {f"{kind}_bytes": len(content), f"{kind}_sha256": hashlib.sha256(content).hexdigest()}
                row |= {name: value for name, value in sealed.items() if name in row}
        shards.write_bytes(table_bytes(pa.Table.from_pylist(rows, table.schema)))
    except (pa.ArrowException, OSError, TypeError):
        pass
    manifest = json.loads((output / "manifest.json").read_text())
    try:
        for name in manifest["files"]:
            content = (output / name).read_bytes()
            manifest["files"][name] |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    except (KeyError, TypeError, OSError, ValueError):
        pass
    try:
        plan = json.loads((output / "plan.json").read_text())
        plan.pop("digest", None)
        seal_plan(output, plan, manifest)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        pass
    try:
        manifest.pop("digest", None)
        (output / "manifest.json").write_bytes(manifest_bytes(manifest))
    except (AttributeError, TypeError, ValueError, RecursionError):
        pass


def seal_plan(output: Path, plan: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Gives a plan its digest, and the manifest that of the plan."""
    from predecode.transforms.hashing import digest

    found = digest(plan)
    (output / "plan.json").write_text(json.dumps({**plan, "digest": found}))
    manifest["plan"] = found


def _seal_index(path: Path) -> None:
    whole = path.with_name(path.name.replace(".index.arrow", ".tar")).read_bytes()
    try:
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        rows = table.to_pylist()
        for row in rows:
            for name in [name.removesuffix("/xxh3") for name in row if name.endswith("/xxh3")]:
                start = row[f"{name}/offset"]
                row[f"{name}/xxh3"] = xxhash.xxh3_64_intdigest(whole[start : start + row[f"{name}/size"]])
                offsets = row.get(f"{name}/frame_offset")
                if offsets:
                    row[f"{name}/frame_xxh3"] = [
                        xxhash.xxh3_64_intdigest(whole[start + one : start + other])
                        for one, other in itertools.pairwise(offsets)
                    ]
        path.write_bytes(table_bytes(pa.Table.from_pylist(rows, table.schema)))
    except (pa.ArrowException, KeyError, TypeError, ValueError, OverflowError, IndexError):
        pass
