"""Datasets on Hugging Face: a parquet dataset file by file, any other as a stream of rows.

A parquet file is opened where it lies and read row group by row group, the text column alone; nothing of it is kept. If the line breaks,
the file is opened again and reading goes on at the row where it stopped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from daybreak.data import parquet
from daybreak.data.documents import Document, SourceProblem, Unit, one_line, without_surrogates

BLOCK_BYTES = 16_000_000
"""Asked for in one request at least: a terabyte in blocks of the usual 5 MB runs into the limits on requests."""
ATTEMPTS = 6
"""How often in a row reading may fail, at the same row, before it gives up."""
PAUSE = 2.0
"""Seconds after the first failure; each further pause is twice as long."""


def dataset_units(source: str, text_field: str) -> list[Unit]:
    """The units of `hf:NAME[:CONFIG[:SPLIT]]` at the newest revision. Raises SourceProblem."""
    parts = source.removeprefix("hf:").split(":")
    if not parts[0] or len(parts) > 3:
        raise SourceProblem(
            f"{source}: wanted hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT, such as hf:HuggingFaceFW/fineweb-edu:sample-10BT"
        )
    name, config, split = (*parts, "", "")[:3]
    split = split or "train"
    datasets, revision = _library(source), _revision(source, name)
    try:
        builder = datasets.load_dataset_builder(name, config or None, revision=revision or None)
        files = [str(file) for file in (builder.config.data_files or {}).get(split, ())]
    except Exception as error:  # each has its own class for a network, a permission, a name
        raise _cannot_be_opened(source, error) from None
    if files and all(file.endswith(".parquet") for file in files):
        return _parquet_units(source, files, revision, text_field)
    return _stream_units(source, ":".join((name, config, split)), revision, text_field)


def _library(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise _not_installed(source) from None
    return datasets


def _not_installed(source: str) -> SourceProblem:
    return SourceProblem(f"{source}: reading from Hugging Face needs the package datasets; install it with: pip install 'daybreak[hf]'")


def _revision(source: str, name: str) -> str:
    try:
        import huggingface_hub

        return str(huggingface_hub.HfApi().dataset_info(name).sha or "")
    except ImportError:
        raise _not_installed(source) from None
    except Exception as error:
        raise SourceProblem(f"{source}: cannot be reached ({one_line(error)}); check the name and the network") from None


def _cannot_be_opened(name: str, error: Exception) -> SourceProblem:
    return SourceProblem(f"{name}: cannot be opened ({one_line(error)}); check name, configuration and split")


# --- parquet files ---


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec.core

    return fsspec.core.url_to_fs(address)  # type: ignore[no-any-return]


def _parquet_units(source: str, files: list[str], revision: str, text_field: str) -> list[Unit]:
    """One unit for each file, in the dataset's order, with its size; one request for each folder of them."""
    try:
        places = [_file_system(file) for file in files]
        sizes = {}
        for folder in dict.fromkeys(str(PurePosixPath(path).parent) for _, path in places):
            sizes.update({entry["name"]: entry["size"] for entry in places[0][0].ls(folder, detail=True)})
        found = [
            Unit(
                "hub",
                file,
                f"{source}: {PurePosixPath(path).name}",
                int(sizes.get(path) or system.info(path)["size"]),
                revision,
                text_field,
            )
            for file, (system, path) in zip(files, places, strict=True)
        ]
        import pyarrow.parquet

        with places[0][0].open(places[0][1]) as file:
            columns = pyarrow.parquet.read_schema(file).names
    except Exception as error:
        raise _cannot_be_opened(source, error) from None
    if text_field not in columns:
        raise SourceProblem(parquet.no_column(Unit("hub", "", source, text_field=text_field), columns))
    return found


def read_parquet(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    """The documents of a piece of a parquet file elsewhere. Raises SourceProblem after ATTEMPTS failures at the same row."""
    row = 0
    failures = 0
    while True:
        try:
            system, path = _file_system(unit.path)
            with system.open(path, block_size=BLOCK_BYTES) as file:
                for text in parquet.texts(file, unit, row):
                    row += 1
                    failures = 0
                    if text is None:
                        skips["no text field"] += 1
                    else:
                        yield Document(text, f"{unit.name}:{unit.shard}:{row - 1}")
            return
        except SourceProblem:
            raise
        except Exception as error:  # what the library, the network or pyarrow raise has no common class
            failures += 1
            if failures == ATTEMPTS:
                raise SourceProblem(
                    f"{unit.name}: reading stopped at row {row:,} after {ATTEMPTS} attempts ({one_line(error)}); run again to continue: "
                    "what is done is kept"
                ) from None
            time.sleep(PAUSE * 2 ** (failures - 1))


# --- any other kind, as rows ---


def _open_stream(unit: Unit) -> Any:
    """The unit's whole dataset as a stream of rows, at its revision."""
    datasets = _library(unit.name)
    name, config, split = unit.path.split(":")
    try:
        return datasets.load_dataset(name, config or None, split=split, streaming=True, revision=unit.stamp or None)
    except Exception as error:
        raise _cannot_be_opened(unit.name, error) from None


def _stream_units(source: str, path: str, revision: str, text_field: str) -> list[Unit]:
    data = _open_stream(Unit("hf", path, source, stamp=revision, text_field=text_field))
    columns = data.column_names
    if columns is not None and text_field not in columns:
        raise SourceProblem(parquet.no_column(Unit("hf", path, source, text_field=text_field), columns))
    info = (data.info.splits or {}).get(path.split(":")[2]) if data.info else None
    size = int(getattr(info, "num_bytes", 0) or 0)
    shards = max(1, int(data.n_shards))
    return [Unit("hf", path, source, size // shards, revision, text_field, True, shard, shards) for shard in range(shards)]


def read_stream(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    """The documents of one shard of a dataset that is not parquet. The library itself tries again when the line breaks."""
    data = _open_stream(unit)
    if unit.shards > 1:
        data = data.shard(num_shards=unit.shards, index=unit.shard)
    rows = iter(data)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # what the library or the network raises has no common class
            raise SourceProblem(f"{unit.name}: reading stopped at row {number:,} ({one_line(error)}); run again to continue") from None
        text = row.get(unit.text_field)
        if isinstance(text, str):
            mended = without_surrogates(text)
            if mended is not None:
                skips["repaired"] += 1
            yield Document(text if mended is None else mended, f"{unit.name}:{unit.shard}:{number}")
        else:
            skips["no text field"] += 1
        number += 1


READERS: dict[str, Callable[[Unit, Counter[str]], Iterator[Document]]] = {"hub": read_parquet, "hf": read_stream}
