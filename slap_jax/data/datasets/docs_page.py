"""Generates the page of published datasets: `python -m slap_jax.data.datasets.docs_page > docs/datasets.md`."""

from collections.abc import Iterator

from slap_jax.data.collections.published import PublishedDataset
from slap_jax.data.datasets.registry import DATASETS

_HEAD = """\
<!-- Generated from slap_jax/data/datasets: `python -m slap_jax.data.datasets.docs_page > docs/datasets.md` -->

# Published datasets

`slap prepare --dataset NAME` reads a published dataset from a local folder, laid out as its publisher distributes it.
Nothing is downloaded, renamed or repacked. For all other data (your own clips, tars, tables) see
[collections.md](collections.md).

```
slap data check /data/clotho --dataset clotho                              # report what is missing or odd
slap prepare /data/clotho data/clotho --dataset clotho                     # write records, one split after another
slap prepare /data/clotho data/clotho --dataset clotho --option splits=evaluation
```

```python
config.data.train.clotho = source("data/clotho", "development")            # or "development+validation", or "all"
config.data.evaluation.clotho = source("data/clotho", "evaluation")
```

Run [`slap data check`](looking_at_data.md#slap-data-check) before you prepare a dataset.

**Labels.** Records of datasets without captions have labels only. The caption policy of a source turns labels into
captions during training (`captions={"tag_templates": ...}`, [configuration.md](configuration.md)). Labels have the
form `key=value`: `label=sea waves` is a class, `tag=...` a keyword from the uploader.

**Overlap.** The same recording in two datasets is not recognised, except within AudioCaps. AudioCaps, AudioSet,
VGGSound and WavCaps share YouTube videos; Clotho, ESC-50, FSD50K, TACOS, UrbanSound8K and WavCaps share sounds from
Freesound. Training and evaluation splits are compared by id and by audio, which does not find a recording in another
encoding. Use the exclusion lists of [`wavcaps`](#wavcaps), and do not train on the sources of your evaluation sets.
"""


def datasets_page() -> str:
    """Returns the text of docs/datasets.md."""
    return (
        "\n".join([_HEAD, *_overview(), *(line for dataset in DATASETS.values() for line in _section(dataset))]) + "\n"
    )


def _overview() -> Iterator[str]:
    yield "| name | clips | annotations | splits |"
    yield "| --- | --- | --- | --- |"
    for name, dataset in DATASETS.items():
        splits = list(dataset.expected)
        shown = ", ".join(splits) if len(splits) < 5 else f"{splits[0]} to {splits[-1]}"
        yield f"| [`{name}`](#{name}) | {dataset.content} | {dataset.annotations} | {shown} |"


def _section(dataset: type[PublishedDataset]) -> Iterator[str]:
    yield f"\n## `{dataset.name}`\n"
    yield f"{dataset.title}, <{dataset.homepage}>: {dataset.content}; {dataset.annotations}.\n"
    yield f"- Licence: {dataset.licence}."
    yield f"- Paper: {dataset.citation}.\n"
    yield f"```\n{dataset.layout}\n```\n"
    yield from _sizes(dataset)
    yield f"\nSizes: {dataset.size_source}.\n"
    yield dataset.notes
    if dataset.options:
        yield "\n| option | default | meaning |"
        yield "| --- | --- | --- |"
        for option, default in dataset.options.items():
            yield f"| `{option}` | `{default}` | {dataset.option_help[option]} |"


def _sizes(dataset: type[PublishedDataset]) -> Iterator[str]:
    sizes = dataset.expected.values()
    columns = {
        "split": list(dataset.expected),
        "clips": [f"{size.clips:,}" for size in sizes],
        "captions per clip": [str(size.captions) for size in sizes] if any(size.captions for size in sizes) else [],
        "hours": [f"{size.hours:,}" if size.hours else "" for size in sizes]
        if any(size.hours for size in sizes)
        else [],
    }
    columns = {title: cells for title, cells in columns.items() if cells}
    yield f"| {' | '.join(columns)} |"
    yield "| --- " * len(columns) + "|"
    for cells in zip(*columns.values(), strict=True):
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(datasets_page(), end="")
