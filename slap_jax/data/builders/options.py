"""Options of named data sets that choose parts: "train+val"."""

from collections.abc import Mapping, Sequence

from slap_jax.data.builders.published import Expected, LayoutError, PublishedDataset

NOTHING = "none"


def chosen(dataset: PublishedDataset, option: str, known: Sequence[str]) -> tuple[str, ...]:
    """Returns the parts that an option names.

    Args:
        dataset: with the option set to names joined by "+", or to "none".
        option: its name.
        known: names that may be given; the result is in this order.

    Raises:
        LayoutError: another name.
    """
    names = [name.strip() for name in str(dataset.settings[option]).split("+")]
    names = [] if names == [NOTHING] else names
    for name in names:
        if name not in known:
            raise LayoutError(
                f"option {option} of {dataset.name} names {name!r}; expected some of {', '.join(known)} joined by '+', "
                f"or {NOTHING}"
            )
    return tuple(name for name in known if name in names)


def chosen_splits(dataset: PublishedDataset) -> Mapping[str, Expected]:
    """Returns the expected splits that are read: all, or those that the option `splits` names where there is one."""
    if "splits" not in dataset.options:
        return dataset.expected
    return {split: dataset.expected[split] for split in chosen(dataset, "splits", tuple(dataset.expected))}
